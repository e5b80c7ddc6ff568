"""Four omics through the command line and one model: simulated, ingested, trained on together, embedded, paired or not,
with regions of two genome builds."""

from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest

from mofm.batches.spaces import corpus_spaces
from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.inference.model import load
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics

SMALL = Path(__file__).parent.parent / "configs" / "small.py"
OMICS = ("rna", "atac", "adt", "methylation")
CELLS = 90


def run(*words) -> None:
    command = [str(word) for word in words]
    assert main(command) == 0, command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cells.h5mu, a corpus of it, of unpaired cells and of peaks of an older build, and a model trained a little on all."""
    folder = tmp_path_factory.mktemp("omics")
    few = ("--cells", CELLS, "--genes", "60", "--tfs", "8", "--cell-types", "2", "--modalities", *OMICS)
    run("simulate", folder / "cells.h5mu", *few)
    run("simulate", folder / "apart.h5mu", *few, "--unpaired", "--seed", "1")
    run("ingest", folder / "cells.h5mu", folder / "corpus")
    run("ingest", "--unpaired", folder / "apart.h5mu", folder / "corpus")
    small = SimulationConfig(cells=CELLS, genes=60, tfs=8, cell_types=2, seed=2)
    older = simulate_multiomics(MultiomicsConfig(cells=small), ["atac"], gene_table("human", "GRCh37"))
    older["atac"].write_h5ad(folder / "older.h5ad")
    run("ingest", folder / "older.h5ad", folder / "corpus", "--modality", "atac", "--build", "hg19")
    overrides = {
        **{"data.corpus": folder / "corpus", "data.batch_size": 40, "data.tokens": 32, "data.quota_multiple": 8},
        **{"encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 8},
        **{
            "run.steps": 6,
            "run.eval_every": 3,
            "data.holdout_fraction": 0.2,
            "run.eval_cells": 20,
            "run.checkpoint_every": 3,
            "run.log_every": 2,
        },
    }
    words = [f"--config.{key}={value}" for key, value in overrides.items()]
    run("train", "--config", SMALL, "--workdir", folder / "run", "--quiet", *words)
    return folder


def test_every_omics_type_is_trained_and_held_against_its_mean_predictor(folder):
    metrics = (folder / "run" / "metrics.jsonl").read_text()
    for modality in OMICS:
        for name in ("token_nll", "cell_nll", "null_nll"):
            assert f'"heldout/{modality}/{name}"' in metrics
    assert "NaN" not in metrics


def test_paired_cells_have_an_embedding_each_and_their_mean(folder):
    run("embed", folder / "run", folder / "cells.h5mu", folder / "embedded.h5mu")
    embedded = mudata.read_h5mu(folder / "embedded.h5mu")
    each = np.stack([embedded.obsm[f"X_mofm_{modality}"] for modality in OMICS])
    assert each.shape == (4, CELLS, 8)
    np.testing.assert_allclose(embedded.obsm["X_mofm"], each.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert set(embedded.uns["mofm"]) == set(OMICS)
    assert embedded.uns["mofm"]["atac"]["build"] == "GRCh38"
    assert len({each[place].tobytes() for place in range(4)}) == 4


def test_a_modality_alone_is_embedded_as_in_company(folder):
    cells = mudata.read_h5mu(folder / "cells.h5mu")
    together = load(folder / "run").embed_all(folder / "cells.h5mu", quiet=True)
    for modality in OMICS:
        cells[modality].copy().write_h5ad(folder / f"{modality}.h5ad")
        run(
            "embed",
            folder / "run",
            folder / f"{modality}.h5ad",
            folder / "one.h5ad",
            "--modality",
            modality,
            "--overwrite",
        )
        alone = ad.read_h5ad(folder / "one.h5ad").obsm["X_mofm"]
        np.testing.assert_allclose(alone, together[modality].embedding_NE, rtol=1e-5, atol=1e-5)


def test_a_file_of_either_build_is_embedded_by_the_genes_near_its_peaks(folder):
    corpus = open_corpus(folder / "corpus")
    ids = corpus.features["id"][corpus.features["modality"] == "atac"]
    assert set(ids.str.split("_").str[0]) == {"GRCh37", "GRCh38"}
    genes, spaces = corpus_spaces(corpus)
    assert len(spaces["atac"].weights_FK) == len(ids)
    model, reading = load(folder / "run"), Reading("atac")
    assert len(model.genes) == len(genes)
    for name, build in (("older.h5ad", "GRCh37"), ("cells.h5mu", "GRCh38")):
        embedding = model.embed(folder / name, reading, quiet=True)
        assert embedding.report["build"] == build
        assert embedding.report["share_of_features_known"] > 0.9
        assert np.isfinite(embedding.embedding_NE).all()


def test_cells_that_were_not_measured_have_no_embedding(folder):
    run("embed", folder / "run", folder / "apart.h5mu", folder / "embedded_apart.h5mu")
    embedded = mudata.read_h5mu(folder / "embedded_apart.h5mu")
    measured = np.stack([np.isfinite(embedded.obsm[f"X_mofm_{modality}"]).all(axis=1) for modality in OMICS])
    assert (measured.sum(axis=0) == 1).all()
    assert np.isfinite(embedded.obsm["X_mofm"]).all()


def test_peaks_never_seen_embed_and_a_peak_moved_by_a_base_moves_little(folder):
    """Every peak renamed by its place one base on: none is of the corpus, and the cells hardly move."""
    model, cells = load(folder / "run"), mudata.read_h5mu(folder / "cells.h5mu")["atac"].copy()

    def embedded(shift):
        moved = cells.copy()
        inward = np.where(moved.var["start"] > 1_000_000, -shift, shift)  # never past the end of a chromosome
        places = moved.var[["start", "end"]].add(inward, axis=0)
        moved.var_names = [
            f"{c}:{s}-{e}" for c, s, e in zip(moved.var["chrom"], places["start"], places["end"], strict=True)
        ]
        moved.var = moved.var[[]]
        moved.write_h5ad(folder / "moved.h5ad")
        return model.embed(folder / "moved.h5ad", Reading("atac"), build="GRCh38", quiet=True).embedding_NE

    still, near, far = embedded(0), embedded(1), embedded(300_000)
    spread = still.std()
    assert 0 < np.abs(near - still).mean() < 0.02 * spread
    assert np.abs(far - still).mean() > 10 * np.abs(near - still).mean()
