"""The gradient of a batch in parts is that of the batch, whatever a part has of it; what cannot be cut is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import some_edges
from runs import final_state, lines_told

from mofm.batch import CellBatch
from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata
from mofm.parallel.mesh import MeshConfig, check_batch, check_views, make_mesh
from mofm.parallel.place import place_batch
from mofm.training.accumulate import cut
from mofm.training.config import build_config, make_spec
from mofm.training.fit_start import fit_start
from mofm.training.loop import train
from mofm.training.network import RunNetwork
from mofm.training.state import create_state
from mofm.training.step import Knowledge, Recipe, accumulated_gradient, training_loss

pytestmark = pytest.mark.slow


def make_parts(config, edges=None):
    """(recipe, known, parameters, batch) of a config, with a network of these edges."""
    corpus = open_corpus(config.data.corpus)
    stream = Stream(corpus, config.data, config.seed)
    genes, spaces = corpus_spaces(corpus)
    spec = make_spec(config, len(genes), 0 if edges is None else 2, corpus.modalities)
    start = fit_start(corpus, stream, config, spec, spaces)
    graph = None if edges is None else RunNetwork(edges.assign(split="train"), ("one", "two")).graph(spec.genes, 512)
    known = jax.tree.map(jnp.asarray, Knowledge(start.spaces, graph))
    recipe = Recipe(spec, config.objectives, None, config.seed, stream.pairs)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = create_state(spec, optax.sgd(0.0), mesh, config.seed, start).params
    # At the start many weights are 0, and gradients with them: some noise lets every path speak.
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda leaf: leaf + 0.02 * jax.random.normal(next(keys), leaf.shape), params)
    return recipe, known, jax.device_get(params), stream.batch(0)


@jax.jit
def _largest(tree):
    return jnp.max(jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]))


def gradient(recipe, known, params, batch, count):
    recipe = Recipe(
        *[getattr(recipe, name) for name in ("spec", "objectives", "optimizer", "seed", "pairs", "mesh")], count
    )
    whole = jax.grad(partial(training_loss, recipe), argnums=1, has_aux=True)
    program = whole if count == 1 else partial(accumulated_gradient, recipe)
    return jax.device_get(jax.jit(program)(known, params, batch, jax.random.key(7), 3))


def assert_same_gradient(parts, count):
    (ours, metrics), (whole, expected) = (gradient(*parts, n) for n in (count, 1))
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    scale = float(_largest(whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6 * scale), ours, whole)
    assert np.mean([np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(whole)]) > 0.5  # the others are of other omics


@pytest.fixture(scope="module")
def one(tiny):
    return make_parts(tiny())


def test_parts_weigh_as_many_tokens_as_they_have(one):
    """A quarter of the cells are padding, and others are short: means of parts are not their mean."""
    recipe, known, params, batch = one
    mask_BL = batch.rna.mask_BL.copy()
    mask_BL[:4] = False
    mask_BL[4:7, 3:] = False
    batch = CellBatch(rna=batch.rna._replace(mask_BL=mask_BL))
    assert_same_gradient((recipe, known, params, batch), 4)
    hidden = recipe.objectives.hidden_tokens(batch, jax.random.key(7))
    tokens_N, cells_N = (np.asarray(shares["rna"]) for shares in cut(batch, hidden, 4, None)[2:])
    assert tokens_N[0] == cells_N[0] == 0  # a part without a token adds nothing
    assert len(set(tokens_N)) == 4
    np.testing.assert_allclose([tokens_N.sum(), cells_N.sum()], 1, rtol=1e-6)


def test_links_and_the_network_count_once(tiny):
    config = tiny("grn.width=8", "grn.heads=2", "objectives.links_per_step=32", "objectives.link_weight=3.0")
    parts = make_parts(config, some_edges())
    assert_same_gradient(parts, 4)
    whole, metrics = gradient(*parts, 1)
    assert metrics["link_nll"] > 0
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(whole["links"]))


def test_several_omics_are_cut_each_in_its_rows(tmp_path):
    cells = SimulationConfig(cells=64, genes=60, tfs=8, cell_types=2, seed=3)
    write_mudata(to_mudata(simulate_multiomics(MultiomicsConfig(cells=cells), ("rna", "atac"))), tmp_path / "both.h5mu")
    ingest([tmp_path / "both.h5mu"], tmp_path / "corpus")
    data = {"corpus": str(tmp_path / "corpus"), "batch_size": 16, "tokens": 16, "block_cells": 8, "window_blocks": 4}
    encoder = {"width": 16, "blocks": 1, "modality_blocks": 1, "heads": 2, "ffn": 24, "cell_width": 8, "bins": 6}
    parts = make_parts(build_config({"data": data, "encoder": encoder | {"compute_dtype": "float32"}}))
    assert {"rna", "atac"} == {name for name, view in parts[-1]._asdict().items() if view is not None}
    assert_same_gradient(parts, 2)


def test_eight_devices_cut_their_own_rows(one):
    recipe, known, params, batch = one
    mesh = make_mesh(MeshConfig(4, 2, 1))
    meshed = Recipe(recipe.spec, recipe.objectives, None, recipe.seed, recipe.pairs, mesh)
    with jax.set_mesh(mesh):
        ours, metrics = gradient(meshed, known, params, place_batch(batch, mesh), 2)
    whole, expected = gradient(recipe, known, params, batch, 1)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-5)
    scale = float(_largest(whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5 * scale), ours, whole)


def test_less_is_kept_for_the_backward_pass(tiny):
    """What the compiler sets aside beside arguments and results."""
    recipe, known, params, batch = make_parts(tiny("data.batch_size=64", "encoder.blocks=4"))

    def temporaries(count):
        recipe_of = Recipe(recipe.spec, recipe.objectives, None, recipe.seed, (), None, count)
        whole = jax.grad(partial(training_loss, recipe_of), argnums=1, has_aux=True)
        program = whole if count == 1 else partial(accumulated_gradient, recipe_of)
        compiled = jax.jit(program).lower(known, params, batch, jax.random.key(7), 3).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.5 * temporaries(1)


def test_a_run_in_parts_is_the_same_each_time(tiny, tmp_path):
    config = tiny(
        "run.steps=4", "run.eval_every=0", "mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2", "optimizer.accumulate=2"
    )
    for name in ("one", "again"):
        assert train(config, tmp_path / name, quiet=True) == 4
    jax.tree.map(np.testing.assert_array_equal, *(final_state(config, tmp_path / name) for name in ("one", "again")))
    assert lines_told(tmp_path / "one") == lines_told(tmp_path / "again")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("translator.blocks=1", "translator.blocks=1 compares cells of a whole batch"),
        ("fusion.blocks=1", "fusion.blocks=1 compares cells of a whole batch"),
        ("objectives.alignment.contrast_weight=0.1", "alignment.contrast_weight=0.1 compares"),
        ("objectives.alignment.depth_weight=0.1", "alignment.depth_weight=0.1 compares"),
    ],
)
def test_what_is_of_a_whole_batch_is_refused(tiny, tmp_path, override, said):
    with pytest.raises(InputError, match=said):
        train(tiny("optimizer.accumulate=2", override), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"optimizer\.accumulate=0: must be at least 1"):
        tiny("optimizer.accumulate=0")


def test_rows_that_cannot_be_cut_are_refused():
    mesh = make_mesh(MeshConfig(4, 2, 1))
    check_batch(mesh, 32, 4)
    check_views(mesh, {"rna": 32, "atac": 64}, 4)
    with pytest.raises(InputError, match=r"8 devices in optimizer.accumulate=4 parts: use 32 or 64"):
        check_batch(mesh, 40, 4)
    with pytest.raises(
        InputError, match=r"40 rows of atac.* 8 devices in optimizer.accumulate=4 parts.*quota_multiple=32"
    ):
        check_views(mesh, {"rna": 32, "atac": 40}, 4)
