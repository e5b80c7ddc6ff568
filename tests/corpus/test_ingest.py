"""Whatever the file, the same store; whatever happens on the way, the corpus as before, and in the end the same bytes.

Kills are real: a process that ingests is ended by SIGKILL at a chosen point, in the driver below.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tracemalloc

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse
from blake3 import blake3

from mofm.corpus import inputs, prepare
from mofm.corpus.ingest import ingest
from mofm.corpus.manifest import MANIFEST
from mofm.corpus.staging import STAGING
from mofm.corpus.store import open_corpus, read_manifest
from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.readers import CountTable


@pytest.fixture
def counts(draw_counts):
    return draw_counts(60, 50)


@pytest.fixture
def one(tmp_path, counts, write_h5ad, gene_ids):
    return write_h5ad(tmp_path / "one.h5ad", counts, gene_ids[:50])


@pytest.fixture
def two(tmp_path, draw_counts, write_h5ad, gene_ids):
    """A second file: half of its genes are those of `one`, in another order."""
    return write_h5ad(tmp_path / "two.h5ad", draw_counts(40, 50, seed=1), gene_ids[74:24:-1])


def dense_of(corpus, name: str) -> np.ndarray:
    store = next(store for store in open_corpus(corpus).stores if store.name == name)
    rows = store.read_rows(0, store.n_cells).result()
    return scipy.sparse.csr_array((rows.data, rows.indices, rows.indptr_N), (store.n_cells, store.n_features)).toarray()


def refusal(*args, **kwargs) -> str:
    """The one line that refuses this ingest."""
    with pytest.raises(InputError) as caught:
        ingest(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- whatever the file, the same store ---


def rewrite(path, place: str, layout) -> None:
    """The same file with its counts in `place` in another layout, other numbers in X where that is not the place."""
    adata = anndata.read_h5ad(path)
    matrix = layout(adata.X)
    if place == "raw/X":
        adata.X = matrix
        adata.raw = adata
    if place == "layers/counts":
        adata.layers["counts"] = matrix
    adata.X = matrix if place == "X" else np.log1p(adata.X.toarray())
    adata.write_h5ad(path)


LAYOUTS = {
    "csc": ("X", scipy.sparse.csc_matrix),
    "dense": ("X", scipy.sparse.csr_matrix.toarray),
    "layer": ("layers/counts", scipy.sparse.csr_matrix),
    "raw": ("raw/X", scipy.sparse.csc_matrix),
}


@pytest.fixture(scope="module")
def csr_stores(tmp_path_factory, draw_counts, write_h5ad, gene_ids, content):
    """What the stores folder holds after `one` was ingested as it is."""
    folder = tmp_path_factory.mktemp("csr")
    ingest([write_h5ad(folder / "one.h5ad", draw_counts(60, 50), gene_ids[:50])], folder / "corpus")
    return content(folder / "corpus" / "stores")


@pytest.mark.parametrize(("place", "layout"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_the_same_counts_give_the_same_store(tmp_path, one, counts, content, csr_stores, place, layout):
    rewrite(one, place, layout)
    (result,) = ingest([one], tmp_path / "corpus")
    assert result.entry.counts_from == place
    np.testing.assert_array_equal(dense_of(tmp_path / "corpus", "one"), counts)
    assert content(tmp_path / "corpus" / "stores") == csr_stores


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_store_of_the_same_counts_gives_the_same_store(tmp_path, one, content, csr_stores, version):
    with anndata.settings.override(zarr_write_format=version):
        anndata.read_h5ad(one).write_zarr(tmp_path / "one.zarr")
    (result,) = ingest([tmp_path / "one.zarr"], tmp_path / "corpus")
    assert (result.name, result.entry.kind, result.entry.source) == ("one", "zarr", "one.zarr")
    assert content(tmp_path / "corpus" / "stores") == csr_stores
    assert ingest([tmp_path / "one.zarr"], tmp_path / "corpus")[0].status == "already there"


def test_a_store_of_a_corpus_is_an_input(tmp_path, one, counts):
    ingest([one], tmp_path / "corpus")
    (result,) = ingest([tmp_path / "corpus" / "stores" / "one.rna.zarr"], tmp_path / "another")
    assert result.name == "one.rna"
    np.testing.assert_array_equal(dense_of(tmp_path / "another", "one.rna"), counts)
    there, here = (open_corpus(tmp_path / name) for name in ("corpus", "another"))
    assert here.features["id"].tolist() == there.features["id"].tolist()
    assert here.stores[0].obs().equals(there.stores[0].obs())


def test_a_zarr_store_of_other_chunks_in_the_same_files_is_another_input(tmp_path, one):
    """Its files are told by where they are in it, not by their names alone."""
    anndata.read_h5ad(one).write_zarr(tmp_path / "a.zarr")
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "b.zarr")
    (tmp_path / "b.zarr/obsm").rename(tmp_path / "b.zarr/obsx")
    results = ingest([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "corpus")
    assert [result.status for result in results] == ["ingested"] * 2
    assert len({result.entry.digest for result in results}) == 2


def test_names_of_one_gene_become_one_column(tmp_path, write_h5ad):
    table = gene_table("human")
    cd3d, actb = "ENSG00000167286", "ENSG00000075624"
    symbol = {gene: table.symbols[table.row_of_id[gene]] for gene in (cd3d, actb)}
    names = [symbol[cd3d], f"{actb}.17", "no such gene", f"{cd3d}.4", actb, cd3d]
    counts = np.array([[1, 2, 3, 200, 0, 100], [0, 0, 0, 0, 7, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 5, 70_000, 0]])
    (result,) = ingest([write_h5ad(tmp_path / "a.h5ad", counts, names)], tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.features["id"].tolist() == [cd3d, actb, "no such gene"]
    assert corpus.features["symbol"].tolist() == [symbol[cd3d], symbol[actb], "no such gene"]
    summed = [[301, 2, 3], [1, 7, 0], [0, 0, 0], [5, 70_001, 0]]
    np.testing.assert_array_equal(dense_of(tmp_path / "corpus", "a"), summed)
    var = corpus.stores[0].var()
    assert var["name_in_file"].tolist() == [f"CD3D;{cd3d}.4;{cd3d}", f"{actb}.17;{actb}", "no such gene"]
    assert var["resolved"].tolist() == ["symbol", "ensembl_versioned", "unresolved"]
    assert result.entry.resolution["merged"] == 3
    assert (result.entry.max_count, result.entry.total_counts) == (70_001, counts.sum())


def test_a_sum_that_is_no_count_any_more_is_refused(tmp_path, write_h5ad):
    path = write_h5ad(tmp_path / "a.h5ad", np.array([[2**31, 2**31]]), ["CD3D", "ENSG00000167286"])
    assert f"{2**32:,}" in refusal([path], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_features_keep_their_rows_when_others_come(tmp_path, one, two, gene_ids):
    corpus = tmp_path / "corpus"
    ingest([one], corpus)
    before = open_corpus(corpus)
    ingest([two], corpus)
    after = open_corpus(corpus)
    assert after.features["id"].tolist() == gene_ids[:50] + gene_ids[74:49:-1]
    assert after.features[:50].equals(before.features)
    assert after.stores[0].feature_rows.tolist() == before.stores[0].feature_rows.tolist()
    rows = after.stores[1].feature_rows
    assert after.features["id"].to_numpy()[rows].tolist() == after.stores[1].var().index.tolist() == gene_ids[74:24:-1]


def test_counts_that_grow_on_the_way_are_stored_whole(tmp_path, draw_counts, write_h5ad, gene_ids, monkeypatch):
    monkeypatch.setattr(CountTable.rows, "__defaults__", (200,))
    counts = draw_counts(60, 50, largest=1)
    counts[20, 3], counts[40, 5] = 256, 65_536
    path = write_h5ad(tmp_path / "a.h5ad", counts, gene_ids[:50])
    seen = []
    ingest([path], tmp_path / "corpus", on_progress=lambda *told: seen.append(told))
    np.testing.assert_array_equal(dense_of(tmp_path / "corpus", "a"), counts)
    assert {(number, name, total) for number, name, _, total in seen} == {(0, "a", 60)}
    assert seen[-1][2] == 60


def test_a_store_of_many_shards_is_whole(tmp_path, one, counts, monkeypatch):
    monkeypatch.setattr(CountTable.rows, "__defaults__", (100,))
    monkeypatch.setattr("mofm.corpus.writer._CHUNK_ENTRIES", (16, 64))
    monkeypatch.setattr("mofm.corpus.writer.SHARD_CHUNKS", 2)
    ingest([one], tmp_path / "corpus")
    assert len(list((tmp_path / "corpus/stores/one.rna.zarr/X/data/c").iterdir())) == -(
        -np.count_nonzero(counts) // 128
    )
    np.testing.assert_array_equal(dense_of(tmp_path / "corpus", "one"), counts)


# --- again, and beside others ---


def state(folder) -> dict:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_same_files_again_change_nothing(tmp_path, one, two, content):
    corpus = tmp_path / "corpus"
    first = ingest([one, two], corpus)
    before, written = content(corpus), state(corpus)
    assert [result.status for result in first] == ["ingested"] * 2
    again = ingest([two, one], corpus)
    assert [(result.status, result.name) for result in again] == [("already there", "two"), ("already there", "one")]
    assert [result.entries for result in again] == [first[1].entries, first[0].entries]
    assert (content(corpus), state(corpus)) == (before, written)


def test_the_same_bytes_are_never_there_twice(tmp_path, one, content):
    copy = tmp_path / "copy.h5ad"
    copy.write_bytes(one.read_bytes())
    results = ingest([one, copy], tmp_path / "corpus", names=["a", "b"])
    assert [(result.name, result.status) for result in results] == [("a", "ingested"), ("a", "already there")]
    assert len(open_corpus(tmp_path / "corpus").stores) == 1


def test_a_file_is_read_for_its_digest_beforehand_only_where_it_may_be_known(tmp_path, one, two, monkeypatch):
    taken = []

    def digest_of(file, stop=None):
        taken.append((file.name, stop is None))
        return original(file, stop)

    original = inputs.digest_of
    for module in (inputs, prepare):
        monkeypatch.setattr(module, "digest_of", digest_of)
    assert one.stat().st_size != two.stat().st_size
    ingest([one, two], tmp_path / "corpus")
    assert taken == [("one", False), ("two", False)]
    ingest([one], tmp_path / "corpus")
    assert taken[2:] == [("one", True)]
    digests = [blake3(path.read_bytes()).hexdigest() for path in (one, two)]
    assert [entry.digest for entry in read_manifest(tmp_path / "corpus").stores] == digests


def test_another_file_of_a_known_name_is_refused(tmp_path, one, two, content):
    corpus = tmp_path / "corpus"
    ingest([one], corpus)
    before = content(corpus)
    assert "--names" in refusal([two], corpus, names=["one"])
    two.replace(one)
    assert "made from a different one.h5ad" in refusal([one], corpus)
    assert content(corpus) == before
    ingest([one], corpus, names=["other"])
    assert [store.name for store in open_corpus(corpus).stores] == ["one", "other"]


def test_a_file_read_in_another_way_is_refused(tmp_path, one, content):
    rewrite(one, "layers/counts", scipy.sparse.csr_matrix)
    with h5py.File(one, "r+") as file:
        file["layers/more"] = file["layers/counts"]
    ingest([one], tmp_path / "corpus")
    before = content(tmp_path / "corpus")
    assert "read from layers/counts" in refusal([one], tmp_path / "corpus", counts_from="layers/more")
    for same in ({"counts_from": "layers/counts"}, {"recover_counts": True}):
        assert ingest([one], tmp_path / "corpus", **same)[0].status == "already there"
    assert content(tmp_path / "corpus") == before


@pytest.fixture
def mouse(tmp_path, draw_counts, write_h5ad, gene_ids):
    """(file of mouse genes, table that makes all but the last of them the first human genes)."""
    names = [name for name in gene_table("mouse").symbols if name.startswith("Gpr")][:40]
    table = tmp_path / "mouse_human.tsv"
    table.write_text("".join(f"{name}\t{gene}\n" for name, gene in zip(names[:-1], gene_ids, strict=False)))
    return write_h5ad(tmp_path / "mouse.h5ad", draw_counts(40, 40, seed=2), names), table


def test_genes_of_another_species_are_refused_before_anything_is_written(tmp_path, one, mouse):
    line = refusal([one, mouse[0]], tmp_path / "corpus")
    assert f"{mouse[0]}: 100% of the genes are mouse genes" in line
    assert "--orthologs TABLE, or use --species mouse" in line
    assert not (tmp_path / "corpus").exists()


def test_orthologs_lead_into_the_corpus(tmp_path, one, mouse, gene_ids, content):
    path, table = mouse
    ingest([one], tmp_path / "corpus")
    (result,) = ingest([path], tmp_path / "corpus", orthologs=table)
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.stores[1].feature_rows.tolist() == [*range(39), 50]
    assert corpus.features["id"].iloc[50] == anndata.read_h5ad(path).var_names[39]
    np.testing.assert_array_equal(dense_of(tmp_path / "corpus", "mouse"), anndata.read_h5ad(path).X.toarray())
    resolution = result.entry.resolution
    assert (resolution["ortholog"], resolution["unresolved"], resolution["orthologs"]["pairs"]) == (39, 1, 39)
    assert result.entry.notes[0].startswith("39 of 40 genes through their one-to-one orthologs in mouse_human.tsv")
    before = content(tmp_path / "corpus")
    assert ingest([path], tmp_path / "corpus", orthologs=table.rename(tmp_path / "moved.tsv"))[0].status != "ingested"
    (tmp_path / "moved.tsv").write_text((tmp_path / "moved.tsv").read_text().replace("\t", ","))
    for other in (tmp_path / "moved.tsv", None):
        assert "in the corpus already" in refusal([path], tmp_path / "corpus", orthologs=other)
    assert content(tmp_path / "corpus") == before


def test_a_table_of_orthologs_that_cannot_be_read(tmp_path, one):
    line = refusal([one], tmp_path / "corpus", orthologs=tmp_path / "absent.tsv")
    assert "absent.tsv: cannot be read" in line
    assert not (tmp_path / "corpus").exists()


def test_another_species_is_refused(tmp_path, one, two):
    ingest([one], tmp_path / "corpus")
    assert "a corpus has one table" in refusal([two], tmp_path / "corpus", species="mouse")


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "../b"], ["a", ""]])
def test_unusable_names_are_refused(tmp_path, one, two, names):
    assert "--names" in refusal([one, two], tmp_path / "corpus", names=names)
    assert not (tmp_path / "corpus").exists()


def test_a_second_ingest_at_once_is_refused(tmp_path, one, two, content):
    corpus, lines = tmp_path / "corpus", []
    ingest([one], corpus, on_progress=lambda *_: lines.append(refusal([two], corpus)))
    assert lines
    assert all("another mofm ingest is writing" in line for line in lines)
    ingest([one], tmp_path / "undisturbed")
    assert content(corpus) == content(tmp_path / "undisturbed")


def test_a_folder_of_other_things_stays_as_it_is(tmp_path, one, content):
    folder = tmp_path / "thesis"
    (folder / "stores").mkdir(parents=True)
    (folder / "chapter1.tex").write_text("It was a dark and stormy night.")
    before = content(folder)
    assert "chapter1.tex" in refusal([one], folder)
    assert content(folder) == before
    assert "cannot be written" in refusal([one], folder / "chapter1.tex")


@pytest.mark.parametrize("url", ["https://host/corpus", "s3:/bucket/corpus", "file:///corpus"])
def test_a_url_is_no_folder(tmp_path, one, monkeypatch, url):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "local folder" in refusal([one], url)
    assert list((tmp_path / "here").iterdir()) == []


# --- bad inputs ---


def test_nothing_is_written_where_one_of_several_is_bad(tmp_path, one, two, content):
    adata = anndata.read_h5ad(two)
    adata.X = np.log1p(adata.X.toarray())
    adata.write_h5ad(two)
    for bad in (two, tmp_path / "missing.h5ad"):
        assert str(bad) in refusal([one, bad], tmp_path / "deep" / "corpus")
        assert not (tmp_path / "deep").exists()
    assert "nothing to ingest" in refusal([], tmp_path / "deep")
    ingest([one], tmp_path / "corpus")
    before = content(tmp_path / "corpus")
    refusal([one, two], tmp_path / "corpus")
    assert content(tmp_path / "corpus") == before


def test_a_bad_value_that_no_sample_sees_leaves_its_file_out(tmp_path, one, two, content, monkeypatch):
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_PLACES", 2)
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 20)
    good = two.read_bytes()
    adata = anndata.read_h5ad(two)
    adata.X.data[adata.X.nnz // 2] = 0.5
    adata.write_h5ad(two)
    assert "'cell-" in refusal([one, two], tmp_path / "corpus")
    assert [entry.name for entry in read_manifest(tmp_path / "corpus").stores] == ["one"]
    two.write_bytes(good)
    assert [result.status for result in ingest([one, two], tmp_path / "corpus")] == ["already there", "ingested"]
    ingest([one, two], tmp_path / "unbroken")
    assert content(tmp_path / "corpus") == content(tmp_path / "unbroken")


@pytest.mark.parametrize("change", [lambda path: path.open("ab").write(b"more"), lambda path: path.unlink()])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, one, change):
    assert "was changed" in refusal([one], tmp_path / "corpus", on_progress=lambda *_: change(one))
    assert not (tmp_path / "corpus").exists()


# --- the disk ---


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


PLACES = {
    "counts": "mofm.corpus.writer._OutArray.write",
    "flush": "mofm.corpus.writer.sync",
    "feature table": "mofm.corpus.staging.features_to_bytes",
    "manifest": "mofm.corpus.staging._sync_folder",
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, draw_counts, write_h5ad, gene_ids, content):
    """Two files, what a corpus of both holds, and what one of the first alone does."""
    folder = tmp_path_factory.mktemp("unbroken")
    paths = [
        write_h5ad(folder / f"{name}.h5ad", draw_counts(60, 50, seed=seed), gene_ids[25 * seed :][:50])
        for seed, name in enumerate(("one", "two"))
    ]
    ingest(paths[:1], folder / "corpus")
    first = content(folder / "corpus")
    ingest(paths[1:], folder / "corpus")
    return paths, first, content(folder / "corpus")


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_full_disk_leaves_nothing_and_goes_on_when_there_is_room(tmp_path, unbroken, content, place):
    (first, second), of_one, of_both = unbroken
    corpus = tmp_path / "corpus"
    for paths, before in (([first], None), ([first, second], of_one)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, full_disk)
            assert "the disk is full" in refusal(paths, corpus)
        if before is None:
            assert not corpus.exists()
        else:
            # The manifest says how many rows of the feature table count, so more of them are no change.
            assert content(corpus) | {"features.parquet": b""} == before | {"features.parquet": b""}
            assert len(open_corpus(corpus).features) == 50
        ingest(paths, corpus)
    assert content(corpus) == of_both


def test_a_write_that_the_system_refuses_is_told(tmp_path, one, counts):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        line = refusal([one], tmp_path / "corpus")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written (File too large)" in line
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_tensorstore_says_of_the_disk_is_understood(tmp_path, one, monkeypatch, number):
    class Failing:
        def result(self):
            raise ValueError(f"UNKNOWN: writing failed: {os.strerror(number)} [tensorstore_spec='{{\n}}']")

    monkeypatch.setattr("mofm.corpus.writer._OutArray.write", lambda *_: Failing())
    line = refusal([one], tmp_path / "corpus")
    assert ("the disk is full" if number == errno.ENOSPC else "check the path, its permissions") in line
    assert not (tmp_path / "corpus").exists()


# --- kills ---

BLOCK_ENTRIES = 200

DRIVER = """
import json, os, pkgutil, signal, sys
import mofm.corpus.writer
from mofm.corpus.ingest import ingest
from mofm.omics.checks import gene_share
from mofm.omics.readers import CountTable


def die_at(target, nth, when):
    owner, name = target.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner)
    original, calls = getattr(owner, name), 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


inputs, block_entries, runs = json.loads(sys.argv[1])
CountTable.rows.__defaults__ = (block_entries,)
# Imports and gene tables take seconds, so each ingest is a fork of one process that has them and has written nothing.
gene_share(["CD3D"])
for corpus, point in runs:
    child = os.fork()
    if child == 0:
        try:
            die_at(*point)
            ingest(inputs, corpus)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (point, status)
"""

POINTS = {
    "the lock is held": ("mofm.corpus.staging._lock", 1, "after", 0),
    "counts are half written": ("mofm.corpus.writer._Entries.append", 3, "after", 0),
    "the store is half on disk": ("os.fsync", 20, "before", 0),
    "the store is complete": ("mofm.corpus.ingest.commit", 1, "before", 0),
    "the store is in place": ("mofm.corpus.staging._sync_folder", 1, "before", 0),
    "the feature table is in place": ("mofm.corpus.staging.replace_file", 1, "after", 0),
    "the manifest is in place": ("mofm.corpus.staging._sync_folder", 3, "before", 1),
    "the longer feature table is in place": ("mofm.corpus.staging._sync_folder", 5, "before", 1),
    "all is done but the cleaning": ("mofm.corpus.ingest.commit", 2, "after", 2),
}
"""(function, which call of it, before or after it, stores that the corpus then has)."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, unbroken):
    """The corpus that each kill leaves behind."""
    folder = tmp_path_factory.mktemp("killed")
    corpora = {what: folder / what.replace(" ", "-") for what in POINTS}
    runs = [(str(corpora[what]), point[:3]) for what, point in POINTS.items()]
    inputs = [str(path) for path in unbroken[0]]
    subprocess.run([sys.executable, "-c", DRIVER, json.dumps([inputs, BLOCK_ENTRIES, runs])], check=True, timeout=120)
    return corpora


@pytest.mark.parametrize("what", POINTS)
def test_a_killed_ingest_is_as_if_it_had_not_been_and_then_goes_on(killed, unbroken, content, monkeypatch, what):
    paths, _, whole = unbroken
    corpus, n_stores = killed[what], POINTS[what][3]
    if n_stores:
        assert [store.name for store in open_corpus(corpus).stores] == ["one", "two"][:n_stores]
        assert len(open_corpus(corpus).features) == (50, 75)[n_stores - 1]
    else:
        assert corpus.exists()
        assert read_manifest(corpus) is None
    monkeypatch.setattr(CountTable.rows, "__defaults__", (BLOCK_ENTRIES,))
    statuses = [result.status for result in ingest(paths, corpus)]
    assert statuses == ["already there"] * n_stores + ["ingested"] * (2 - n_stores)
    assert content(corpus) == whole


def test_what_a_killed_ingest_left_is_cleaned_up_by_the_next(killed, one):
    corpus = killed["counts are half written"]
    (corpus / f"{STAGING}left" / "store").mkdir(parents=True)
    ingest([one], corpus, names=["third"])
    assert sorted(path.name for path in corpus.iterdir()) == [".lock", "features.parquet", MANIFEST, "stores"]


# --- memory ---


def test_memory_does_not_follow_the_file(tmp_path, write_h5ad, monkeypatch):
    """What TensorStore holds itself is not seen here; it gets a shard at a time."""
    monkeypatch.setattr(CountTable.rows, "__defaults__", (10_000,))
    monkeypatch.setattr("mofm.omics.matrices._SAMPLE_ENTRIES", 500)
    monkeypatch.setattr("mofm.corpus.writer.SHARD_CHUNKS", 1)
    names, peaks, entries = [f"gene-{i}" for i in range(2_000)], [], []
    for n_cells in (200, 800):
        counts = np.random.default_rng(0).poisson(0.7, (n_cells, 2_000))
        path = write_h5ad(tmp_path / f"{n_cells}.h5ad", counts, names)
        entries.append(np.count_nonzero(counts))
        if n_cells == 200:
            ingest([path], tmp_path / "warm")  # imports and caches are paid for by a run that is not measured
        tracemalloc.start()
        ingest([path], tmp_path / f"{n_cells}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bytes_a_cell = 700
    assert peaks[1] - peaks[0] < 600 * bytes_a_cell < entries[1] - entries[0]
