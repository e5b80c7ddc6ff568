"""What was ingested is read back exactly, by mofm and by everyone else's readers; and damage is told, never read."""

import shutil
import threading
from contextlib import ExitStack, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from mofm.corpus.buffers import RowBuffers
from mofm.corpus.features import features_from_bytes
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.rows import CountRows

SHAPES = {"wide": (230, 300, 70_000), "narrow": (57, 40, 200)}
"""Cells, genes and largest count of each store: more than one chunk and counts of uint32; one chunk and uint8."""


@pytest.fixture(scope="module")
def truth(draw_counts):
    return {name: draw_counts(*shape[:2], largest=shape[2]) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, truth, write_h5ad, gene_ids):
    """A corpus of both stores; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("store")
    starts = {"wide": 0, "narrow": 280}
    paths = [
        write_h5ad(folder / f"{name}.h5ad", counts, gene_ids[starts[name] :][: counts.shape[1]], prefix=name)
        for name, counts in truth.items()
    ]
    with pytest.MonkeyPatch.context() as patch:
        # Several shards of several chunks, as a store of a million cells has.
        patch.setattr("mofm.corpus.writer.SHARD_CHUNKS", 2)
        ingest(paths, folder / "corpus")
    return folder / "corpus"


@pytest.fixture
def damageable(ingested, tmp_path):
    return shutil.copytree(ingested, tmp_path / "corpus")


def dense_of(rows: CountRows, n_features: int) -> np.ndarray:
    """The rows as a dense matrix; what `CountRows` promises is asserted on the way."""
    assert rows.indptr_N.dtype == np.int64
    assert rows.indptr_N[0] == 0
    assert rows.indptr_N[-1] == len(rows.indices) == len(rows.data)
    assert (rows.data > 0).all()
    matrix = scipy.sparse.csr_array(
        (rows.data.astype(np.int64), rows.indices, rows.indptr_N), (rows.n_cells, n_features)
    )
    assert matrix.has_canonical_format
    return matrix.toarray()


def ranges(n_cells: int) -> list[tuple[int, int]]:
    """All of the cells, none, single ones, and some at random."""
    some = np.sort(np.random.default_rng(1).integers(0, n_cells + 1, (40, 2)))
    return [(0, n_cells), (0, 0), (n_cells, n_cells), (0, 1), (n_cells - 1, n_cells), *map(tuple, some.tolist())]


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- read back ---


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("with_buffers", [False, True])
def test_any_range_of_cells_is_read_exactly(ingested, truth, name, with_buffers):
    store = next(store for store in open_corpus(ingested).stores if store.name == name)
    buffers = RowBuffers() if with_buffers else None
    for start, stop in ranges(store.n_cells):
        rows = store.read_rows(start, stop, buffers).result()
        np.testing.assert_array_equal(dense_of(rows, store.n_features), truth[name][start:stop])


def test_counts_are_stored_as_small_as_they_fit(ingested):
    dtypes = {s.name: [a.dtype for a in s.read_rows(0, 5).result()[:3]] for s in open_corpus(ingested).stores}
    assert dtypes == {"wide": [np.int64, np.uint16, np.uint32], "narrow": [np.int64, np.uint16, np.uint8]}


def test_many_reads_at_once_do_not_mix(ingested, truth):
    stores = open_corpus(ingested).stores
    asked = [(store, *span) for span in ranges(57) for store in stores]
    pending = [store.read_rows(start, stop) for store, start, stop in asked]
    for (store, start, stop), rows in reversed(list(zip(asked, pending, strict=True))):
        np.testing.assert_array_equal(dense_of(rows.result(), store.n_features), truth[store.name][start:stop])


def test_buffers_are_used_again(ingested):
    store, buffers = open_corpus(ingested).stores[0], RowBuffers()
    first = store.read_rows(0, 100, buffers).result()
    second = store.read_rows(100, 130, buffers).result()
    held = np.concatenate([first.indices.view(np.uint8), first.data.view(np.uint8)])
    assert np.shares_memory(first.indices, second.indices)
    assert np.shares_memory(first.indices, second.data)  # the smaller read lies where the larger one's beginning was
    assert len(held) >= second.indices.nbytes + second.data.nbytes


def test_spans_come_one_behind_the_other_in_one_memory(ingested, truth):
    stores, buffers = open_corpus(ingested).stores, RowBuffers()
    spans = [(40, 50), (7, 7), (0, 3), (50, 57)]
    buffers.reserve(sum(store.n_bytes(spans) for store in stores))
    pending = [store.read_spans(spans, buffers) for store in stores]
    for store, rows in zip(stores, (read.result() for read in pending), strict=True):
        expected = np.concatenate([truth[store.name][start:stop] for start, stop in spans])
        np.testing.assert_array_equal(dense_of(rows, store.n_features), expected)
        assert rows.indptr_N.dtype == np.int64
    (only,) = stores[:1]
    buffers.reserve(only.n_bytes([]))
    assert only.read_spans([], buffers).result().n_cells == 0


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 231)])
def test_cells_that_are_not_there_are_no_cells(ingested, start, stop):
    with pytest.raises(ValueError, match="of a store of 230"):
        open_corpus(ingested).stores[0].read_rows(start, stop)


def test_names_labels_and_features_come_along(ingested, gene_ids):
    corpus = open_corpus(ingested)
    wide, narrow = corpus.stores
    assert corpus.features["id"].tolist() == gene_ids[:320]
    for store, first in ((wide, 0), (narrow, 280)):
        assert store.feature_rows.tolist() == list(range(first, first + store.n_features))
        var = store.var()
        assert var.index.tolist() == corpus.features["id"].to_numpy()[store.feature_rows].tolist()
        assert var["symbol"].tolist() == corpus.features["symbol"].to_numpy()[store.feature_rows].tolist()
        assert var["feature_row"].tolist() == store.feature_rows.tolist()
        obs = store.obs()
        assert obs["label"].tolist() == (["T cell", "B cell"] * store.n_cells)[: store.n_cells]
        np.testing.assert_array_equal(obs["score"], np.linspace(0, 1, store.n_cells))
        assert store.obs_columns() == obs.columns.tolist()
        assert list(store.obs_column("label")) == obs["label"].tolist()
        np.testing.assert_array_equal(store.obs_column("score"), obs["score"])
    assert (corpus.n_cells, corpus.offsets.tolist()) == (287, [0, 230, 287])
    assert [corpus.cell_name(cell) for cell in (0, 229, 230, 286)] == [
        *("wide:wide-0", "wide:wide-229", "narrow:narrow-0", "narrow:narrow-56")
    ]
    with pytest.raises(IndexError):
        corpus.locate(287)


def test_the_manifest_counts_what_is_there(ingested, truth):
    for store in open_corpus(ingested).stores:
        counts, entry = truth[store.name], store.entry
        assert (entry.cells, entry.features) == counts.shape
        assert (entry.entries, entry.total_counts) == (np.count_nonzero(counts), counts.sum())
        assert (entry.max_count, entry.empty_cells) == (counts.max(), (counts.sum(1) == 0).sum())


# --- other readers ---


def test_anndata_reads_it(ingested, truth):
    for store in open_corpus(ingested).stores:
        adata = anndata.io.read_zarr(ingested / store.entry.path)
        np.testing.assert_array_equal(adata.X.toarray(), truth[store.name])
        assert adata.obs_names.tolist() == store.obs().index.tolist()
        assert adata.var_names.tolist() == store.var().index.tolist()
        assert adata.obs["label"].tolist() == store.obs()["label"].tolist()


def test_zarr_reads_it(ingested, truth):
    for store in open_corpus(ingested).stores:
        group = zarr.open_group(ingested / store.entry.path, mode="r")["X"]
        arrays = tuple(group[key][:] for key in ("data", "indices", "indptr"))
        counts = scipy.sparse.csr_array(arrays, tuple(group.attrs["shape"]))
        np.testing.assert_array_equal(counts.toarray(), truth[store.name])
        assert group["data"].shards is not None


def test_annbatch_reads_it(ingested, truth):
    annbatch = pytest.importorskip("annbatch")
    loader = annbatch.Loader(batch_size=10, chunk_size=10, preload_nchunks=2, shuffle=False)
    store = zarr.open_group(ingested / open_corpus(ingested).stores[0].entry.path, mode="r")
    loader.add_dataset(anndata.io.sparse_dataset(store["X"]))
    counts = [scipy.sparse.csr_matrix(batch["X"]).toarray() for batch in loader]
    np.testing.assert_array_equal(np.concatenate(counts), truth["wide"])


def test_annbatchs_own_collection_is_an_input(tmp_path, ingested):
    annbatch = pytest.importorskip("annbatch")
    source = anndata.io.read_zarr(ingested / open_corpus(ingested).stores[0].entry.path)
    source.write_h5ad(tmp_path / "cells.h5ad")
    collection = annbatch.DatasetCollection(tmp_path / "cells.zarr")
    collection.add_adatas(
        [tmp_path / "cells.h5ad"], dataset_size=20, shuffle_chunk_size=5, n_obs_per_chunk=4, shard_size=8
    )
    (result,) = ingest([tmp_path / "cells.zarr"], tmp_path / "corpus")
    assert result.entry.kind == "zarr collection"
    (store,) = open_corpus(tmp_path / "corpus").stores
    rows = store.read_rows(0, store.n_cells).result()
    read = scipy.sparse.csr_array((rows.data, rows.indices, rows.indptr_N), (store.n_cells, store.n_features))
    order = pd.Index(source.obs_names).get_indexer(store.obs().index)
    genes = pd.Index(source.var_names).get_indexer(store.var().index)
    assert sorted(order) == list(range(source.n_obs))
    assert (order != np.sort(order)).any()
    np.testing.assert_array_equal(read.toarray(), source.X.toarray()[order][:, genes])


# --- over http ---


class _PlainHandler(SimpleHTTPRequestHandler):
    """Python's own web server, which knows no byte ranges."""

    def log_message(self, *_):
        pass


class _RangeHandler(_PlainHandler):
    """What every web server and bucket does: "bytes=first-last", "bytes=first-" or "bytes=-length" of a file."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if "Range" not in self.headers or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start = int(first) if first else len(content) - int(last)
        part = content[start : int(last) + 1 if first and last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def serve(ingested, monkeypatch):
    """A function (handler) -> the URL of the corpus on a web server, which lists nothing that a reader understands."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as servers:

        def start(handler: type[SimpleHTTPRequestHandler]) -> str:
            server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=ingested))
            servers.callback(server.server_close)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            servers.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


def test_the_same_rows_come_over_http(serve, ingested, truth):
    there, here = open_corpus(serve(_RangeHandler)), open_corpus(ingested)
    assert there.digest == here.digest
    for far, near in zip(there.stores, here.stores, strict=True):
        assert far.feature_rows.tolist() == near.feature_rows.tolist()
        assert far.obs().equals(near.obs())
        assert far.var().equals(near.var())
        for start, stop in ((0, far.n_cells), (5, 5), (20, 30)):
            rows = far.read_rows(start, stop, RowBuffers()).result()
            np.testing.assert_array_equal(dense_of(rows, far.n_features), truth[far.name][start:stop])


def test_a_web_server_without_byte_ranges_is_not_called_damage(serve):
    line = refusal(lambda: open_corpus(serve(_PlainHandler)).stores[0].read_rows(0, 5))
    assert "byte ranges" in line
    assert "damaged" not in line


def test_a_url_without_a_corpus_is_told(serve):
    assert "not a corpus" in refusal(lambda: open_corpus(serve(_RangeHandler) + "elsewhere"))


# --- damage ---


def read_all(folder) -> None:
    """Everything that mofm reads of a corpus."""
    corpus = open_corpus(folder)
    for store in corpus.stores:
        store.read_rows(0, store.n_cells).result()
        _ = store.feature_rows, store.obs(), store.var(), store.name_hashes()


def chunks_of(folder, store: str) -> list:
    return [path for path in sorted((folder / "stores" / f"{store}.rna.zarr").rglob("c/**/*")) if path.is_file()]


def test_a_changed_byte_is_found_in_whatever_chunk(damageable):
    read_all(damageable)
    chunks = chunks_of(damageable, "narrow")
    assert len({str(path.relative_to(damageable)).split("/c/")[0] for path in chunks}) == 14
    for path in chunks:
        sound = path.read_bytes()
        for place in np.unique(np.linspace(0, len(sound) - 1, 5).astype(int)):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
            line = refusal(partial(read_all, damageable))
            assert "narrow.rna.zarr" in line
            assert "copy the corpus again" in line
        path.write_bytes(sound)
    read_all(damageable)


def test_damaged_cells_are_named_and_the_others_read(damageable, truth):
    *_, last = [path for path in chunks_of(damageable, "wide") if "X/data" in str(path)]
    with last.open("r+b") as file:
        file.write(b"\xff" * 8)
    first_entry = int(last.name) * zarr.open_array(last.parents[1], mode="r").shards[0]
    first_cell = int(np.searchsorted(np.count_nonzero(truth["wide"], axis=1).cumsum(), first_entry, side="right"))
    store = open_corpus(damageable).stores[0]
    sound = store.read_rows(0, first_cell).result()
    np.testing.assert_array_equal(dense_of(sound, 300), truth["wide"][:first_cell])
    line = refusal(lambda: store.read_rows(first_cell, first_cell + 7).result())
    assert f"cells {first_cell} to {first_cell + 6} of store 'wide'" in line


def test_a_missing_chunk_is_an_error(damageable):
    for path in chunks_of(damageable, "narrow"):
        sound = path.read_bytes()
        path.unlink()
        assert "missing" in refusal(partial(read_all, damageable))
        path.write_bytes(sound)
    read_all(damageable)


def test_a_store_that_is_cut_short_or_gone_is_found_at_opening(damageable):
    wide, narrow = (damageable / "stores" / f"{name}.rna.zarr" for name in SHAPES)
    shutil.copytree(wide / "X" / "data", narrow / "X" / "data", dirs_exist_ok=True)
    assert "where the manifest says" in refusal(lambda: open_corpus(damageable))
    shutil.rmtree(narrow)
    assert "'narrow'" in refusal(lambda: open_corpus(damageable))


def test_a_feature_table_that_is_damaged_short_or_gone_is_told(damageable, ingested):
    path = damageable / "features.parquet"
    sound = path.read_bytes()
    for damage in (sound[:100] + b"\0" + sound[101:], sound[:-9], b""):
        path.write_bytes(damage)
        assert "features.parquet" in refusal(lambda: open_corpus(damageable))
    path.unlink()
    assert "features.parquet: the feature table is missing" in refusal(lambda: open_corpus(damageable))


def test_a_changed_byte_makes_no_other_gene_of_a_feature(ingested):
    content, features = (ingested / "features.parquet").read_bytes(), open_corpus(ingested).features
    for place in range(0, len(content) * 2 // 3, 7):
        changed = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
        with suppress(InputError):
            assert features_from_bytes(changed, len(features), "").equals(features)


def test_another_modality_is_refused(ingested):
    assert open_corpus(ingested, expect_modality="rna").n_cells == 287
    assert "holds rna, atac is needed" in refusal(lambda: open_corpus(ingested, expect_modality="atac"))


def test_a_folder_without_a_manifest_is_no_corpus(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert "not a corpus" in refusal(partial(open_corpus, folder))
