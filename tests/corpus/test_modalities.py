"""Several modalities of a file become stores of the same cells in the same order, all of them or none, whoever read them."""

import gzip
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.ahead import in_turn
from mofm.corpus import engines
from mofm.corpus.buffers import RowBuffers
from mofm.corpus.features import features_to_bytes
from mofm.corpus.ingest import ingest, jobs_for
from mofm.corpus.manifest import FORMAT_VERSION
from mofm.corpus.store import open_corpus, read_manifest
from mofm.errors import InputError
from mofm.omics.table import CountTable

PEAKS = [f"chr{1 + i % 3}:{i * 5000 + 100}-{i * 5000 + 900}" for i in range(60)]
PROTEINS = ["CD3", "CD4", "CD8a", "CD19", "IgG1"]


@pytest.fixture(scope="session")
def make_anndata():
    """A function (cell names, feature names, seed) -> AnnData of counts."""

    def make(cells, names, seed: int = 0) -> anndata.AnnData:
        rng = np.random.default_rng(seed)
        counts = (rng.poisson(1.0, (len(cells), len(names))) + np.eye(len(cells), len(names))).astype(np.float32)
        obs = pd.DataFrame({"score": np.arange(len(cells), dtype=float)}, index=cells)
        return anndata.AnnData(scipy.sparse.csr_matrix(counts), obs, pd.DataFrame(index=list(names)))

    return make


@pytest.fixture
def omics(make_anndata, gene_ids):
    """RNA of cells 0-39, ATAC of 50-10 (backwards), ADT of 5-19 and 60-64: four sets of modalities and more."""
    name = lambda numbers: [f"cell-{i}" for i in numbers]  # noqa: E731
    return {
        "rna": make_anndata(name(range(40)), gene_ids[:50], 0),
        "atac": make_anndata(name(range(50, 9, -1)), PEAKS, 1),
        "adt": make_anndata(name([*range(5, 20), *range(60, 65)]), PROTEINS, 2),
    }


@pytest.fixture
def write_h5mu():
    """A function (path, AnnData by modality) -> path."""

    def write(path: Path, modalities: dict[str, anndata.AnnData]) -> Path:
        mudata.MuData(modalities).write_h5mu(path)
        return path

    return write


@pytest.fixture
def paired(tmp_path, make_anndata, gene_ids, write_h5mu):
    """RNA and antibodies of the same ten cells: two stores."""
    cells = [f"c{i}" for i in range(10)]
    return write_h5mu(
        tmp_path / "paired.h5mu", {"rna": make_anndata(cells, gene_ids[:20]), "adt": make_anndata(cells, PROTEINS)}
    )


@pytest.fixture
def mixed(tmp_path, omics, write_h5mu):
    return write_h5mu(tmp_path / "mixed.h5mu", omics)


def read_store(corpus: Path, entry) -> anndata.AnnData:
    return anndata.io.read_zarr(corpus / entry.path)


def dense_of(store, start: int = 0, stop: int | None = None, buffers=None) -> tuple[np.ndarray, np.ndarray | None]:
    stop = store.n_cells if stop is None else stop
    rows = store.read_rows(start, stop, buffers).result()
    shape = (stop - start, store.n_features)
    dense = [
        None
        if values is None
        else scipy.sparse.csr_array((values.astype(int), rows.indices, rows.indptr_N), shape).toarray()
        for values in (rows.data, rows.hits)
    ]
    return dense[0], dense[1]


def refusal(*args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        ingest(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- one file, several datasets ---


def test_cells_are_stored_by_the_modalities_that_they_have(tmp_path, mixed, omics):
    (result,) = ingest([mixed], tmp_path / "corpus")
    assert (result.name, result.status, len(result.cells_per_second)) == ("mixed", "ingested", len(result.entries))
    corpus = open_corpus(tmp_path / "corpus")
    numbers = {
        "mixed": range(10, 20),
        "mixed-rna-atac-only": range(20, 40),
        "mixed-rna-adt-only": range(5, 10),
        "mixed-rna-only": range(5),
        "mixed-atac-only": range(50, 39, -1),
        "mixed-adt-only": range(60, 65),
    }
    assert {data.name: data.n_cells for data in corpus.datasets} == {name: len(some) for name, some in numbers.items()}
    assert corpus.n_cells == 56
    for dataset in corpus.datasets:
        cells = [f"cell-{i}" for i in numbers[dataset.name]]
        for modality, store in dataset.stores.items():
            assert (store.entry.input, store.dataset) == ("mixed", dataset.number)
            assert store.obs().index.tolist() == cells
            truth = omics[modality][cells]
            np.testing.assert_array_equal(dense_of(store)[0], truth.X.toarray())
            np.testing.assert_array_equal(store.obs()["score"], truth.obs["score"])
            read = read_store(tmp_path / "corpus", store.entry)
            np.testing.assert_array_equal(read.X.toarray(), truth.X.toarray())
            assert read.obs_names.tolist() == cells
    first = corpus.datasets[0]
    assert first.modalities == ("rna", "atac", "adt")
    assert corpus.locate(12) == (corpus.datasets[1], 2)
    assert corpus.cell_name(12) == "mixed-rna-atac-only:cell-22"


def test_features_are_known_within_their_modality(tmp_path, mixed, gene_ids):
    ingest([mixed], tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    features = corpus.features
    assert features["id"][features["modality"] == "rna"].tolist() == gene_ids[:50]
    assert features["id"][features["modality"] == "atac"].tolist() == PEAKS
    assert not features.duplicated(["id", "modality"]).any()
    for store in corpus.stores:
        rows = features.iloc[store.feature_rows]
        assert set(rows["modality"]) == {store.modality}
        assert rows["id"].tolist() == store.var().index.tolist()


def test_modalities_without_a_cell_in_common_are_refused_or_told_apart(tmp_path, omics, write_h5mu, content):
    omics["atac"].obs_names = [f"S1#{name}" for name in omics["atac"].obs_names]
    path = write_h5mu(tmp_path / "a.h5mu", omics)
    assert "atac shares no cell name with rna" in refusal([path], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    ingest([path], tmp_path / "corpus", unpaired=True)
    names = [data.name for data in open_corpus(tmp_path / "corpus").datasets]
    assert names == ["a-rna-adt-only", "a-rna-only", "a-atac-only", "a-adt-only"]
    assert "read from X (found by mofm), --unpaired yes" in refusal([path], tmp_path / "corpus")


def test_a_name_that_a_part_would_take_is_refused(tmp_path, mixed, make_anndata, gene_ids):
    path = tmp_path / "mixed-rna-only.h5ad"
    make_anndata(["a", "b"], gene_ids[:5]).write_h5ad(path)
    line = refusal([mixed, path], tmp_path / "corpus")
    assert "would make a dataset 'mixed-rna-only'" in line
    assert not (tmp_path / "corpus").exists()
    ingest([path], tmp_path / "corpus")
    assert "has a store 'mixed-rna-only' already" in refusal([mixed], tmp_path / "corpus")


def test_peaks_that_tell_no_place(tmp_path, make_anndata):
    make_anndata(["a", "b"], ["peak_1", "peak_2", "peak_3"]).write_h5ad(tmp_path / "a.h5ad")
    line = refusal([tmp_path / "a.h5ad"], tmp_path / "corpus", modality="atac")
    assert "none of 3 regions has a place (first: 'peak_1')" in line
    assert not (tmp_path / "corpus").exists()


def test_a_build_is_given_or_refused(tmp_path, make_anndata):
    far = ["chr1:1000-2000", "chr1:248900000-248901000", "chr2:242190000-242190500"]
    make_anndata(["a", "b"], far).write_h5ad(tmp_path / "a.h5ad")
    (result,) = ingest([tmp_path / "a.h5ad"], tmp_path / "corpus", build="hg38")
    assert (result.entry.build, result.entry.given) == ("GRCh38", {"build": "GRCh38"})
    assert ingest([tmp_path / "a.h5ad"], tmp_path / "corpus", build="GRCh38")[0].status == "already there"
    assert "the regions are not of GRCm38" in refusal([tmp_path / "a.h5ad"], tmp_path / "other", build="mm10")


@pytest.fixture
def peaks_of_two(tmp_path, make_anndata):
    """Files of the same places, in other orders, which are of GRCh38 and of GRCh37, and of no known build."""
    names = {"GRCh38": PEAKS, "GRCh37": PEAKS[::-1], None: PEAKS[:5]}
    paths = {build: tmp_path / f"{build}.h5ad" for build in names}
    for seed, (build, path) in enumerate(paths.items()):
        make_anndata([f"{build}-{i}" for i in range(8)], names[build], seed).write_h5ad(path)
    return paths


def test_one_place_in_two_builds_is_two_features(tmp_path, peaks_of_two):
    for build, path in peaks_of_two.items():
        ingest([path], tmp_path / "corpus", build=build)
    corpus = open_corpus(tmp_path / "corpus")
    new, old = [f"GRCh38_{place}" for place in PEAKS], [f"GRCh37_{place}" for place in PEAKS[::-1]]
    assert corpus.features["id"].tolist() == [*new, *old, *PEAKS[:5]]
    assert corpus.features["symbol"].tolist() == [*PEAKS, *PEAKS[::-1], *PEAKS[:5]]
    assert [store.entry.build for store in corpus.stores] == ["GRCh38", "GRCh37", None]
    assert corpus.stores[1].feature_rows.tolist() == list(range(60, 120))


@pytest.mark.parametrize(("species", "build", "other"), [("mouse", "hg19", "human"), ("human", "mm10", "mouse")])
def test_regions_of_another_species_are_refused(tmp_path, peaks_of_two, species, build, other):
    line = refusal([peaks_of_two["GRCh38"]], tmp_path / "corpus", build=build, species=species)
    assert f"a {other} genome, and {species} ones are expected; use --species {other}" in line
    assert not (tmp_path / "corpus").exists()


def to_format_2(corpus: Path) -> None:
    """Rewrites a corpus as mofm wrote it before the ids of regions told their build."""
    fields = json.loads((corpus / "manifest.json").read_text()) | {"format_version": 2}
    (corpus / "manifest.json").write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n")
    features = pd.read_parquet(corpus / "features.parquet")
    bare = features.assign(id=features["id"].str.removeprefix("GRCh38_").str.removeprefix("GRCh37_"))
    (corpus / "features.parquet").write_bytes(features_to_bytes(bare))


@pytest.mark.parametrize("build", ["GRCh37", None])
def test_a_corpus_of_format_2_reads_as_one_of_today_and_grows_as_one(tmp_path, peaks_of_two, build):
    corpus, path = tmp_path / "corpus", peaks_of_two[build]
    ingest([path], corpus, build=build)
    before = open_corpus(corpus)
    to_format_2(corpus)
    as_before = open_corpus(corpus)
    assert as_before.manifest.format_version == 2
    pd.testing.assert_frame_equal(as_before.features, before.features)
    digest = as_before.digest
    assert ingest([path], corpus, build=build)[0].status == "already there"
    assert open_corpus(corpus).digest == digest
    ingest([peaks_of_two["GRCh38"]], corpus, build="GRCh38")
    grown = open_corpus(corpus)
    assert grown.manifest.format_version == FORMAT_VERSION
    assert grown.features["id"].tolist() == [*before.features["id"], *(f"GRCh38_{place}" for place in PEAKS)]


def test_two_builds_in_format_2_are_refused_and_other_omics_are_not(tmp_path, peaks_of_two, paired):
    for build in ("GRCh38", "GRCh37"):
        ingest([peaks_of_two[build]], tmp_path / "corpus", build=build)
    to_format_2(tmp_path / "corpus")
    with pytest.raises(InputError, match=r"regions are of GRCh37 and GRCh38.*ingest its files into a new corpus"):
        open_corpus(tmp_path / "corpus")
    ingest([paired], tmp_path / "other")
    before = open_corpus(tmp_path / "other").features
    to_format_2(tmp_path / "other")
    pd.testing.assert_frame_equal(open_corpus(tmp_path / "other").features, before)


def test_peaks_that_are_named_with_their_build_are_peaks(tmp_path, make_anndata):
    """10x Genomics names them so, and the file need not say that they are peaks."""
    names = [f"GRCh38_{place}" for place in PEAKS]
    make_anndata([f"cell-{i}" for i in range(8)], names).write_h5ad(tmp_path / "a.h5ad")
    (entry,) = ingest([tmp_path / "a.h5ad"], tmp_path / "corpus")[0].entries
    assert (entry.modality, entry.build, entry.build_evidence) == ("atac", "GRCh38", "GRCh38, named by the file")
    assert open_corpus(tmp_path / "corpus").features["id"].tolist() == names


# --- methylation ---


def test_methylation_of_regions_that_are_named_with_their_build(tmp_path, make_anndata):
    names = [f"GRCh38_{place}" for place in PEAKS]
    adata = make_anndata([f"cell-{i}" for i in range(8)], names)
    adata.layers["total"], adata.layers["methylated"] = adata.X, adata.X.sign()
    adata.write_h5ad(tmp_path / "a.h5ad")
    (entry,) = ingest([tmp_path / "a.h5ad"], tmp_path / "corpus")[0].entries
    assert (entry.modality, entry.build) == ("methylation", "GRCh38")
    assert open_corpus(tmp_path / "corpus").features["id"].tolist() == names


@pytest.fixture
def methylation(tmp_path):
    """(path, total, methylated); one count of 300, many totals without a methylated read."""
    rng = np.random.default_rng(0)
    total = rng.poisson(2.0, (70, len(PEAKS))) * (rng.random((70, len(PEAKS))) < 0.5)
    total[9], total[20, 3] = 0, 300
    methylated = rng.binomial(total, 0.3)
    adata = anndata.AnnData(scipy.sparse.csr_matrix(total.astype(np.float32)), var=pd.DataFrame(index=PEAKS))
    adata.layers["methylated"] = scipy.sparse.csr_matrix(methylated.astype(np.float32))
    adata.write_h5ad(tmp_path / "m.h5ad")
    return tmp_path / "m.h5ad", total, methylated


@pytest.mark.parametrize("with_buffers", [False, True])
def test_methylated_reads_travel_with_their_totals(tmp_path, methylation, monkeypatch, with_buffers):
    path, total, methylated = methylation
    monkeypatch.setattr("mofm.corpus.writer._CHUNK_ENTRIES", (16, 64))
    monkeypatch.setattr("mofm.corpus.writer.SHARD_CHUNKS", 2)
    monkeypatch.setattr(CountTable.rows, "__defaults__", (200,))
    (result,) = ingest([path], tmp_path / "corpus")
    entry = result.entry
    assert (entry.modality, entry.counts_from, entry.hits_from) == ("methylation", "X", "layers/methylated")
    assert (entry.total_counts, entry.total_hits, entry.max_count) == (total.sum(), methylated.sum(), 300)
    assert (entry.entries, entry.empty_cells) == (np.count_nonzero(total), 1)
    (store,) = open_corpus(tmp_path / "corpus").stores
    buffers = RowBuffers() if with_buffers else None
    for start, stop in ((0, 70), (3, 40), (9, 10), (69, 70), (5, 5)):
        counts, hits = dense_of(store, start, stop, buffers)
        np.testing.assert_array_equal(counts, total[start:stop])
        np.testing.assert_array_equal(hits, methylated[start:stop])
    rows = store.read_rows(0, 70).result()
    assert (rows.hits == 0).any()
    read = read_store(tmp_path / "corpus", entry)
    np.testing.assert_array_equal(read.X.toarray(), total)
    np.testing.assert_array_equal(read.layers["methylated"].toarray(), methylated)
    np.testing.assert_array_equal(read.layers["methylated"].indices, read.X.indices)


def test_a_damaged_layer_is_told(tmp_path, methylation):
    ingest([methylation[0]], tmp_path / "corpus")
    chunk = next((tmp_path / "corpus/stores/m.methylation.zarr/layers/methylated/data/c").iterdir())
    chunk.unlink()
    (store,) = open_corpus(tmp_path / "corpus").stores
    with pytest.raises(InputError, match="damaged or incomplete"):
        store.read_rows(0, 70).result()


def test_fractions_leave_a_note(tmp_path, make_anndata):
    adata = make_anndata(["a", "b", "c"], PEAKS)
    adata.X = np.random.default_rng(0).random(adata.shape).astype(np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    (result,) = ingest([tmp_path / "a.h5ad"], tmp_path / "corpus", modality="methylation")
    assert "each counts as 100 reads" in result.entry.notes[0]
    assert result.entry.total_counts == 100 * adata.X.size
    adata.X[1, 2] = 1.5
    adata.write_h5ad(tmp_path / "b.h5ad")
    assert "holds 1.5, no fraction" in refusal([tmp_path / "b.h5ad"], tmp_path / "corpus", modality="methylation")


# --- fragments ---


def test_fragments_become_a_store(tmp_path, barcodes_of_fragments, content):
    pytest.importorskip("snapatac2", reason="SnapATAC2 is not installed (pip install 'mofm[atac]')")
    path, table = barcodes_of_fragments
    ingest([path], tmp_path / "one", tile_width=5000, min_fragments=1)
    ingest([path], tmp_path / "two", tile_width=5000, min_fragments=1)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    (store,) = open_corpus(tmp_path / "one").stores
    assert (store.modality, store.entry.kind, store.name) == ("atac", "fragments", "fragments")
    assert store.obs()["fragments"].sum() == len(table)
    counts, _ = dense_of(store)
    tile = "chr1:5000-10000"
    inside = table[(table["start"].between(5000, 9999)) | ((table["end"] - 1).between(5000, 9999))]
    assert counts[:, store.var().index.get_loc(tile)].sum() == len(inside)
    assert "--tile-width 5000" in refusal([path], tmp_path / "one")


def test_a_cell_ranger_folder_pairs_its_matrix_with_its_fragments(tmp_path, barcodes_of_fragments, gene_ids):
    pytest.importorskip("snapatac2", reason="SnapATAC2 is not installed (pip install 'mofm[atac]')")
    path, table = barcodes_of_fragments
    outs, cells = tmp_path / "sample" / "outs", ["GGGT-1", "TTTT-1", "AAAC-1"]
    outs.mkdir(parents=True)
    path.rename(outs / "atac_fragments.tsv.gz")
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
        file["matrix/barcodes"], file["matrix/shape"] = np.array(cells, "S"), [4, 3]
        file["matrix/data"], file["matrix/indices"], file["matrix/indptr"] = [5, 6, 7], [0, 1, 3], [0, 1, 2, 3]
        file["matrix/features/id"] = file["matrix/features/name"] = np.array(gene_ids[:4], "S")
        file["matrix/features/feature_type"] = np.array(["Gene Expression"] * 4, "S")
    (result,) = ingest([tmp_path / "sample"], tmp_path / "corpus", tile_width=5000)
    both, rna = open_corpus(tmp_path / "corpus").datasets
    assert (both.name, both.modalities) == ("sample", ("rna", "atac"))
    assert (rna.name, rna.modalities) == ("sample-rna-only", ("rna",))
    assert [both.cell_name(0), both.cell_name(1), rna.cell_name(0)] == ["GGGT-1", "AAAC-1", "TTTT-1"]
    np.testing.assert_array_equal(dense_of(both.stores["rna"])[0], [[5, 0, 0, 0], [0, 0, 0, 7]])
    assert (
        both.stores["atac"].obs()["fragments"].tolist()
        == table["barcode"].value_counts()[["GGGT-1", "AAAC-1"]].tolist()
    )
    inside = table["start"].between(5000, 9999) | (table["end"] - 1).between(5000, 9999)
    column = both.stores["atac"].var().index.get_loc("chr1:5000-10000")
    expected = table["barcode"][inside].value_counts()[["GGGT-1", "AAAC-1"]]
    assert dense_of(both.stores["atac"])[0][:, column].tolist() == expected.tolist()
    assert {entry.source for entry in result.entries} == {"sample"}


@pytest.fixture
def barcodes_of_fragments(tmp_path):
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(0, 50_000, 2000))
    table = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + rng.integers(30, 600, 2000)})
    table["barcode"] = rng.choice(["AAAC-1", "CCCG-1", "GGGT-1"], 2000)
    table["count"] = 1
    path = tmp_path / "fragments.tsv.gz"
    path.write_bytes(gzip.compress(table.to_csv(sep="\t", header=False, index=False).encode()))
    return path, table


# --- all stores of a file, or none ---

PLACES = {
    "the second store": "mofm.corpus.prepare._var",
    "a rename": "os.rename",
    "the feature table": "mofm.corpus.staging.features_to_bytes",
    "the manifest": "mofm.corpus.staging.replace_file",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), pytest.param(KeyboardInterrupt(), marks=pytest.mark.slow)],
    ids=["full", "stopped"],
)
def test_a_failure_leaves_none_of_the_stores(
    tmp_path, paired, make_anndata, gene_ids, content, monkeypatch, place, error
):
    make_anndata(["a", "b"], gene_ids[:5]).write_h5ad(tmp_path / "first.h5ad")
    ingest([tmp_path / "first.h5ad"], tmp_path / "corpus")
    before, calls = content(tmp_path / "corpus"), []

    def second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return real(*args, **kwargs)

    owner, name = place.rsplit(".", 1)
    module = sys.modules[owner]
    real = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, second)
        # The feature table is made once a commit.
        calls += [()] if "features_to_bytes" in place else []
        with pytest.raises((InputError, KeyboardInterrupt)):
            ingest([paired], tmp_path / "corpus")
    after = content(tmp_path / "corpus")
    assert after | {"features.parquet": b""} == before | {"features.parquet": b""}
    assert len(open_corpus(tmp_path / "corpus").features) == 5
    ingest([paired], tmp_path / "corpus")
    ingest([tmp_path / "first.h5ad", paired], tmp_path / "unbroken")
    assert content(tmp_path / "corpus") == content(tmp_path / "unbroken")


KILL = """
import os, signal, sys
from mofm.corpus.ingest import ingest

path, corpus, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
real, calls = os.rename, []

def rename(*args):
    real(*args)
    calls.append(args)
    if len(calls) == nth:
        os.kill(os.getpid(), signal.SIGKILL)

os.rename = rename
ingest([path], corpus)
"""


@pytest.mark.parametrize("nth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_between_two_stores_leaves_none(tmp_path, paired, content, nth):
    done = subprocess.run([sys.executable, "-c", KILL, str(paired), str(tmp_path / "corpus"), str(nth)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_manifest(tmp_path / "corpus") is None
    assert len(list((tmp_path / "corpus/stores").iterdir())) == nth
    (result,) = ingest([paired], tmp_path / "corpus")
    assert len(result.entries) == 2
    ingest([paired], tmp_path / "unbroken")
    assert content(tmp_path / "corpus") == content(tmp_path / "unbroken")


# --- again, and in other ways ---


def test_the_same_file_again_is_passed_over(tmp_path, mixed, content):
    first = ingest([mixed], tmp_path / "corpus")
    before = content(tmp_path / "corpus")
    (again,) = ingest([mixed], tmp_path / "corpus", names=["other"])
    assert (again.name, again.status, again.entries) == ("mixed", "already there", first[0].entries)
    assert content(tmp_path / "corpus") == before
    assert "use the same options" in refusal([mixed], tmp_path / "corpus", modality="rna")
    (rna,) = ingest([mixed], tmp_path / "rna", modality="rna")
    assert [(entry.name, entry.modality) for entry in rna.entries] == [("mixed", "rna")]
    assert "--modality rna" in refusal([mixed], tmp_path / "rna")


def test_a_folder_is_known_by_all_of_its_files(tmp_path, gene_ids, content):
    folder = tmp_path / "sample" / "outs"
    folder.mkdir(parents=True)
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n3 2 2\n1 1 4\n3 2 5\n")
    (folder / "genes.tsv").write_text("".join(f"{gene}\tg\n" for gene in gene_ids[:3]))
    (folder / "barcodes.tsv").write_text("AAA-1\nCCC-1\n")
    (result,) = ingest([folder], tmp_path / "corpus")
    assert (result.name, result.entry.kind, result.entry.source) == ("sample", "10x mtx", "outs")
    assert ingest([folder], tmp_path / "corpus")[0].status == "already there"
    np.testing.assert_array_equal(dense_of(open_corpus(tmp_path / "corpus").stores[0])[0], [[4, 0, 0], [0, 0, 5]])
    (folder / "barcodes.tsv").write_text("AAA-1\nGGG-1\n")
    assert "made from a different outs" in refusal([folder], tmp_path / "corpus")


def test_a_corpus_of_format_1_is_added_to(tmp_path, mixed, make_anndata, gene_ids):
    make_anndata(["a", "b"], gene_ids[:5]).write_h5ad(tmp_path / "first.h5ad")
    corpus = tmp_path / "corpus"
    ingest([tmp_path / "first.h5ad"], corpus)
    fields = json.loads((corpus / "manifest.json").read_text())
    fields["format_version"] = 1
    for key in ("input", "kind", "given", "total_hits", "hits_from", "build", "build_evidence", "notes"):
        del fields["stores"][0][key]
    (corpus / "manifest.json").write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n")
    before = open_corpus(corpus)
    assert before.manifest.format_version == 1
    assert ingest([tmp_path / "first.h5ad"], corpus)[0].status == "already there"
    assert open_corpus(corpus).digest == before.digest
    ingest([mixed], corpus)
    after = open_corpus(corpus)
    assert after.manifest.format_version == FORMAT_VERSION
    assert after.stores[0].entry == before.stores[0].entry


# --- many at once ---


@pytest.fixture
def several(tmp_path, paired, make_anndata, write_h5mu, gene_ids):
    """Five inputs of different kinds, whose features overlap."""
    paths = [paired]
    for number in range(3):
        path = tmp_path / f"rna-{number}.h5ad"
        make_anndata([f"c{i}" for i in range(30)], gene_ids[number * 20 :][:40], number).write_h5ad(path)
        paths.append(path)
    atac = make_anndata([f"c{i}" for i in range(30)], PEAKS[::-1], 5)
    return [*paths, write_h5mu(tmp_path / "atac.h5mu", {"atac": atac})]


def test_how_many_at_once_does_not_change_a_byte(tmp_path, several, content):
    told = []
    one = ingest(several, tmp_path / "one")
    three = ingest(several, tmp_path / "three", jobs=3, on_progress=lambda *words: told.append(words))
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert [(r.name, r.status, r.entries) for r in one] == [(r.name, r.status, r.entries) for r in three]
    assert {(number, name) for number, name, _, _ in told} == {
        (number, path.name.split(".")[0]) for number, path in enumerate(several)
    }
    assert all(done <= total for _, _, done, total in told)


def test_a_bad_one_among_many_keeps_those_before_it(tmp_path, several, monkeypatch):
    with h5py.File(several[2], "r+") as file:
        file["X/data"][-1] = 0.5
    # The check of all inputs, in this process, is made to see little; the processes that read see more.
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_PLACES", 1)
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 10)
    line = refusal(several, tmp_path / "corpus", jobs=2)
    assert str(several[2]) in line
    names = [entry.name for entry in read_manifest(tmp_path / "corpus").stores]
    assert set(names) >= {"paired", "rna-0"}
    assert "rna-1" not in names
    assert not list((tmp_path / "corpus").glob(".staging-*"))


def test_a_killed_process_is_told(tmp_path, mixed):
    broken = Future()
    broken.set_exception(BrokenProcessPool("gone"))
    file = engines.Input(mixed, "mixed", "h5mu", "", ())
    with pytest.raises(InputError, match=r"was killed \(out of memory.*__main__.*\); run this again, with --jobs 1"):
        engines._next(file, in_turn(lambda task: task, [broken], ahead=1))


ORPHANS = """
import multiprocessing, os, signal, sys
from mofm.corpus.ingest import ingest

def die(*_):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    ingest(sys.argv[2:], sys.argv[1], jobs=2, on_progress=die)
"""


def test_processes_end_with_their_parent(tmp_path, several, content):
    (tmp_path / "script.py").write_text(ORPHANS)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "corpus", *several]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    children = [int(pid) for pid in done.stdout.split()]
    assert children
    for _ in range(600):
        alive = [pid for pid in children if is_alive(pid)]
        if not alive:
            break
        time.sleep(0.05)
    assert not alive
    ingest(several, tmp_path / "corpus")
    ingest(several, tmp_path / "unbroken")
    assert content(tmp_path / "corpus") == content(tmp_path / "unbroken")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_processes_are_for_large_files(tmp_path, mixed, monkeypatch):
    monkeypatch.setattr("mofm.corpus.ingest.os.sched_getaffinity", lambda _: range(8), raising=False)
    assert jobs_for([mixed] * 5) == 1
    monkeypatch.setattr("mofm.corpus.ingest.WORTH_A_PROCESS", 1000)
    assert jobs_for([mixed] * 5) == 5
    assert jobs_for([mixed] * 20) == 8
    assert jobs_for([tmp_path / "absent"]) == 1
    assert "--jobs 0" in refusal([mixed], tmp_path / "corpus", jobs=0)


# --- real files ---


def test_real_files_are_ingested_and_read_back_by_anndata(tmp_path, real_data):
    names = ["citeseq_pbmc_500.h5mu", "a549_scicar.h5mu", "multiome_S1.h5mu", "kang_pbmc_ctrl.h5ad"]
    paths = [real_data(name) for name in names]
    results = ingest(paths, tmp_path / "corpus")
    found = {(entry.name, entry.modality): entry for result in results for entry in result.entries}
    assert list(found) == [
        ("citeseq_pbmc_500", "rna"), ("citeseq_pbmc_500", "adt"), ("a549_scicar", "rna"), ("a549_scicar", "atac"),
        ("multiome_S1", "rna"), ("multiome_S1", "atac"), ("kang_pbmc_ctrl", "rna"),
    ]  # fmt: skip
    assert found["a549_scicar", "atac"].build == "GRCh37"
    assert found["multiome_S1", "atac"].build == "GRCh38"
    assert found["citeseq_pbmc_500", "rna"].left_out == {"hto": 4}
    assert open_corpus(tmp_path / "corpus").n_cells == 500 + 2641 + 300 + 6548
    for path, result in zip(paths, results, strict=True):
        for entry in result.entries:
            with h5py.File(path) as file:
                truth = anndata.io.read_elem(file if path.suffix == ".h5ad" else file[f"mod/{entry.modality}"])
            read = read_store(tmp_path / "corpus", entry)
            assert read.obs_names.tolist() == truth.obs_names.tolist()
            assert list(read.obs.columns) == list(truth.obs.columns)
            expected = summed(truth, read.var["name_in_file"])
            assert (expected != read.X).nnz == 0


def summed(adata: anndata.AnnData, joined: pd.Series) -> scipy.sparse.csr_matrix:
    """The columns of each of `joined` (names joined by ";") added up."""
    parts = [part.split(";") for part in joined]
    rows = adata.var_names.get_indexer([name for part in parts for name in part])
    columns = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    adds = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (adata.n_vars, len(parts)))
    return scipy.sparse.csr_matrix(adata.X) @ adds
