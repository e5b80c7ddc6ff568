"""A model finetuned on cells with other genes and peaks: its step 0 is the model, it resumes to the bit, and it embeds,
translates and is exported as any other run."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import jax
import mudata
import numpy as np
import pandas as pd
import pytest
from commands import run
from runs import asked_to_stop_after

from mofm.batches.spaces import corpus_spaces
from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.export.parts import read_parts
from mofm.inference.model import load
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics
from mofm.training import loop

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parent.parent / "configs"
CELLS, GENES = 160, 60
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""Rows in another order: sums over genes and edges are taken in another order."""


class Made(NamedTuple):
    """A folder with the files and corpora of cells, the model that all begin from, and the words of its finetuning."""

    folder: Path
    model: Path
    words: list[str]


def write(path, rna, atac) -> None:
    mudata.MuData({"rna": rna.copy(), "atac": atac.copy()}).write_h5mu(path)


def overrides(values) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """Pretrained on half of the cells and all but 8 genes; the other half has 40 genes in another order, 8 of them new,
    and peaks of which some are new. All zeros are shown: which of them are drawn depends on the order of the rows."""
    folder = tmp_path_factory.mktemp("finetune")
    cells = SimulationConfig(cells=CELLS, genes=GENES, tfs=8, cell_types=2, seed=3)
    omics = simulate_multiomics(MultiomicsConfig(cells=cells), ("rna", "atac"))
    rna, atac = omics["rna"], omics["atac"]
    grn, names = rna.varp["grn"].tocoo(), rna.var_names
    edges = pd.DataFrame({"tf": names[grn.row], "target": names[grn.col], "sign": np.sign(grn.data).astype(int)})
    edges[edges["tf"] != edges["target"]].to_csv(folder / "truth.tsv", sep="\t", index=False)
    rng, first, rest = np.random.default_rng(0), slice(0, CELLS // 2), slice(CELLS // 2, CELLS)
    write(folder / "old.h5mu", rna[first, :52], atac[first])
    run("ingest", folder / "old.h5mu", folder / "old")
    known = set(corpus_spaces(open_corpus(folder / "old"))[0]["id"])
    mine = rna[rest, rng.permutation(np.r_[10:42, 52:60])].copy()
    strange = [gene for gene in gene_table("human").gene_ids[::500] if gene not in known][:8]
    is_new = np.isin(mine.var_names, rna.var_names[52:])
    mine.var_names = [strange.pop() if new else name for name, new in zip(mine.var_names, is_new, strict=True)]
    mine.var = mine.var[[]]
    peaks = atac[rest, rng.permutation(atac.n_vars)[: atac.n_vars // 2]].copy()
    starts = peaks.var["start"].to_numpy() + 40 * (np.arange(peaks.n_vars) % 3 == 0)
    peaks.var_names = [
        f"{chrom}:{start}-{end}" for chrom, start, end in zip(peaks.var["chrom"], starts, peaks.var["end"], strict=True)
    ]
    peaks.var = peaks.var[[]]
    write(folder / "mine.h5mu", mine, peaks)
    run("ingest", folder / "mine.h5mu", folder / "mine", "--build", "GRCh38")
    mine.write_h5ad(folder / "rna.h5ad")
    mine[:, ~is_new].copy().write_h5ad(folder / "known.h5ad")
    run("ingest", folder / "rna.h5ad", folder / "rna_alone")
    size = {
        **{"encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 8},
        **{"encoder.modality_blocks": 1, "encoder.region_rows": 32, "translator.blocks": 1},
        **{"network.tables": [str(folder / "truth.tsv")], "grn.width": 8, "grn.heads": 2},
        **{"objectives.cycle_weight": 0, "objectives.drift_weight": 0, "objectives.links_per_step": 16},
    }
    few = {
        "data.batch_size": 16,
        "run.eval_every": 2,
        "run.eval_cells": 8,
        "run.checkpoint_every": 2,
        "run.log_every": 1,
    }
    old = (
        size
        | few
        | {
            "data.corpus": folder / "old",
            "data.tokens": 32,
            "data.expressed_fraction": 0.2,
            "data.holdout_fraction": 0.2,
            "run.steps": 4,
        }
    )
    small = ("--config", CONFIGS / "small.py", "--workdir", folder / "pretrained", "--quiet")
    run("train", *small, *overrides(old | {"optimizer.learning_rate": 1e-2, "optimizer.warmup_steps": 1}))
    new = few | {"data.corpus": folder / "mine", "run.steps": 6, "optimizer.warmup_steps": 2, "run.keep_latest": 9}
    words = ["--config", str(CONFIGS / "finetune.py"), *overrides(new)]
    return Made(folder, folder / "pretrained", words)


@pytest.fixture(scope="module")
def tuned(made) -> Path:
    """The workdir of the whole run. Leave its files as they are."""
    run("finetune", made.model, *made.words, "--workdir", made.folder / "tuned", "--quiet")
    return made.folder / "tuned"


@pytest.mark.parametrize(("file", "modality"), [("old.h5mu", "rna"), ("old.h5mu", "atac"), ("known.h5ad", "rna")])
def test_step_0_embeds_cells_of_known_genes_as_the_model(made, tuned, file, modality):
    of_model, of_run = load(made.model), load(tuned, step=0)
    assert of_run.genes["id"].tolist() != of_model.genes["id"].tolist()
    assert set(of_run.genes["id"]) > set(of_model.genes["id"])
    ours, theirs = (one.embed(made.folder / file, Reading(modality), quiet=True) for one in (of_run, of_model))
    np.testing.assert_allclose(ours.embedding_NE, theirs.embedding_NE, **TOLERANCE)
    assert theirs.embedding_NE.std() > 0.1
    later = load(tuned, step="latest").embed(made.folder / file, Reading(modality), quiet=True)
    assert np.abs(later.embedding_NE - theirs.embedding_NE).max() > 1e-3


def test_step_0_predicts_the_known_as_the_model_and_training_goes_on_from_there(made, tuned):
    """The linear loadings and means of known features are the model's; the held-out loss begins where it left off."""
    ours, theirs = read_parts(tuned, 0), read_parts(made.model)
    for modality in ("rna", "atac"):
        names, known = ([*parts.features(modality)["id"]] for parts in (ours, theirs))
        both = [(names.index(name), known.index(name)) for name in names if name in known]
        assert len(names) > len(both) > len(names) / 2
        mine, old = map(list, zip(*both, strict=True))
        for direction, loading_FK in theirs.start.linear.items():
            if direction.target == modality:
                np.testing.assert_array_equal(ours.start.linear[direction][mine], loading_FK[old])
                assert np.abs(np.delete(ours.start.linear[direction][: len(names)], mine, axis=0)).max() > 0
        if modality == "atac":
            np.testing.assert_array_equal(
                ours.start.spaces["atac"].base_F[mine], theirs.start.spaces["atac"].base_F[old]
            )
    rows = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["heldout/loss"] for row in rows if "heldout/loss" in row}
    assert list(losses) == [0, 2, 4, 6]
    assert np.isfinite(list(losses.values())).all()


def test_it_embeds_translates_and_is_exported_as_any_other_run(made, tuned, tmp_path):
    run("embed", tuned, made.folder / "mine.h5mu", tmp_path / "embedded.h5mu")
    embedded = mudata.read_h5mu(tmp_path / "embedded.h5mu")
    assert embedded.obsm["X_mofm"].shape == (CELLS // 2, 8)
    assert np.isfinite(embedded.obsm["X_mofm"]).all()
    run("export", tuned, tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    best = read_parts(made.model)
    assert f"- was finetuned from pretrained, step {best.step}, parameters {best.origin().digest[:12]}" in card
    for name, place in (("run", tuned), ("bundle", tmp_path / "bundle")):
        run("translate", place, made.folder / "rna.h5ad", tmp_path / f"{name}.h5ad", "--to", "atac")
    told, again = (ad.read_h5ad(tmp_path / f"{name}.h5ad").X for name in ("run", "bundle"))
    np.testing.assert_array_equal(told, again)
    assert told.shape[1] == mudata.read_h5mu(made.folder / "mine.h5mu")["atac"].n_vars
    assert np.isfinite(told).all()
    further = read_parts(tmp_path / "bundle").origin().record()
    assert (further["name"], further["from"]["name"]) == ("tuned", "pretrained")


def test_it_resumes_to_the_bit_from_the_run_or_its_bundle_and_from_no_other_model(
    made, tuned, tmp_path, monkeypatch, capsys
):
    words = [*made.words, "--workdir", str(tmp_path / "stopped"), "--quiet"]
    with asked_to_stop_after(3):
        assert main(["finetune", str(made.model), *words, "--stopped-code", "7"]) == 7
    run("export", made.model, tmp_path / "bundle")
    shutil.copytree(tmp_path / "stopped", tmp_path / "before")
    capsys.readouterr()
    other = "2" if read_parts(made.model).step != 2 else "4"
    assert main(["finetune", str(made.model), "--step", other, *words]) == 2
    assert f"not from pretrained of step {other}" in capsys.readouterr().err
    assert main(["train", *words]) == 2
    run("finetune", tmp_path / "bundle", *words)
    ours, theirs = (read_parts(place, "latest") for place in (tmp_path / "stopped", tuned))
    assert ours.step == theirs.step == 6
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    jax.tree.map(np.testing.assert_array_equal, ours.start, theirs.start)


def test_a_corpus_of_rna_alone_keeps_what_the_model_knows_of_chromatin(made, tmp_path):
    """Step 0 translates cells of known genes as the model does, to the model's own peaks, of which the corpus has none."""
    words = [*made.words, f"--config.data.corpus={made.folder / 'rna_alone'}", "--config.run.steps=2"]
    run("finetune", made.model, *words, "--workdir", tmp_path / "rna", "--quiet")
    for name, place, step in (("model", made.model, ()), ("run", tmp_path / "rna", ("--step", "0"))):
        known = made.folder / "known.h5ad"
        run("translate", place, known, tmp_path / f"{name}.h5ad", "--to", "atac", *step)
    theirs, ours = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("model", "run"))
    assert ours.var_names.equals(theirs.var_names)
    np.testing.assert_allclose(ours.X, theirs.X, **TOLERANCE)
    np.testing.assert_allclose(ours.layers["sd"], theirs.layers["sd"], **TOLERANCE)
    assert load(tmp_path / "rna").spec.modalities == ("rna", "atac")


def test_patience_ends_the_run_and_the_best_step_is_taken(made, tmp_path, monkeypatch, capsys):
    """Nothing better than step 0, MODEL itself: it ends after two evaluations, and stays ended."""
    losses = {0: 1.0, 2: 3.0, 4: 2.0}
    evaluate = loop._Run.evaluate

    def told(self, state, step):
        evaluate(self, state, step)
        self.losses[step] = losses[step]
        return losses[step]

    monkeypatch.setattr(loop._Run, "evaluate", told)
    monkeypatch.setattr(
        loop, "read_losses", lambda workdir, until, figure: {k: v for k, v in losses.items() if k <= until}
    )
    words = [
        "finetune",
        str(made.model),
        *made.words,
        "--config.run.patience=2",
        "--workdir",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main(words) == 0
    assert read_parts(tmp_path / "run").step == 0
    assert read_parts(tmp_path / "run", "latest").step == 4
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert main(words) == 0
    assert read_parts(tmp_path / "run", "latest").step == 4
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_what_cannot_be_is_refused_before_anything_is_written(made, capsys, tmp_path):
    place = ["--workdir", str(tmp_path / "run"), "--quiet"]
    for words, said in (
        (["--config.encoder.width=32"], "encoder.width is settled by the model pretrained"),
        (["--config.data.corpus=nowhere"], "nowhere"),
        (["--config.data.holdout_fraction=0"], "no cell is held out"),
    ):
        assert main(["finetune", str(made.model), *made.words, *words, *place]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
    assert main(["finetune", str(tmp_path), *made.words, *place]) == 2
    assert "neither a run nor a bundle" in capsys.readouterr().err
