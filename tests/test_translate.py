"""Chromatin told from RNA and back through the command line, by a model trained a little on paired and unpaired cells."""

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from commands import run, translation

from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.inference.model import load
from mofm.inference.targets import find_targets
from mofm.inference.translate import MOST_NATS, translate_cells
from mofm.omics.readers import Reading

SMALL = Path(__file__).parent.parent / "configs" / "small.py"
CELLS = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cells.h5mu, a corpus of it and of unpaired cells, and a model trained a little on both."""
    folder = tmp_path_factory.mktemp("two_omics")
    few = ("--cells", CELLS, "--genes", "60", "--tfs", "8", "--cell-types", "2", "--modalities", "rna", "atac")
    run("simulate", folder / "cells.h5mu", *few)
    run("simulate", folder / "apart.h5mu", *few, "--unpaired", "--seed", "1")
    run("ingest", folder / "cells.h5mu", folder / "corpus")
    run("ingest", "--unpaired", folder / "apart.h5mu", folder / "corpus")
    overrides = {
        **{"data.corpus": folder / "corpus", "data.batch_size": 24, "data.tokens": 32, "data.quota_multiple": 8},
        **{"encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 8},
        **{
            "encoder.private_width": 2,
            "translator.blocks": 1,
            "objectives.cycle_weight": 0,
            "objectives.drift_weight": 0,
        },
        **{"run.steps": 6, "run.eval_every": 0, "run.checkpoint_every": 6, "data.holdout_fraction": 0.2},
    }
    words = [f"--config.{key}={value}" for key, value in overrides.items()]
    run("train", "--config", SMALL, "--workdir", folder / "run", "--quiet", *words)
    return folder


@pytest.mark.parametrize(("source", "target"), [("rna", "atac"), ("atac", "rna")])
def test_both_ways(folder, tmp_path, source, target):
    run("translate", *translation(folder, tmp_path, source, target))
    told = ad.read_h5ad(tmp_path / "told.h5ad")
    features = open_corpus(folder / "corpus").features
    assert list(told.var["feature_id"]) == list(features["id"][features["modality"] == target])
    mean, deviation = np.asarray(told.X), np.asarray(told.layers["sd"])
    assert np.isfinite(mean).all()
    assert (mean >= 0).all()
    assert (deviation > 0).all()
    assert mean.max() <= (np.inf if target == "rna" else 1)
    assert mean.std(axis=0).max() > 0  # it depends on the cell


def test_a_cell_is_told_at_the_depth_that_its_source_foretells(folder, tmp_path):
    """The pairs of RNA and ATAC are enough to foretell a depth; a model that never saw any says so."""
    words = translation(folder, tmp_path, "rna", "atac")
    run("translate", *words)
    plain = ad.read_h5ad(tmp_path / "told.h5ad")
    run("translate", *words, "--depth", "predicted", "--overwrite")
    told = ad.read_h5ad(tmp_path / "told.h5ad")
    assert (plain.uns["mofm"]["depth"], told.uns["mofm"]["depth"]) == ("median", "predicted")
    (median,) = plain.obs["mofm_depth"].unique()
    change_N = np.log(told.obs["mofm_depth"] / median)
    assert 0.01 < change_N.std() < 1
    assert np.abs(change_N).max() <= MOST_NATS + 1e-6
    lower = change_N.to_numpy() < 0
    assert (
        np.asarray(told.X)[lower] < np.asarray(plain.X)[lower]
    ).all()  # a shallower cell has less chance to be seen open
    assert (np.asarray(told.X)[~lower] >= np.asarray(plain.X)[~lower]).all()
    model = load(folder / "run")
    targets = replace(find_targets(model, "atac", depth="predicted"), depth_linear={})
    with pytest.raises(InputError, match="cannot predict the depth of atac from rna"):
        translate_cells(model, folder / "cells.h5mu", targets, Reading("rna"), quiet=True)


def test_a_cell_is_told_the_same_in_any_batch_and_feature_in_any_company(folder, tmp_path):
    run("translate", *translation(folder, tmp_path, "rna", "atac"))
    whole = ad.read_h5ad(tmp_path / "told.h5ad")
    peaks = whole.var["feature_id"].str.removeprefix("GRCh38_")[5:12]
    (tmp_path / "peaks.bed").write_text("".join("\t".join(p.replace(":", "-").split("-")) + "\n" for p in peaks))
    some = translation(folder, tmp_path, "rna", "atac")
    options = ("--features", tmp_path / "peaks.bed", "--features-build", "hg38", "--batch-size", "17", "--overwrite")
    run("translate", *some, *options)
    few = ad.read_h5ad(tmp_path / "told.h5ad")
    assert few.var["trained"].all()
    np.testing.assert_allclose(few.X, whole.X[:, 5:12], rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(few.layers["sd"], whole.layers["sd"][:, 5:12], rtol=2e-4, atol=1e-6)


def test_peaks_never_seen_are_told_and_what_speaks_of_no_gene_is_named(folder, tmp_path, capsys):
    trained = open_corpus(folder / "corpus").features["id"].str.removeprefix("GRCh38_")
    chrom, start, _ = next(p for p in trained if p.startswith("chr")).replace(":", "-").split("-")
    (tmp_path / "peaks.bed").write_text(f"{chrom}\t{int(start) + 7}\t{int(start) + 307}\n" + "chr1\t10\t20\n")
    options = ("--features", tmp_path / "peaks.bed", "--features-build", "GRCh38")
    run("translate", *translation(folder, tmp_path, "rna", "atac"), *options)
    told = ad.read_h5ad(tmp_path / "told.h5ad")
    assert told.n_vars == 1
    assert not told.var["trained"].any()
    assert ((told.X > 0) & (told.X < 1)).all()
    printed = capsys.readouterr().out
    assert "1 of the peaks were in no training data" in printed
    assert "left out: 1 peaks that speak of no gene" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "adt"], "never saw adt"),
        (["--to", "rna", "--modality", "atac", "--features", "names.txt"], "speaks of any gene of the model"),
        (["--to", "rna", "--modality", "atac", "--features", "empty.txt"], "holds no names of genes"),
        (["--to", "rna", "--modality", "atac", "--features", "nowhere.txt"], "cannot be read"),
    ],
)
def test_what_cannot_be_translated_is_refused(folder, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("NOGENE1\nNOGENE2\n")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    assert main(["translate", str(folder / "run"), str(folder / "cells.h5mu"), "told.h5ad", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "told.h5ad").exists()
