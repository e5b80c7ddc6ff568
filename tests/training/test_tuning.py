"""Labels move the encoder, and nothing else does: adapters begin as the model to the bit and leave what is frozen as it was to
the bit; a step's gradient is that of finite differences; and what does not go together is refused."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from mofm.batch import CellBatch
from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.nn import model
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.nn.translator import TranslatorConfig
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.place import place_batch
from mofm.training.adapters import Adapter, adapter_axes, merged, product
from mofm.training.fit_start import fit_start
from mofm.training.loop import train
from mofm.training.optimizer import make_optimizer
from mofm.training.state import begin_tuning, create_state, state_shardings
from mofm.training.step import Knowledge, Recipe, train_step, training_loss
from mofm.training.tuning import KnownHead, TuningSpec, classes_of, load_heads, opened, save_heads
from mofm.training.tuning import trained as trained_part

FINETUNE = Path(__file__).parent.parent.parent / "configs" / "finetune.py"
RANK = 2


def named(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def parts(tiny):
    """(recipe, knowledge, batches, a function (rank, mesh) -> state of step 0)."""
    config = tiny("optimizer.learning_rate=1e-2", "data.label_key=cell_type", "objectives.supervised_weight=2")
    corpus = open_corpus(config.data.corpus)
    stream = Stream(corpus, config.data, config.seed)
    genes, spaces = corpus_spaces(corpus)
    spec = ModelSpec(config.encoder, len(genes))
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    start = fit_start(corpus, stream, config, spec, spaces)
    rng = np.random.default_rng(0)
    heads = {"rna": KnownHead(("a", "b"), rng.normal(size=(8, 2)).astype(np.float32), np.zeros(2, np.float32))}

    def begin(rank, mesh):
        state = create_state(spec, optimizer, mesh, 0, start)
        return begin_tuning(state, spec, optimizer, mesh, TuningSpec(rank, (("rna", 2),)), heads, 0)

    recipe = Recipe(spec, config.objectives, optimizer, config.seed)
    known = Knowledge(start.spaces, classes=classes_of(heads, stream))
    return recipe, known, [stream.batch(step) for step in range(4)], begin


JITTED = jax.jit(train_step, static_argnums=0)


def run(parts, rank, steps=4):
    """(state of step 0, state after some steps, metrics of each), on the host."""
    recipe, known, batches, begin = parts
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    first = state = begin(rank, mesh)
    rows = []
    with jax.set_mesh(mesh):
        for number in range(steps):
            state, metrics = JITTED(recipe, known, state, place_batch(batches[number % 4], mesh))
            rows.append(jax.device_get(metrics))
    return jax.device_get(first), jax.device_get(state), rows


def test_adapters_are_of_the_matrices_before_the_embedding_and_no_others():
    size = EncoderConfig(width=16, blocks=2, modality_blocks=1, heads=2, ffn=24, cell_width=8)
    spec = ModelSpec(size, 100, modalities=("rna", "atac"), translator=TranslatorConfig(1))
    found = named(
        jax.tree.map(lambda _: 0, adapter_axes(model.logical_axes(spec)), is_leaf=lambda a: type(a) is Adapter)
    )
    stacks = ("encoder", "own_rna", "own_atac")
    matrices = [("attention", name) for name in ("query", "key", "value", "out")] + [
        ("ffn", n) for n in ("gate", "up", "down")
    ]
    expected = {f"['{stack}']['blocks']['{part}']['{name}']" for stack in stacks for part, name in matrices}
    assert found.keys() == expected | {"['pool']['key']", "['pool']['value']", "['to_cell']"}


@pytest.mark.parametrize(
    ("shape", "cut", "plain", "thin", "wide"),
    [
        ((6, 2, 3), 1, "bd,dhk->bhk", "bd,dr->br", "br,rhk->bhk"),
        ((2, 3, 6), 2, "bhk,hkd->bd", "bhk,hkr->br", "br,rd->bd"),
        ((6, 9), 1, "bd,df->bf", "bd,dr->br", "br,rf->bf"),
    ],
)
@pytest.mark.parametrize("blocks", [(), (4,)])
def test_a_merged_matrix_does_what_matrix_and_adapter_do_apart(shape, cut, plain, thin, wide, blocks):
    rng = np.random.default_rng(0)
    base, down, up = (
        rng.normal(size=(*blocks, *some)).astype(np.float32)
        for some in (shape, (*shape[:cut], RANK), (RANK, *shape[cut:]))
    )
    whole = base + np.asarray(product(Adapter(down, up), base.shape))
    x = rng.normal(size=(5, *shape[:cut])).astype(np.float32)
    for block in range(*blocks or (1,)):
        of = [leaf[block] if blocks else leaf for leaf in (whole, base, down, up)]
        apart = np.einsum(plain, x, of[1]) + np.einsum(wide, np.einsum(thin, x, of[2]), of[3])
        np.testing.assert_allclose(np.einsum(plain, x, of[0]), apart, rtol=1e-4, atol=1e-4)


def test_with_fresh_adapters_it_is_the_model_to_the_bit(parts):
    recipe, _, batches, begin = parts
    one = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    state, plain = begin(RANK, one), begin(0, one).params
    assert all(leaf.up.any() == 0 and leaf.down.std() > 0.3 for leaf in leaves_of(state.tuning.adapters))
    jax.tree.map(np.testing.assert_array_equal, state.params, plain)
    params, _ = opened(state.params, state.tuning, trained_part(state.params, state.tuning))
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    genes = model.gene_states(recipe.spec, plain).rows_GD
    embed = jax.jit(partial(model.embed, recipe.spec), static_argnums=3)
    np.testing.assert_array_equal(*(embed(some, genes, batches[0].rna, "rna") for some in (params, plain)))


def test_what_is_frozen_does_not_move_by_a_bit_and_adapters_do(parts):
    first, last, _ = run(parts, RANK)
    before, after = named(first.params), named(last.params)
    adapted = named(first.tuning.base).keys()
    assert len(adapted) == 7 + 3
    for name in before:
        assert np.array_equal(before[name], after[name]) == (name not in adapted), name
    jax.tree.map(np.testing.assert_array_equal, first.tuning.base, last.tuning.base)
    assert np.abs(last.tuning.heads["rna"].weight_EC - first.tuning.heads["rna"].weight_EC).max() > 1e-3
    remade = merged(first.params, last.tuning.base, last.tuning.adapters)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), remade, last.params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(last.opt_state)}
    assert shapes <= {(), *(leaf.shape for leaf in jax.tree.leaves((last.tuning.adapters, last.tuning.heads)))}


@pytest.mark.slow
def test_full_tuning_moves_everything_and_without_labels_the_head_stays(parts):
    recipe, known, batches, begin = parts
    first, last, _ = run(parts, 0)
    moved = {name for name, leaf in named(first.params).items() if not np.array_equal(leaf, named(last.params)[name])}
    assert {"['genes']['table']", "['to_cell']", "['pool']['query']", "['tokenizer']['value_shift']"} < moved
    silent = [CellBatch(batch.rna._replace(label_B=np.full_like(batch.rna.label_B, -1))) for batch in batches]
    _, unheard, _ = run((recipe, known, silent, begin), 0)
    jax.tree.map(np.testing.assert_array_equal, unheard.tuning.heads, first.tuning.heads)
    plain = replace(recipe, objectives=replace(recipe.objectives, supervised_weight=0.0))
    _, alone, _ = run((plain, known, silent, begin), 0)
    jax.tree.map(np.testing.assert_array_equal, unheard.params, alone.params)


@pytest.mark.parametrize("rank", [0, RANK])
def test_labels_are_told_better_by_training(parts, rank):
    _, _, rows = run(parts, rank, steps=40)
    told = [np.mean([row["rna/label_nll"] for row in some]) for some in (rows[:4], rows[-4:])]
    assert told[1] < 0.5 * told[0]


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences_through_the_encoder(parts):
    recipe, known, batches, begin = parts
    alone = replace(recipe.objectives, token_weight=0.0, cell_weight=0.0, pool_weight=0.0)
    recipe = replace(recipe, objectives=alone)
    state = begin(RANK, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
    rng = np.random.default_rng(0)
    at = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32),
        trained_part(state.params, state.tuning),
    )

    @jax.jit
    def losses(moved, known, batch):
        params, tuning = opened(state.params, state.tuning, moved)
        return training_loss(recipe, known, params, batch, jax.random.key(0), 0, tuning.heads)[0]

    loss = partial(losses, known=known, batch=batches[0])
    slope = jax.grad(loss)(at)
    norm = optax.tree.norm(slope)
    ahead, behind = (jax.tree.map(lambda x, g, by=by: x + by * g / norm, at, slope) for by in (1e-2, -1e-2))
    assert float(norm) > 0.01
    assert (float(loss(ahead)) - float(loss(behind))) / 2e-2 == pytest.approx(float(norm), rel=0.02)


def test_each_part_of_an_adapter_lies_where_its_matrix_does(parts):
    recipe, *_ = parts
    tuned = TuningSpec(RANK, (("rna", 2),))
    places = state_shardings(recipe.spec, recipe.optimizer, make_mesh(MeshConfig(2, 2, 2)), tuned)
    (adapter, base) = (
        tree["encoder"]["blocks"]["ffn"]["gate"] for tree in (places.tuning.adapters, places.tuning.base)
    )
    assert tuple(base.spec) == (None, "fsdp", "tensor")
    assert tuple(adapter.down.spec) == (None, "fsdp", None)
    assert tuple(adapter.up.spec) == (None, None, "tensor")
    moments = jax.tree.leaves(places.opt_state)
    assert len(moments) > 2 * len(jax.tree.leaves((places.tuning.adapters, places.tuning.heads)))
    assert len(moments) < 2 * len(jax.tree.leaves(places.params))
    with pytest.raises(InputError, match="does not divide the model's 'heads' axis"):
        state_shardings(recipe.spec, recipe.optimizer, make_mesh(MeshConfig(1, 1, 8)), tuned)


def test_labels_that_a_head_does_not_tell_change_neither_its_classes_nor_their_weights():
    """Such as one that held-out cells alone have; numbers of labels are others then, and classes are not."""
    heads = {"rna": KnownHead(("b", "d"), np.ones((3, 2), np.float32), np.zeros(2, np.float32))}

    class Counted(NamedTuple):
        labels: tuple
        counts: tuple

        def label_counts(self, modality):
            return np.array(self.counts)

    few = classes_of(heads, Counted(("b", "c", "d"), (30, 5, 10)))["rna"]
    more = classes_of(heads, Counted(("a", "b", "c", "d", "e"), (0, 30, 5, 10, 0)))["rna"]
    assert few.class_of_label.tolist() == [0, -1, 1, -1]
    assert more.class_of_label.tolist() == [-1, 0, -1, 1, -1, -1]
    np.testing.assert_array_equal(few.weight_C, more.weight_C)
    np.testing.assert_allclose(few.weight_C * [30, 10], 20)


def test_heads_come_back_as_they_were(tmp_path):
    assert load_heads(tmp_path) is None
    heads = {"rna": KnownHead(("a", "b é"), np.ones((3, 2), np.float32), np.zeros(2, np.float32))}
    save_heads(tmp_path, heads)
    (found,) = load_heads(tmp_path).items()
    assert found[0] == "rna"
    assert found[1].names == heads["rna"].names
    np.testing.assert_array_equal(found[1].weight_EC, heads["rna"].weight_EC)


def leaves_of(adapters):
    return jax.tree.leaves(adapters, is_leaf=lambda leaf: isinstance(leaf, Adapter))


@pytest.mark.parametrize(
    ("tune", "more", "said"),
    [
        ("probe", ["--config.objectives.supervised_weight=1"], "needs --tune lora or full"),
        ("full", ["--config.objectives.supervised_weight=0"], "leaves the labels unheard"),
        ("full", ["--config.adapters.rank=4"], "needs --tune lora"),
        ("lora", ["--config.adapters.rank=0"], "give --tune full"),
        ("full", ["--config.data.label_key=batch"], "--task names the column 'cell_type'"),
        ("full", ["--config.optimizer.accumulate=2"], "set optimizer.accumulate=1"),
        ("full", ["--config.data.holdout_groups={'batch': ['three']}"], "no cell has 'three' in 'batch'"),
    ],
)
def test_what_does_not_go_together_is_refused(trained, tmp_path, capsys, tune, more, said):
    words = ["--config", str(FINETUNE), f"--config.data.corpus={trained.corpus}", "--config.data.holdout_fraction=0.4"]
    words += ["--task", "annotation:cell_type", "--tune", tune, "--workdir", str(tmp_path / "run"), *more]
    assert main(["finetune", str(trained.workdir), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tuning_needs_labels_and_a_model(trained, tiny, tmp_path, capsys):
    assert main(["finetune", str(trained.workdir), "--config", str(FINETUNE), "--workdir", "w", "--tune", "lora"]) == 2
    assert "--tune lora: which labels?" in capsys.readouterr().err
    for override in ("objectives.supervised_weight=1", "adapters.rank=2"):
        with pytest.raises(InputError, match="with `mofm finetune MODEL --task"):
            train(tiny(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()
