"""Four omics through the command line and one model: simulated, ingested, trained on together, embedded, paired or not,
with regions of two genome builds, and translated into each other."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from commands import run, translation

import mofm
from mofm.batches.spaces import corpus_spaces
from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.inference.model import EVERYTHING, Options, encode, load
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics

pytestmark = pytest.mark.slow  # four omics are twelve directions to compile; tests/test_translate.py has two

SMALL = Path(__file__).parent.parent / "configs" / "small.py"
OMICS = ("rna", "atac", "adt", "methylation")
CELLS = 90


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
        **{"encoder.modality_blocks": 1, "encoder.private_width": 2, "translator.blocks": 1},
        **{"objectives.cycle_weight": 0, "objectives.drift_weight": 0},  # twelve directions are long to compile
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
    for name in ("rna_to_atac/token_nll", "methylation_to_adt/cell_nll", "adt_to_rna/pairs"):
        assert f'"heldout/{name}"' in metrics
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


@pytest.mark.parametrize("source", OMICS)
@pytest.mark.parametrize("target", OMICS)
def test_every_modality_is_told_from_every_other(folder, tmp_path, source, target):
    if source == target:
        assert main(["translate", *map(str, translation(folder, tmp_path, source, target))]) == 2
        assert not list(tmp_path.iterdir())
        return
    run("translate", *translation(folder, tmp_path, source, target))
    told, cells = ad.read_h5ad(tmp_path / "told.h5ad"), mudata.read_h5mu(folder / "cells.h5mu")
    assert list(told.obs_names) == list(cells[source].obs_names)
    features = open_corpus(folder / "corpus").features
    assert list(told.var["feature_id"]) == list(features["id"][features["modality"] == target])
    mean, deviation = np.asarray(told.X), np.asarray(told.layers["sd"])
    assert np.isfinite(mean).all()
    assert (mean >= 0).all()
    assert (deviation > 0).all()
    assert mean.max() <= (np.inf if target in ("rna", "adt") else 1)
    assert mean.std(axis=0).max() > 0  # it depends on the cell
    assert (told.uns["mofm"]["source"], told.uns["mofm"]["target"]) == (source, target)


def test_means_are_those_of_whole_cells(folder, tmp_path):
    """Training sees few of the zeros; what is told is of cells with all of theirs, to the level that six steps reach."""
    cells = mudata.read_h5mu(folder / "cells.h5mu")
    for source, target in (("atac", "rna"), ("rna", "adt")):
        run("translate", *translation(folder, tmp_path, source, target), "--overwrite")
        told = ad.read_h5ad(tmp_path / "told.h5ad")
        (depth,) = told.obs["mofm_depth"].unique()
        assert depth == pytest.approx(
            np.median(cells[target].X.toarray().sum(axis=1)), rel=0.3
        )  # of the training cells
        names = cells[target].var_names  # ids of genes, names of antibodies
        measured = (told.var["feature_id"].isin(names) | told.var_names.isin(names)).to_numpy()
        assert measured.sum() == len(names) <= told.n_vars  # each file has its own genes
        # Which share all of a cell's counts; a gene that other cells alone measured is told at its rate among those.
        assert np.asarray(told.X)[:, measured].mean() == pytest.approx(depth / measured.sum(), rel=0.3)


def test_which_of_several_is_translated_has_to_be_said(folder, tmp_path, capsys):
    assert (
        main(
            ["translate", str(folder / "run"), str(folder / "cells.h5mu"), str(tmp_path / "told.h5ad"), "--to", "atac"]
        )
        == 2
    )
    assert "say with --modality which" in capsys.readouterr().err
    assert not (tmp_path / "told.h5ad").exists()


WITHOUT_MOFM = """
import json, sys
import jax, jax.export
import numpy as np
from safetensors.numpy import load_file

folder, views, out = sys.argv[1:]
index, weights = json.load(open(f"{folder}/index.json")), load_file(f"{folder}/weights.safetensors")
given, told = np.load(views), {}
for modality, one in index["programs"].items():
    program = jax.export.deserialize(bytearray(open(f"{folder}/{one['file']}", "rb").read()))
    inputs = {name: given[f"{modality}/{name}"] for name in one["inputs"]}
    inputs = {name: a[:11] if name.endswith(("_B", "_BL")) else a for name, a in inputs.items()}  # any number of cells
    told[modality] = program.call({name: weights[name] for name in one["weights"]}, inputs)
np.savez(out, **told)
assert not [name for name in sys.modules if name.split(".")[0] in ("mofm", "flax", "orbax")]
"""


@pytest.fixture(scope="module")
def bundle(folder):
    """The model as a bundle, with its compiled encoders where they can be written."""
    run(
        "export",
        folder / "run",
        folder / "bundle",
        *(["--compiled"] if importlib.util.find_spec("flatbuffers") else []),
    )
    return folder / "bundle"


def test_python_and_the_command_tell_the_same_of_a_bundle_and_its_run(folder, bundle, tmp_path):
    cells, model = mudata.read_h5mu(folder / "cells.h5mu"), mofm.load(bundle)
    run("embed", folder / "run", folder / "cells.h5mu", tmp_path / "embedded.h5mu")
    wanted = mudata.read_h5mu(tmp_path / "embedded.h5mu")
    model.embed(cells)
    for key in ("X_mofm", *(f"X_mofm_{modality}" for modality in OMICS)):
        np.testing.assert_array_equal(cells.obsm[key], wanted.obsm[key])
    assert cells.uns["mofm"]["atac"]["share_of_counts_known"] == wanted.uns["mofm"]["atac"]["share_of_counts_known"]
    names = list(open_corpus(folder / "corpus").features.query("modality == 'atac'")["id"].str.split("_").str[1])[:5]
    names += ["chr1:1000000-1000500"]
    (tmp_path / "peaks.txt").write_text("".join(f"{name}\n" for name in names))
    asked = ("--features", tmp_path / "peaks.txt", "--features-build", "GRCh38")
    run("translate", *translation(folder, tmp_path, "rna", "atac"), *asked)
    told = ad.read_h5ad(tmp_path / "told.h5ad")
    alone = model.translate(cells["rna"], "atac", features=names, features_build="GRCh38")
    streamed = model.translate(cells, "atac", features=tmp_path / "peaks.txt", features_build="GRCh38", modality="rna",
                               output=tmp_path / "streamed.h5ad")  # fmt: skip
    assert streamed.isbacked
    for found in (alone, streamed.to_memory()):
        np.testing.assert_array_equal(found.X, told.X)
        np.testing.assert_array_equal(found.layers["sd"], told.layers["sd"])
        assert list(found.obs_names) == list(told.obs_names)
        assert found.var["feature_id"].tolist() == told.var["feature_id"].tolist()
        assert found.uns["mofm"].keys() == told.uns["mofm"].keys()


def test_compiled_encoders_embed_where_there_is_no_mofm(folder, bundle, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed: programs were NOT exported")
    model, arrays, wanted = load(bundle), {}, {}
    with model.opened(folder / "cells.h5mu", EVERYTHING, Options()) as opened:
        for table, matching in opened:
            _, view = next(iter(model.views(table, matching, Options(batch_size=64))))
            parts = view._asdict() | ({} if matching.space is None else matching.space._asdict())
            arrays |= {f"{table.modality}/{name}": array for name, array in parts.items() if array is not None}
            of = (model.spec, model.params, model.states.rows_GD, view, table.modality, matching.space)
            wanted[table.modality] = np.asarray(encode(*of))[:11]
    np.savez(tmp_path / "views.npz", **arrays)
    words = [sys.executable, "-c", WITHOUT_MOFM, bundle / "compiled", tmp_path / "views.npz", tmp_path / "told.npz"]
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = np.load(tmp_path / "told.npz")
    assert set(told) == set(OMICS)
    for modality in OMICS:
        np.testing.assert_allclose(told[modality], wanted[modality], rtol=1e-4, atol=1e-5)
        assert np.abs(wanted[modality]).max() > 0.1
    index = json.loads((bundle / "compiled" / "index.json").read_text())
    assert index["programs"]["rna"]["inputs"]["features_BL"]["shape"] == ["b", "l"]
    assert not any(name.startswith("decoder") for name in index["programs"]["rna"]["weights"])


@pytest.mark.parametrize(("to", "features"), [("adt", []), ("atac", ["chr1:10-20", "trained"])])
def test_the_portal_translates_as_the_command_line_does(folder, tmp_path, monkeypatch, to, features):
    """The job of a portal, with its tables and map; UMAP is long to compile, and the first two columns do."""
    from mofm.evaluation import figures

    perform = pytest.importorskip("mofm.portal.job", exc_type=ImportError).perform

    monkeypatch.setattr(figures, "umap_coordinates", lambda X_ND: np.asarray(X_ND[:, :2], np.float32))
    trained = open_corpus(folder / "corpus").features["id"]
    features = [trained[trained.str.startswith("GRCh38_")].iloc[3] if name == "trained" else name for name in features]
    options = {
        "to": to,
        "modality": "rna",
        "features": [name.removeprefix("GRCh38_") for name in features],
        "build": "GRCh38",
    }
    what = {"verb": "translate", "options": options, "name": "cells.h5mu"}
    perform(load(folder / "run"), folder / "cells.h5mu", tmp_path, what)
    page, told = json.loads((tmp_path / "result.json").read_text()), ad.read_h5ad(tmp_path / "translated.h5ad")
    assert {file["name"] for file in page["files"]} == {path.name for path in tmp_path.iterdir()} - {
        "result.json",
        "points.json",
    }
    table = pd.read_csv(tmp_path / "features.csv").set_index("id")
    np.testing.assert_allclose(table.loc[told.var["feature_id"], "mean"], told.X.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(
        table.loc[told.var["feature_id"], "sd across cells"], told.X.std(axis=0, dtype=np.float64), rtol=1e-2, atol=1e-5
    )
    whole = pd.read_csv(tmp_path / "translated.csv", index_col="cell")
    np.testing.assert_allclose(whole.to_numpy(), told.X, rtol=1e-4)
    assert list(whole.index) == list(told.obs_names)
    points = json.loads((tmp_path / "points.json").read_text()) if page["map"] else {"x": []}
    assert len(points["x"]) == (0 if features else CELLS)
    if features:
        assert told.n_vars == 1
        assert any(line.startswith("Left out: 1 peaks that speak of no gene") for line in page["lines"])
    else:
        run(
            "translate",
            *translation(folder, tmp_path, "rna", "adt")[:2],
            tmp_path / "cli.h5ad",
            "--to",
            "adt",
            "--modality",
            "rna",
        )
        np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "cli.h5ad").X, told.X)


def test_the_portal_embeds_every_modality_of_a_file(folder, tmp_path, monkeypatch):
    from mofm.evaluation import figures

    perform = pytest.importorskip("mofm.portal.job", exc_type=ImportError).perform

    monkeypatch.setattr(figures, "umap_coordinates", lambda X_ND: np.asarray(X_ND[:, :2], np.float32))
    what = {"verb": "embed", "options": {"modality": "", "build": "GRCh38"}, "name": "cells.h5mu"}
    perform(load(folder / "run"), folder / "cells.h5mu", tmp_path, what)
    embedded = mudata.read_h5mu(tmp_path / "cells.h5mu")
    assert set(embedded.uns["mofm"]) == set(OMICS)
    page = json.loads((tmp_path / "result.json").read_text())
    assert [row[0] for row in page["tables"][0]["rows"]] == [
        "RNA",
        "ATAC (chromatin)",
        "ADT (surface protein)",
        "DNA methylation",
    ]
    points = json.loads((tmp_path / "points.json").read_text())
    assert "cell_type" in [key["name"] for key in points["keys"]]  # of a modality's obs
    table = pd.read_csv(tmp_path / "embedding.csv", index_col="cell")
    np.testing.assert_allclose(table.filter(like="mofm_"), embedded.obsm["X_mofm"], rtol=1e-3, atol=1e-5)
