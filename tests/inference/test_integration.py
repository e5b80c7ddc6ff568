"""Directions of an embedding in which batches differ: found where cells of one kind are apart, not where batches hold other
kinds; a run begins without them."""

from pathlib import Path

import numpy as np
import pytest

from mofm.cli import main
from mofm.inference.integration import axes_of
from mofm.inference.model import load
from mofm.omics.readers import Reading
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata
from mofm.training.off_batches import load_batch_axes, without

CONFIGS = Path(__file__).parent.parent.parent / "configs"
WIDTH = 12


def cells_of(rng, kinds_of_batches, shift):
    """(embedding_NE, batch_N): kinds lie apart in the first columns, batches in the last."""
    rows, numbers = [], []
    for batch, kinds in enumerate(kinds_of_batches):
        for kind in kinds:
            x_NE = rng.normal(size=(80, WIDTH))
            x_NE[:, kind] += 12
            x_NE[:, -1] += batch * shift
            rows.append(x_NE)
            numbers.append(np.full(80, batch, np.int32))
    return np.concatenate(rows).astype(np.float32), np.concatenate(numbers)


def test_the_shift_between_cells_of_one_kind_is_found(rng):
    (axis_E,) = axes_of([cells_of(rng, [(0, 1, 2), (0, 1, 2)], shift=6.0)])
    assert abs(axis_E[-1]) > 0.99
    assert np.linalg.norm(axis_E) == pytest.approx(1, abs=1e-5)


def test_a_kind_that_a_batch_lacks_is_no_batch_effect(rng):
    (axis_E,) = axes_of([cells_of(rng, [(0, 1, 2), (0, 1)], shift=6.0)])
    assert abs(axis_E[-1]) > 0.99
    assert abs(axis_E[2]) < 0.1


def test_without_an_effect_nothing_is_taken_out_and_unknown_batches_take_no_part(rng):
    x_NE, batch_N = cells_of(rng, [(0, 1, 2), (0, 1, 2)], shift=6.0)
    assert axes_of([cells_of(rng, [(0, 1, 2), (0, 1, 2)], shift=0.0)]).shape == (0, WIDTH)
    assert axes_of([(x_NE, np.full_like(batch_N, -1))]).shape == (0, WIDTH)


def test_of_two_modalities_the_directions_of_both_are_taken_out(rng):
    one, other = (cells_of(rng, [(0, 1), (0, 1)], shift=6.0) for _ in range(2))
    turned = (np.ascontiguousarray(np.roll(other[0], -3, axis=1)), other[1])
    axes_RE = axes_of([one, turned])
    assert axes_RE.shape == (2, WIDTH)
    np.testing.assert_allclose(axes_RE @ axes_RE.T, np.eye(2), atol=1e-5)
    for x_NE, batch_N in (one, turned):
        left_NE = without(x_NE, axes_RE)
        gap = left_NE[batch_N == 0].mean(axis=0) - left_NE[batch_N == 1].mean(axis=0)
        assert np.abs(gap).max() < 1.0  # it was 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def words_of(model, corpus, place, column, *more):
    words = ["finetune", str(model), "--config", str(CONFIGS / "finetune.py"), f"--config.data.corpus={corpus}"]
    words += ["--config.data.batch_size=16", "--task", f"integration:{column}", "--workdir", str(place)]
    return [*words, *more]


def test_a_run_begins_without_them(trained, make_cells, tmp_path, capsys):
    cells = make_cells(240, seed=4)
    lane_N = np.arange(240) % 2
    counts = cells.X.toarray()
    counts[lane_N == 1, :40] = counts[lane_N == 1, :40] * 5 + 2  # technique alone: genes of no type are read more
    cells.X = counts
    cells.obs["lane"] = np.array(["one", "two"])[lane_N]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["ingest", str(tmp_path / "cells.h5ad"), str(tmp_path / "corpus")]) == 0
    capsys.readouterr()
    words = words_of(trained.workdir, tmp_path / "corpus", tmp_path / "run", "lane")
    assert main([*words, "--tune", "lora"]) == 2
    assert "batches do not move the encoder" in capsys.readouterr().err
    assert main([*words, "--tune", "probe", "--config.data.batch_key=donor"]) == 2
    assert "data.batch_key=donor: --task names the column 'lane'; leave data.batch_key out" in capsys.readouterr().err
    assert main([*words, "--tune", "probe"]) == 0
    assert "lane: the embedding begins without 1 of its 8 directions" in capsys.readouterr().err
    axes_RE = load_batch_axes(tmp_path / "run")
    before, after = (
        load(run).embed(tmp_path / "cells.h5ad", quiet=True).embedding_NE for run in (trained.workdir, tmp_path / "run")
    )
    np.testing.assert_allclose(after, without(before, axes_RE), atol=2e-5)
    gap_of = lambda x_NE: np.linalg.norm(x_NE[lane_N == 0].mean(axis=0) - x_NE[lane_N == 1].mean(axis=0))  # noqa: E731
    assert gap_of(after) < 0.5 * gap_of(before)
    assert len(after) == len(lane_N)


@pytest.mark.slow
def test_a_model_of_two_modalities_begins_without_them(tmp_path, capsys):
    cells = SimulationConfig(cells=240, genes=80, tfs=8, cell_types=2, batches=2, batch_effect=1.0, seed=3)
    write_mudata(to_mudata(simulate_multiomics(MultiomicsConfig(cells=cells), ("rna", "adt"))), tmp_path / "both.h5mu")
    assert main(["ingest", str(tmp_path / "both.h5mu"), str(tmp_path / "corpus")]) == 0
    small = {
        **{"data.corpus": tmp_path / "corpus", "data.batch_size": 16, "data.tokens": 32, "data.holdout_fraction": 0.0},
        **{"encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 8},
        **{"run.steps": 1, "run.eval_every": 1, "run.checkpoint_every": 1, "encoder.compute_dtype": "float32"},
    }
    words = [f"--config.{key}={value}" for key, value in small.items()]
    assert main(["train", "--config", str(CONFIGS / "small.py"), "--workdir", str(tmp_path / "model"), *words]) == 0
    capsys.readouterr()
    words = words_of(tmp_path / "model", tmp_path / "corpus", tmp_path / "run", "batch", "--tune", "probe")
    assert main(words) == 0
    told = capsys.readouterr().err
    axes_RE = load_batch_axes(tmp_path / "run")
    assert len(axes_RE)
    assert f"batch: the embedding begins without {len(axes_RE)} of its 8 directions" in told
    for modality in ("rna", "adt"):
        before, after = (
            load(tmp_path / run).embed(tmp_path / "both.h5mu", Reading(modality), quiet=True).embedding_NE
            for run in ("model", "run")
        )
        np.testing.assert_allclose(after, without(before, axes_RE), atol=2e-5)
