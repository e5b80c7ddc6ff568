"""Cells of several files that have one name are told apart, and it is said."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

from mofm.corpus.ingest import ingest
from mofm.corpus.names import shared_names
from mofm.corpus.store import Store, open_corpus
from mofm.corpus.tables import hash_names
from mofm.printed import render_ingest


@pytest.fixture
def write(tmp_path, gene_ids):
    """A function (name, cell names) -> path of an h5ad file of such cells, no two files alike."""

    def write(name: str, cells: list[str]):
        counts = np.random.default_rng(len(name) + 10 * len(cells)).poisson(1.0, (len(cells), 60)) + 1
        adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=gene_ids[:60]))
        adata.obs_names = cells
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        return tmp_path / f"{name}.h5ad"

    return write


def test_no_name_of_another_data_set_is_read(tmp_path, write, monkeypatch):
    """They are compared by what stores keep of them, which is what their names hash to."""
    paths = [
        write(name, [f"{name}-{i}" for i in range(n)] + ["AAA"]) for n, name in enumerate(("one", "two", "three"), 2)
    ]
    ingest(paths, tmp_path / "corpus")
    corpus, read = open_corpus(tmp_path / "corpus"), []
    for dataset in corpus.datasets:
        np.testing.assert_array_equal(dataset.name_hashes(), hash_names(dataset.cell_names()))
    whole = Store.cell_names
    monkeypatch.setattr(Store, "cell_names", lambda store: read.append(store.name) or whole(store))
    assert shared_names(corpus, {"three"}) == (1, "AAA", ("one", "two"))
    assert read == ["three"]


def test_stores_of_before_names_were_hashed(tmp_path, write):
    ingest([write("one", ["AAA", "CCC"]), write("two", ["CCC"])], tmp_path / "corpus")
    for store in ("one", "two"):
        shutil.rmtree(tmp_path / f"corpus/stores/{store}.rna.zarr/uns/name_hashes")
        zarr.consolidate_metadata(tmp_path / f"corpus/stores/{store}.rna.zarr")
    assert shared_names(open_corpus(tmp_path / "corpus"), {"two"}) == (1, "CCC", ("one", "two"))


def test_shared_names_are_counted_and_said(tmp_path, write, capsys):
    one, two = write("one", ["AAA-1", "CCC-1", "GGG-1"]), write("other", ["TTT-1", "CCC-1", "AAA-1", "ACG-1"])
    results = ingest([one], tmp_path / "corpus")
    assert shared_names(open_corpus(tmp_path / "corpus"), {"one"}) is None
    render_ingest(results, tmp_path / "corpus")
    assert "new cells" not in capsys.readouterr().out

    results = ingest([one, two], tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    assert shared_names(corpus, {"other"}) == (2, "CCC-1", ("one", "other"))
    assert shared_names(corpus, {"one", "other"}).cells == 4
    assert [corpus.cell_name(cell) for cell in (1, 4)] == ["one:CCC-1", "other:CCC-1"]
    render_ingest(results, tmp_path / "corpus")
    said = " ".join(capsys.readouterr().out.split())
    assert "2 new cells have a name that another data set has too (CCC-1 in one and other)" in said
    assert "named by both, as one:CCC-1" in said
