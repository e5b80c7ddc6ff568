"""Training across two omics with every objective on: the same on one device as on eight, and every new weight learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.linear.translation import make_readers
from mofm.objectives.total import loss_weights
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.place import place_batch
from mofm.training.config import build_config, make_spec
from mofm.training.fit_start import fit_start
from mofm.training.optimizer import make_optimizer
from mofm.training.state import create_state
from mofm.training.step import Knowledge, Recipe, train_step

ALIGNMENT = {
    "contrast_weight": 0.3,
    "augment_weight": 0.1,
    "label_weight": 0.1,
    "structure_weight": 0.3,
    "batch_weight": 0.1,
    "depth_weight": 0.1,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """64 cells of RNA and ATAC, some paired in one file."""
    folder = tmp_path_factory.mktemp("two")
    cells = SimulationConfig(cells=64, genes=60, tfs=8, cell_types=2, seed=3)
    omics = simulate_multiomics(MultiomicsConfig(cells=cells), ("rna", "atac"))
    for adata in omics.values():
        adata.obs["donor"] = np.array(["a", "b"])[np.arange(64) % 2]
    write_mudata(to_mudata(omics), folder / "both.h5mu")
    ingest([folder / "both.h5mu"], folder / "corpus")
    return folder / "corpus"


def config_of(corpus, **more):
    data = {"corpus": str(corpus), "batch_size": 16, "tokens": 16, "block_cells": 8, "window_blocks": 4}
    encoder = {
        "width": 16,
        "blocks": 1,
        "modality_blocks": 1,
        "heads": 2,
        "ffn": 24,
        "cell_width": 8,
        "private_width": 2,
    }
    values = {
        "data": data | {"label_key": "cell_type", "batch_key": "donor"},
        "encoder": encoder | {"bins": 6, "compute_dtype": "float32"},
        "translator": {"blocks": 1, "shared": False},
        "fusion": {"blocks": 1},
        "objectives": {"alignment": ALIGNMENT},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
        "run": {"steps": 8},
    }
    return build_config({name: part | more.get(name, {}) for name, part in values.items()})


def run(config, mesh, steps=2):
    """(parameters at the start, parameters, metrics of each step)."""
    corpus = open_corpus(config.data.corpus)
    stream = Stream(corpus, config.data, config.seed)
    genes, spaces = corpus_spaces(corpus)
    spec = make_spec(config, len(genes), 0, corpus.modalities)
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    start = fit_start(corpus, stream, config, spec, spaces)
    state = create_state(spec, optimizer, mesh, config.seed, start)
    first, rows = jax.device_get(state.params), []
    recipe = Recipe(spec, config.objectives, optimizer, config.seed, stream.pairs, mesh)
    with jax.set_mesh(mesh):
        step = jax.jit(partial(train_step, recipe))
        readers = make_readers(corpus.modalities, start.spaces, start.basis)
        known = jax.tree.map(jnp.asarray, Knowledge(start.spaces, None, start.linear, readers))
        assert set(known.linear) == {("rna", "atac"), ("atac", "rna")}
        for number in range(steps):
            state, metrics = jax.block_until_ready(step(known, state, place_batch(stream.batch(number), mesh)))
            rows.append(jax.device_get(metrics))
    return first, jax.device_get(state.params), rows


@pytest.fixture(scope="module")
def alone(corpus):
    """What one device makes of it."""
    return run(config_of(corpus), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (4, 1, 2), (1, 4, 2), (2, 2, 2)])
def test_one_device_equals_eight(corpus, alone, shape):
    _, one, one_rows = alone
    _, eight, rows = run(config_of(corpus), make_mesh(MeshConfig(*shape)))
    for ours, theirs in zip(one_rows, rows, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(theirs[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
    close = [np.mean(np.abs(a - b) < 1e-3) for a, b in zip(*map(jax.tree.leaves, (one, eight)), strict=True)]
    assert min(close) > 0.97  # Adam takes a whole step on a gradient that is all rounding


@pytest.mark.slow
def test_every_part_learns(alone):
    first, one, one_rows = alone
    names = ("rna_to_atac/token_nll", "atac_to_rna/back_cell_nll", "rna_to_atac/drift", "rna+atac/contrast_loss")
    names += ("rna_with_atac/token_nll", "atac_with_rna/cell_nll", "rna/augment_loss", "rna+atac/structure_loss")
    assert {*names, "rna/batch_hsic", "atac/depth_hsic"} <= one_rows[0].keys()
    assert one_rows[0]["rna_to_atac/pairs"] == 16
    assert all(np.isfinite(list(row.values())).all() for row in one_rows)
    for part in ("translator", "fusion", "own_rna", "own_atac", "log_temperature"):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first[part], one[part])
        assert min(jax.tree.leaves(moved)) > 0 if part == "log_temperature" else max(jax.tree.leaves(moved)) > 0, part


@pytest.mark.slow
def test_the_loss_is_what_its_metrics_weigh(alone, corpus):
    row = alone[2][0]
    weights = loss_weights(config_of(corpus).objectives, row)
    assert len([name for name, weight in weights.items() if weight]) > 20
    assert sum(weight * row[name] for name, weight in weights.items()) == pytest.approx(row["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": {"label_key": None}}, "set data.label_key"),
        ({"data": {"batch_key": None}}, "set data.batch_key"),
        ({"objectives": {"alignment": {"cells": 1}}}, r"objectives\.alignment\.cells"),
        ({"objectives": {"alignment": {"contrast_weight": -1.0}}}, "contrast_weight"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(corpus, changed, said):
    with pytest.raises(InputError, match=said):
        make_spec(config_of(corpus, **changed), 60, 0, ("rna", "atac"))


def test_a_corpus_of_one_modality_has_nothing_to_translate_to_or_to_fuse(corpus):
    with pytest.raises(InputError, match="nothing to translate to"):
        make_spec(config_of(corpus), 60, 0, ("rna",))
    with pytest.raises(InputError, match=r"fusion\.blocks=1: .* rna alone, and there is nothing to fuse"):
        make_spec(config_of(corpus, translator={"blocks": 0}), 60, 0, ("rna",))


def test_objectives_that_are_off_are_no_part_of_a_run(corpus):
    none = {"translator": {"blocks": 0}, "fusion": {"blocks": 0}, "objectives": {"alignment": {}}}
    on, off = config_of(corpus), config_of(corpus, **none)
    weights = {"translation_weight", "cycle_weight", "drift_weight", "fusion_weight", "alignment"}
    assert weights <= on.science()["objectives"].keys()
    assert not weights & off.science()["objectives"].keys()
    assert {"translator", "fusion"} <= on.science().keys()
    assert not {"translator", "fusion"} & off.science().keys()
