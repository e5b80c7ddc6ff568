"""The train step: one device or eight, jit or none, the same numbers; every leaf where its rule says."""

from functools import partial

import jax
import numpy as np
import pytest

from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.nn.spec import ModelSpec
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.place import place_batch
from mofm.parallel.rules import RULES
from mofm.training.fit_start import fit_start
from mofm.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from mofm.training.state import create_state, state_shardings
from mofm.training.step import Knowledge, Recipe, eval_step, train_step, training_loss


@pytest.fixture
def parts(tiny):
    config = tiny("optimizer.learning_rate=1e-3")
    corpus = open_corpus(config.data.corpus)
    stream = Stream(corpus, config.data, config.seed)
    genes, spaces = corpus_spaces(corpus)
    spec = ModelSpec(config.encoder, len(genes))
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    batches = [stream.batch(step) for step in range(4)]
    start = fit_start(corpus, stream, config, spec, spaces)
    return Recipe(spec, config.objectives, optimizer, config.seed), start, batches


JITTED = jax.jit(train_step, static_argnums=0)
"""One for all tests: a recipe is compiled once for each mesh."""


def run(parts, mesh_config, devices=None):
    """(state, metrics of each step) after the batches, on a mesh."""
    recipe, start, batches = parts
    mesh = make_mesh(mesh_config, devices)
    state = create_state(recipe.spec, recipe.optimizer, mesh, recipe.seed, start)
    rows = []
    with jax.set_mesh(mesh):
        step = partial(JITTED, recipe, Knowledge(start.spaces))
        for batch in batches:
            state, metrics = step(state, place_batch(batch, mesh))
            rows.append(jax.device_get(metrics))
    return jax.device_get(state), rows


def assert_same(ours, theirs, rtol, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


@pytest.mark.parametrize(
    "shape", [*(pytest.param(some, marks=pytest.mark.slow) for some in ((8, 1, 1), (1, 8, 1))), (2, 2, 2)]
)
def test_one_device_equals_eight(parts, shape):
    one_state, one_rows = run(parts, MeshConfig(1, 1, 1), jax.devices()[:1])
    state, rows = run(parts, MeshConfig(*shape))
    for ours, theirs in zip(one_rows, rows, strict=True):
        assert_same(ours, theirs, rtol=2e-4, atol=1e-5)
    # Adam takes a step of full size on a gradient that is all rounding: a handful of weights may differ by a few steps.
    ours, theirs = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.params)]) for s in (one_state, state))
    assert np.mean(np.abs(ours - theirs) > 3e-3) < 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.05)


def test_a_mesh_that_cannot_divide_the_model_is_refused(parts):
    recipe, _, _ = parts
    with pytest.raises(InputError, match=r"mesh\.tensor=8 does not divide the model's 'heads' axis of 2"):
        state_shardings(recipe.spec, recipe.optimizer, make_mesh(MeshConfig(1, 1, 8)))


def test_jit_equals_no_jit(parts):
    recipe, start, batches = parts
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = create_state(recipe.spec, recipe.optimizer, mesh, recipe.seed, start).params
    of = (recipe, Knowledge(start.spaces), params, batches[0], jax.random.key(0), 0)
    _, jitted = jax.jit(training_loss, static_argnums=0)(*of)
    with jax.disable_jit():
        _, plain = training_loss(*of)
    assert_same(jax.device_get(jitted), jax.device_get(plain), rtol=1e-4, atol=1e-5)


def test_a_run_is_a_function_of_its_seed(parts):
    one, again = (run(parts, MeshConfig(1, 1, 1), jax.devices()[:1])[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, again)


def test_moments_lie_as_their_parameters_and_nothing_large_is_replicated(parts):
    recipe, start, _ = parts
    mesh = make_mesh(MeshConfig(1, 4, 2))
    state = create_state(recipe.spec, recipe.optimizer, mesh, recipe.seed, start)
    expected = state_shardings(recipe.spec, recipe.optimizer, mesh)
    jax.tree.map(
        lambda leaf, place: leaf.sharding.is_equivalent_to(place, leaf.ndim) or pytest.fail(str(place)), state, expected
    )
    shardings = [leaf.sharding.spec for leaf in jax.tree.leaves(state.params)]
    moments = [leaf.sharding.spec for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert moments == shardings * 2
    whole = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim >= 2 and leaf.sharding.is_fully_replicated]
    assert all(np.prod(shape) < 100 for shape in whole), whole  # the gains of normalisations, and no matrix
    assert "tensor" in RULES.values()


def test_training_beats_the_mean_predictor_on_what_it_trains_on(parts):
    recipe, start, batches = parts
    recipe = Recipe(recipe.spec, recipe.objectives, make_optimizer(OptimizerConfig(1e-2, warmup_steps=5), 150), 0)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    state = create_state(recipe.spec, recipe.optimizer, mesh, 0, start)
    evaluate = jax.jit(partial(eval_step, recipe, start.null, Knowledge(start.spaces)))
    first = evaluate(state.params, batches[0], np.int32(0))
    for answer in ("rna/cell_nll", "rna/token_nll"):  # it starts as the mean predictor
        assert float(first[answer]) == pytest.approx(float(first["rna/null_nll"]), rel=1e-5)
    step = jax.jit(partial(train_step, recipe, Knowledge(start.spaces)))
    for index in range(150):
        state, _ = step(state, batches[index % 4])
    end = evaluate(state.params, batches[0], np.int32(0))
    assert float(end["rna/cell_nll"]) < float(end["rna/null_nll"]) - 0.02
    assert float(end["rna/token_nll"]) < float(end["rna/null_nll"]) - 0.02
    assert float(end["rna/null_nll"]) == pytest.approx(float(first["rna/null_nll"]), rel=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_schedules_warm_up_peak_and_end(schedule):
    config = OptimizerConfig(1e-3, schedule, warmup_steps=10, final_share=0.1)
    rate = make_schedule(config, 100)
    assert float(rate(0)) == 0.0
    assert float(rate(10)) == pytest.approx(1e-3)
    assert float(rate(100)) == pytest.approx(1e-4, rel=1e-3)
    if schedule == "wsd":
        assert float(rate(79)) == pytest.approx(1e-3)
        assert float(rate(90)) == pytest.approx(5.5e-4)
