"""`mofm inspect` tells the truth of a file and of a corpus, and its tables can be read on a line of 80 characters."""

import json

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mofm.corpus.ingest import ingest
from mofm.errors import InputError
from mofm.inspection import inspect
from mofm.omics.assemblies import chromosome_sizes
from mofm.omics.genome import gene_table
from mofm.omics.readers import Reading
from mofm.printed import render, render_ingest

LONG_NAME = "a_dataset_of_pancreas_from_nine_donors_2024"


@pytest.fixture
def narrow(monkeypatch, capsys):
    """A function (render function, arguments) -> the lines it prints where there is no terminal to ask for a width."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def printed(function, *arguments, **options):
        function(*arguments, **options)
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return printed


def table_of(lines):
    """The lines of the table: a head, a rule, and the rows."""
    rule = next(place for place, line in enumerate(lines) if set(line.strip()) == {"─"})
    width = len(lines[rule])
    return lines[rule - 1], [line for line in lines[rule + 1 :] if len(line) == width or line.startswith("  ")]


@pytest.fixture
def layered(make_cells, tmp_path):
    """Log-normalised X, counts in a layer, scaled values in another; half of its genes are unknown to every table."""
    adata = make_cells(40)
    counts = adata.X
    adata.var_names = [name if place % 2 else f"LOCUS{place}" for place, name in enumerate(adata.var_names)]
    del adata.var["gene_ids"]
    adata.layers["counts"] = counts
    adata.layers["scaled"] = counts.toarray() - 0.5
    adata.X = sparse.csr_matrix(np.log1p(counts.toarray() / counts.sum(axis=1) * 1e4))
    adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"])
    adata.write_h5ad(tmp_path / "layered.h5ad")
    return tmp_path / "layered.h5ad"


@pytest.fixture
def corpus(make_cells, tmp_path):
    """Two datasets: 40 cells of 300 genes with an empty one, and 50 cells of 200 genes by id with a long name."""
    one, two = make_cells(40, seed=1), make_cells(50, seed=2, genes=slice(0, 200))
    one.X[3] = 0
    one.X.eliminate_zeros()
    two.var_names = two.var["gene_ids"].tolist()
    one.write_h5ad(tmp_path / "one.h5ad")
    two.write_h5ad(tmp_path / f"{LONG_NAME}.h5ad")
    results = ingest([tmp_path / "one.h5ad", tmp_path / f"{LONG_NAME}.h5ad"], tmp_path / "corpus")
    return tmp_path / "corpus", results, (one, two)


def test_a_file(layered):
    report = inspect(layered)
    assert report["usable"]
    assert report["counts_from"] == "layers/counts"
    kinds = {name: matrix["kind"] for name, matrix in report["matrices"].items()}
    assert kinds == {"layers/counts": "counts", "X": "log-normalised", "layers/scaled": "scaled"}
    genes = report["features"]["rna"]
    assert (genes["species"], genes["names_from"]) == ("human", "var_names")
    assert (genes["names"], genes["symbol"], genes["unresolved"]) == (300, 150, 150)
    assert report["obs_columns"] == {"cell_type": "2 categories", "batch": "2 categories"}
    assert json.loads(json.dumps(report)) == report


def test_one_category_is_told_in_the_singular(make_cells, tmp_path):
    cells = make_cells(10)
    cells.obs["donor"] = pd.Categorical(["d1"] * 10)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert inspect(tmp_path / "cells.h5ad")["obs_columns"]["donor"] == "1 category"


def test_mouse_is_known_as_mouse(make_cells, tmp_path):
    from mofm.omics.genome import gene_table

    adata = make_cells(20, genes=slice(0, 100))
    del adata.var["gene_ids"]
    adata.var_names = gene_table("mouse").gene_ids[:100]
    adata.write_h5ad(tmp_path / "mouse.h5ad")
    genes = inspect(tmp_path / "mouse.h5ad")["features"]["rna"]
    assert (genes["species"], genes["ensembl"], genes["unresolved"]) == ("mouse", 100, 0)
    adata.var["gene_ids"], adata.var_names = list(adata.var_names), [f"row{place}" for place in range(100)]
    adata.write_h5ad(tmp_path / "column.h5ad")
    genes = inspect(tmp_path / "column.h5ad")["features"]["rna"]
    assert (genes["species"], genes["names_from"], genes["unresolved"]) == ("mouse", "gene_ids", 0)


def test_a_file_of_logs_alone(make_cells, tmp_path, narrow):
    adata = make_cells(30)
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / adata.X.sum(axis=1) * 1e4))
    adata.write_h5ad(tmp_path / "logs.h5ad")
    report = inspect(tmp_path / "logs.h5ad")
    assert not report["usable"]
    assert "--recover-counts" in report["why"]
    assert "features" not in report
    lines = narrow(render, report)
    assert lines[0].startswith("not usable as it is: ")
    assert "100% of a sample invert to counts" in " ".join(" ".join(lines).split())


def test_a_corpus(corpus):
    path, _, (one, two) = corpus
    report = inspect(path)
    assert report["usable"]
    assert report["why"] == "90 cells in 2 dataset(s), 300 features"
    first, second = report["datasets"]
    assert (first["name"], first["cells"], first["features"], first["empty_cells"]) == ("one", 40, 300, 1)
    assert (second["name"], second["cells"], second["features"], second["empty_cells"]) == (LONG_NAME, 50, 200, 0)
    for dataset, adata in ((first, one), (second, two)):
        assert dataset["counts_per_cell"] == pytest.approx(adata.X.sum() / adata.n_obs)
        assert dataset["features_per_cell"] == pytest.approx(adata.X.nnz / adata.n_obs)
        assert dataset["unresolved_names"] == 0
    assert json.loads(json.dumps(report)) == report


def test_neither_file_nor_corpus(tmp_path):
    with pytest.raises(InputError, match=r"a folder of no known layout \(looked for filtered_feature_bc_matrix\.h5"):
        inspect(tmp_path)
    (tmp_path / "file.h5ad").write_text("words")
    with pytest.raises(InputError, match="not an HDF5 file"):
        inspect(tmp_path / "file.h5ad")
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "absent")


def test_the_table_of_a_file_is_readable(layered, narrow):
    lines = narrow(render, inspect(layered))
    assert lines[0] == "usable: counts are in layers/counts: 40 cells x 300 genes"
    head, rows = table_of(lines)
    assert head.split("  ")[0] == "matrix"
    assert len(head) <= 80
    assert {row.split()[0] for row in rows if not row.startswith(" ")} >= {"layers/counts", "X", "layers/scaled"}
    assert any("counts (whole numbers up to" in row for row in rows)
    assert "genes: 150 of 300 names in var_names are human genes (150 symbols)" in lines
    assert "obs: cell_type (2 categories), batch (2 categories)" in lines


def assert_whole_words(lines, words):
    """Every one of these stands in one line, unbroken, and the table is no wider than 80 characters."""
    head, rows = table_of(lines)
    assert max(len(line) for line in (head, *rows)) <= 80
    for word in words:
        assert any(word in line for line in (head, *rows)), f"{word!r} is broken: {head} {rows}"


def test_the_table_of_a_corpus_is_readable(corpus, narrow):
    lines = narrow(render, inspect(corpus[0]))
    columns = ("dataset", "omics", "cells", "empty", "features", "known %", "counts/cell", "feat./cell")
    assert_whole_words(lines, (*columns, "40", "50", "300", "200"))
    _, rows = table_of(lines)
    assert "".join(row.split("  ")[0] for row in rows[1:]).replace(" ", "") == LONG_NAME  # folded, not cut


def test_the_table_of_an_ingest_is_readable(corpus, narrow):
    path, results, _ = corpus
    lines = narrow(render_ingest, results, path)
    assert lines[0] == f"corpus {path}"
    columns = ("dataset", "omics", "status", "cells", "empty", "features", "known %", "cells/s")
    assert_whole_words(lines, (*columns, "ingested", "40", "50", "300", "200"))


def test_large_numbers_stay_whole(narrow):
    dataset = {
        "name": LONG_NAME,
        "cells": 12_345_678,
        "empty_cells": 123_456,
        "features": 61_234,
        "known_percent": 99.9,
        "modality": "methylation",
        "counts_per_cell": 123_456.7,
        "features_per_cell": 12_345.6,
    }
    lines = narrow(render, {"usable": True, "why": "", "datasets": [dataset]})
    assert_whole_words(lines, ("12,345,678", "123,456", "61,234", "99.9", "123,457", "12,346"))


def test_names_are_no_markup(narrow):
    dataset = dict.fromkeys(("cells", "empty_cells", "features", "known_percent"), 1)
    dataset |= {"name": "[red]x[/red]", "counts_per_cell": 1.0, "features_per_cell": 1.0, "modality": "[b]X"}
    lines = narrow(render, {"usable": True, "why": "why [bold]so", "datasets": [dataset]})
    assert lines[0] == "usable: why [bold]so"
    assert any("[red]x[/red]" in line and "[b]X" in line for line in lines)


def test_json_is_the_report(layered, capsys):
    report = inspect(layered)
    render(report, as_json=True)
    assert json.loads(capsys.readouterr().out) == report


def test_features_that_are_left_out_are_told(make_cells, tmp_path, narrow):
    adata = make_cells(20)
    adata.var["feature_types"] = ["Gene Expression"] * 290 + ["CRISPR Guide Capture"] * 10
    adata.write_h5ad(tmp_path / "cite.h5ad")
    lines = narrow(render_ingest, ingest([tmp_path / "cite.h5ad"], tmp_path / "corpus"), tmp_path / "corpus")
    assert "cite: left out 10 features of type CRISPR Guide Capture" in lines


# --- several omics ---


@pytest.fixture
def multimodal(make_cells, tmp_path):
    """RNA and ATAC of the same 30 cells, antibodies of 20 of them, hashtags; peaks of hg38 that only it can have."""
    cells = make_cells(30, genes=slice(0, 100))
    rng = np.random.default_rng(0)

    def of(names, count=30):
        counts = sparse.csr_matrix(rng.poisson(1.0, (count, len(names))).astype(np.float32) + 1)
        return ad.AnnData(counts, obs=cells.obs[["batch"]].iloc[:count], var=pd.DataFrame(index=names))

    peaks = [f"chr{1 + i % 3}:{i * 9000 + 100}-{i * 9000 + 900}" for i in range(50)]
    omics = {"rna": cells, "atac": of(peaks), "prot": of(["CD3", "CD8a", "strange", "IgG1"], 20), "hto": of(["A", "B"])}
    mudata.MuData(omics).write_h5mu(tmp_path / "cells.h5mu")
    return tmp_path / "cells.h5mu"


def test_a_file_of_several_omics(multimodal, narrow):
    report = inspect(multimodal)
    assert json.loads(json.dumps(report)) == report
    assert (report["kind"], report["usable"], report["left_out"]) == ("h5mu", True, {"hto": 2})
    assert report["sets"] == {"rna + atac + adt": 20, "rna + atac": 10}
    assert report["features"]["rna"]["species"] == "human"
    assert report["features"]["adt"]["unknown"] == ["strange"]
    assert report["features"]["atac"]["build"] is None
    lines = narrow(render, report)
    assert "cells with rna + atac: 10" in lines
    assert "left out: 2 features of type hto" in lines
    assert "antibodies: 3 of 4 names in var_names are known antibodies (1 isotype controls)" in lines
    assert "unknown antibodies: strange" in lines
    assert "peaks: 50 of 50 names in var_names have a place" in lines
    assert any(line.startswith("build: the build of 50 regions cannot be inferred") for line in lines)


def test_the_table_of_several_omics_is_readable(multimodal, tmp_path, narrow):
    results = ingest([multimodal], tmp_path / "corpus")
    lines = narrow(render_ingest, results, tmp_path / "corpus")
    assert_whole_words(lines, ("dataset", "omics", "cells", "features", "known %", "50", "75"))
    assert sum("cells-rna-" in line or "atac-only" in line for line in lines) >= 2
    assert "cells: left out 2 features of type hto" in lines
    assert sum("left out" in line for line in lines) == 1
    shown = narrow(render, inspect(tmp_path / "corpus"))
    assert shown[0] == "usable: 30 cells in 2 dataset(s), 154 features"


def test_orthologs_and_a_build_are_tried_before_an_ingest(tmp_path):
    mouse, human = gene_table("mouse").frame["gene_id"][:6].tolist(), gene_table("human").frame["gene_id"][:4].tolist()
    table = tmp_path / "mouse_human.tsv"
    table.write_text("mouse\thuman\n" + "".join(f"{a}\t{b}\n" for a, b in zip(mouse, human, strict=False)))
    ad.AnnData(np.ones((5, 6), np.float32), var=pd.DataFrame(index=mouse)).write_h5ad(tmp_path / "mouse.h5ad")
    rna = inspect(tmp_path / "mouse.h5ad", orthologs=table)["features"]["rna"]
    assert (rna["species"], rna["ortholog"], rna["unknown"]) == ("human", 4, mouse[4:])
    assert inspect(tmp_path / "mouse.h5ad")["features"]["rna"]["species"] == "mouse"
    peaks = ad.AnnData(np.ones((5, 2), np.float32), var=pd.DataFrame(index=["chr1:5-900", "chr2:5-900"]))
    peaks.write_h5ad(tmp_path / "peaks.h5ad")
    assert inspect(tmp_path / "peaks.h5ad", build="hg19")["features"]["atac"]["build"] == "GRCh37"


def test_mouse_peaks_alone_are_known_as_mouse(tmp_path):
    ends = [f"{chrom}:{size - 500}-{size}" for chrom, size in chromosome_sizes("GRCm38").items() if len(chrom) < 6]
    for names in (ends, ["mm10_chr1:5-9", "mm10_chr2:5-9"]):  # by their places, or by their names
        peaks = ad.AnnData(np.ones((5, len(names)), np.float32), var=pd.DataFrame(index=names))
        peaks.write_h5ad(tmp_path / "peaks.h5ad")
        report = inspect(tmp_path / "peaks.h5ad", Reading(modality="atac"))
        assert report["usable"], report["why"]
        assert (report["features"]["atac"]["species"], report["features"]["atac"]["build"]) == ("mouse", "GRCm38")


@pytest.mark.parametrize("names", [
    [f"{chrom}:{size - 500}-{size}" for chrom, size in chromosome_sizes("GRCm38").items() if len(chrom) < 6],
    ["mm10_chr1:5-9", "mm10_chr2:5-9"],
    ["Cd3d", "Ms4a1", "Gnai3"],
], ids=["ends", "named", "genes"])  # fmt: skip
def test_mouse_methylation_alone_is_known_as_mouse(tmp_path, names):
    total = np.ones((5, len(names)), np.float32)
    cells = ad.AnnData(total, var=pd.DataFrame(index=names), layers={"total": total, "methylated": total})
    cells.write_h5ad(tmp_path / "methylation.h5ad")
    report = inspect(tmp_path / "methylation.h5ad")
    assert report["usable"], report["why"]
    assert report["features"]["methylation"]["species"] == "mouse"


def test_peaks_without_places_are_not_usable(multimodal, tmp_path):
    peaks = ad.AnnData(np.ones((5, 3), np.float32), var=pd.DataFrame(index=["peak1", "peak2", "peak3"]))
    peaks.write_h5ad(tmp_path / "peaks.h5ad")
    report = inspect(tmp_path / "peaks.h5ad", Reading(modality="atac"))
    assert not report["usable"]
    assert "none of 3 regions has a place" in report["why"]
