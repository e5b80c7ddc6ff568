"""The stream is a pure function of (seed, step), whatever hosts, threads and restarts there are."""

import dataclasses
import threading

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from mofm.batches.collate import collate
from mofm.batches.config import DataConfig
from mofm.batches.order import counter_hash
from mofm.batches.stream import Stream
from mofm.corpus.buffers import RowBuffers
from mofm.corpus.datasets import Dataset
from mofm.corpus.ingest import ingest
from mofm.corpus.simulated import simulate_corpus
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.rows import CountRows
from mofm.omics.simulate import SimulationConfig


class FakeStore:
    """Random counts in memory, behind the interface of a corpus's store; counts its reads."""

    modality = "rna"

    def __init__(self, name, dataset, cells, feature_rows):
        rng = np.random.default_rng(dataset)
        self.name, self.dataset, self.n_cells = name, dataset, cells
        self.feature_rows = np.asarray(feature_rows, np.int32)
        self.n_features = len(feature_rows)
        self.counts = rng.geometric(0.4, (cells, self.n_features)) * (rng.random((cells, self.n_features)) < 0.4)
        self.reads: list[tuple[int, int]] = []
        self.fails_at = None

    def n_bytes(self, spans):
        return 2 * bytes_of(np.count_nonzero(np.concatenate([self.counts[start:stop] for start, stop in spans])) * 2)

    def read_spans(self, spans, buffers=None):
        self.reads += spans
        if buffers is None:
            buffers = RowBuffers()
            buffers.reserve(self.n_bytes(spans))
        return FakeRead(self, spans, buffers)

    def read_rows(self, start, stop):
        return self.read_spans([(start, stop)])


class FakeRead:
    is_done = True

    def __init__(self, store, spans, buffers):
        dense = np.concatenate([store.counts[start:stop] for start, stop in spans])
        cells, columns = np.nonzero(dense)
        indptr_N = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(dense)))]).astype(np.int64)
        arrays = [buffers.take(np.dtype(np.uint16), len(cells)) for _ in range(2)]
        arrays[0][:], arrays[1][:] = columns, dense[cells, columns]
        self.rows = CountRows(indptr_N, *arrays)
        self.fails = any(store.fails_at is not None and start <= store.fails_at < stop for start, stop in spans)

    def result(self):
        if self.fails:
            raise OSError("disk is on fire")
        return self.rows


def bytes_of(length):
    """What an array of so many bytes takes of a RowBuffers: whole cache lines."""
    return -(-length // 64) * 64


class FakeCorpus:
    def __init__(self, sizes=(100, 3, 57)):
        rng = np.random.default_rng(9)
        names = ["blood", "brain", "kidney", "heart"]
        self.stores = tuple(
            FakeStore(names[i], i, cells, rng.permutation(80)[: 40 + i]) for i, cells in enumerate(sizes)
        )

        self.datasets = [Dataset(store.name, i, {"rna": store}) for i, store in enumerate(self.stores)]
        self.features = pd.DataFrame({"modality": ["rna"] * 80})

    def cell_name(self, cell):
        return f"cell {cell}"

    @property
    def reads(self):
        return sum(len(store.reads) for store in self.stores)


CONFIG = DataConfig("corpus", batch_size=24, tokens=20, block_cells=8, window_blocks=4, holdout_fraction=0.2)


def stream_of(corpus=None, seed=1, *, host=0, hosts=1, **changes):
    return Stream(corpus or FakeCorpus(), dataclasses.replace(CONFIG, **changes), seed, host=host, hosts=hosts)


def assert_same(one, other):
    for a, b in zip(one.rna[:7], other.rna[:7], strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_batches_hold_the_order_with_tokens_of_each_cell():
    corpus = FakeCorpus()
    stream = stream_of(corpus)
    counts = np.concatenate([np.pad(store.counts, ((0, 0), (0, 2 - i))) for i, store in enumerate(corpus.stores)])
    seen = []
    for batch in stream.batches(0, 12):
        assert batch.atac is batch.adt is batch.methylation is None
        rna = batch.rna
        seen += rna.cell_B.tolist()
        np.testing.assert_array_equal(rna.library_B, counts[rna.cell_B].sum(1))
        np.testing.assert_array_equal(rna.dataset_B, np.searchsorted([100, 103], rna.cell_B, side="right"))
        for i, dataset in enumerate(rna.dataset_B):
            column = {row: c for c, row in enumerate(corpus.stores[dataset].feature_rows)}
            mask = rna.mask_BL[i]
            truth = [counts[rna.cell_B[i], column[row]] for row in rna.features_BL[i, mask]]
            np.testing.assert_array_equal(rna.counts_BL[i, mask], truth)
    n = stream.n_train_cells
    assert n + stream.n_heldout_cells == 160
    for served in range(24, len(seen) + 1, 24):  # no cell is an epoch ahead of another
        often = np.bincount(seen[:served], minlength=160)[sorted(set(seen))]
        assert often.min() >= served // n
        assert often.max() <= -(-served // n)
    heldout = {int(cell) for batch in stream.heldout_batches() for cell in batch.rna.cell_B}
    assert not heldout & set(seen)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("window_blocks", [1, 4, 1000])
def test_batches_are_the_same_however_they_are_made(prefetch, window_blocks):
    reference = stream_of(window_blocks=window_blocks, prefetch=0)
    made = list(stream_of(prefetch=prefetch, window_blocks=window_blocks).batches(3, 15))
    assert len(made) == 12
    for step, batch in enumerate(made, 3):
        assert_same(batch, reference.batch(step))
    restarted = stream_of(prefetch=prefetch, window_blocks=window_blocks).batches(11, 15)
    for step, batch in enumerate(restarted, 11):
        assert_same(batch, made[step - 3])
    for step in (14, 3, 9):
        assert_same(reference.batch(step), made[step - 3])


@pytest.mark.parametrize("hosts", [2, 4, 24])
def test_hosts_together_make_the_batch_of_one(hosts):
    one = stream_of()
    many = [stream_of(host=host, hosts=hosts) for host in range(hosts)]
    for step in (0, 5, 11):
        for whole, *parts in zip(
            one.batch(step).rna[:7], *(stream.batch(step).rna[:7] for stream in many), strict=True
        ):
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    heldouts = [list(stream.heldout_batches(30)) for stream in [one, *many]]
    assert {len(heldout) for heldout in heldouts} == {2}
    for whole, *parts in zip(*heldouts, strict=True):
        for leaf, *leaves in zip(whole.rna[:7], *(part.rna[:7] for part in parts), strict=True):
            np.testing.assert_array_equal(np.concatenate(leaves), leaf)


@pytest.mark.parametrize(("hosts", "most"), [(2, 0.65), (4, 0.45), (16, 0.25)])
def test_a_host_reads_the_blocks_of_its_rows_and_no_others(hosts, most):
    """An epoch is 256 blocks. Whatever lies at a border of two hosts' parts is read by both."""
    changes = dict(holdout_fraction=0.1, batch_size=128, window_blocks=32)
    shares, read_by_all = [], set()
    for host in range(hosts):
        corpus = FakeCorpus((1500, 548))
        stream = stream_of(corpus, host=host, hosts=hosts, prefetch=0, **changes)
        steps = stream.n_train_cells // 128
        served = {int(cell) for step in range(steps) for cell in stream.batch(step).rna.cell_B}
        reads = [(store.dataset, start) for store in corpus.stores for start, _ in store.reads]
        needed = {(int(cell >= 1500), (cell - 1500 * (cell >= 1500)) // 8 * 8) for cell in served}
        assert needed <= set(reads)
        last_window = 32  # of which the steps left after the last whole batch would have needed some
        assert len(set(reads) - needed) <= last_window
        assert len(reads) <= len(set(reads)) + last_window  # a block comes again in the next epoch's first window only
        shares.append(len(reads) / 257)
        read_by_all |= needed
    assert max(shares) < most
    assert len(read_by_all) > 250


@settings(max_examples=10, deadline=None)
@given(
    hosts=st.lists(st.sampled_from([1, 2, 3, 4, 12]), min_size=2, max_size=3),
    batch_size=st.sampled_from([12, 24, 60]),
    window_blocks=st.sampled_from([1, 3, 8]),
)
def test_a_run_goes_on_under_another_number_of_hosts(hosts, batch_size, window_blocks):
    changes = dict(batch_size=batch_size, window_blocks=window_blocks, prefetch=0)
    one = stream_of(**changes)
    for part, n in enumerate(hosts):
        streams = [stream_of(host=host, hosts=n, **changes) for host in range(n)]
        for step in range(4 * part, 4 * part + 4):
            parts = [stream.batch(step).rna.features_BL for stream in streams]
            np.testing.assert_array_equal(np.concatenate(parts), one.batch(step).rna.features_BL)


def test_rows_of_a_batch_are_laid_block_by_block():
    """So that each host's are of few blocks; blocks themselves come in the order of the shuffle."""
    stream = stream_of(FakeCorpus((2000,)), batch_size=64, window_blocks=8, holdout_fraction=0.0)
    blocks = stream.batch(0).rna.cell_B // CONFIG.block_cells
    runs = blocks[np.flatnonzero(np.diff(blocks, prepend=-1))]
    assert len(runs) == len(set(runs.tolist())) == 8
    assert (np.diff(runs) < 0).any()


@pytest.mark.parametrize("hosts", [1, 2])
def test_count_batches_hold_all_counts_of_the_same_cells(hosts):
    corpus = FakeCorpus()
    for host in range(hosts):
        stream = stream_of(corpus, host=host, hosts=hosts)
        made = list(stream.count_batches(2, 9))
        assert len(made) == 7
        for step, batch in enumerate(made, 2):
            tokens = stream.batch(step).rna
            counts = batch["rna"]
            assert counts.hits is None
            assert counts.counts.dtype == np.uint16
            assert counts.features.dtype == np.int32
            np.testing.assert_array_equal(counts.cell_B, tokens.cell_B)
            np.testing.assert_array_equal(counts.dataset_B, tokens.dataset_B)
            dense = csr_matrix((counts.counts, counts.features, counts.indptr_B), shape=(24 // hosts, 80)).toarray()
            for row, cell, dataset in zip(dense, counts.cell_B, counts.dataset_B, strict=True):
                store = corpus.stores[dataset]
                truth = np.zeros(80, int)
                truth[store.feature_rows] = store.counts[cell - (0, 100, 103)[dataset]]
                np.testing.assert_array_equal(row, truth)


def test_a_damaged_store_is_named_by_count_batches_too():
    corpus = FakeCorpus()
    corpus.stores[0].feature_rows = corpus.stores[0].feature_rows[:5]
    with pytest.raises(InputError, match="'blood': an entry is in column"):
        list(stream_of(corpus).count_batches(0, 10))


def test_seeds_and_epochs_show_other_tokens():
    stream = stream_of(batch_size=1, holdout_fraction=0.0)
    n = stream.n_train_cells
    first, second = ({int(b.rna.cell_B[0]): b.rna for b in stream.batches(e * n, e * n + n)} for e in range(2))
    other = {int(b.rna.cell_B[0]): b.rna for b in stream_of(seed=2, batch_size=1, holdout_fraction=0.0).batches(0, n)}
    assert list(first) != list(second)
    assert list(first) != list(other)
    for later in (second, other):
        same = [np.array_equal(first[cell].features_BL, later[cell].features_BL) for cell in first]
        assert np.mean(same) < 0.1


def test_each_block_is_read_once_an_epoch():
    corpus = FakeCorpus((400, 200))
    stream = stream_of(corpus, holdout_fraction=0.0)
    steps = 600 // CONFIG.batch_size
    for _ in stream.batches(0, steps):
        pass
    reads = [(store.name, read) for store in corpus.stores for read in store.reads]
    assert len(reads) == len(set(reads)) == 600 // CONFIG.block_cells


def test_a_window_is_asked_for_before_it_is_needed_and_never_past_the_end():
    corpus = FakeCorpus((400,))
    stream = stream_of(corpus, holdout_fraction=0.0, batch_size=8, prefetch=1)
    made = [(len(stream.batch(0).rna.cell_B), corpus.reads)]  # a window is 4 batches
    made += [(len(stream._train_batch(step, 5).rna.cell_B), corpus.reads) for step in (0, 1, 2)]
    blocks = CONFIG.window_blocks
    assert made == [(8, blocks), (8, blocks), (8, 2 * blocks), (8, 2 * blocks)]  # once half of the window is served
    assert len(list(stream.batches(3, 5))) == 2
    assert corpus.reads == 2 * blocks


def test_few_windows_are_held():
    stream = stream_of(FakeCorpus((2000,)), holdout_fraction=0.0)
    (reader,) = stream._readers.values()
    held = [len(reader) for _ in stream.batches(0, 60)]
    assert max(held) <= 5  # 32 cells each, and 3 batches of 24 under way
    large = stream_of(FakeCorpus((2000,)), holdout_fraction=0.0, window_blocks=25)
    (reader,) = large._readers.values()
    held = [len(reader) for _ in large.batches(0, 60)]
    assert max(held) == 2  # 200 cells each: the one that is served, and from half of it on the next
    assert min(held[:-1]) == 1


def test_held_out_batches_repeat_and_pad():
    stream = stream_of()
    first, second = list(stream.heldout_batches()), list(stream.heldout_batches())
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)
    cells = np.concatenate([batch.rna.cell_B for batch in first])
    assert len(cells) % CONFIG.batch_size == 0
    real = cells[cells >= 0]
    assert len(real) == stream.n_heldout_cells
    assert np.all(np.diff(real) > 0)
    padded = first[-1].rna.cell_B < 0
    assert padded.any()
    assert np.all(first[-1].rna.dataset_B[padded] == -1)
    for leaf in first[-1].rna[:5]:
        assert not leaf[padded].any()
    few = list(stream.heldout_batches(7))
    assert len(few) == 1
    assert np.count_nonzero(few[0].rna.cell_B >= 0) == 7
    by_cell = {int(c): f for batch in first for c, f in zip(batch.rna.cell_B, batch.rna.features_BL, strict=True)}
    for cell, features in zip(few[0].rna.cell_B[:7], few[0].rna.features_BL, strict=False):
        np.testing.assert_array_equal(features, by_cell[int(cell)])  # a cell's tokens, whoever is with it


def test_held_out_tokens_are_those_of_collate():
    corpus = FakeCorpus()
    stream = stream_of(corpus, batch_size=100, holdout_datasets=("brain",), holdout_fraction=0.0)
    (batch,) = stream.heldout_batches()
    rest = dict(tokens=20, expressed_fraction=0.75, seeds_B=counter_hash((1, 102), np.arange(100, 103)))
    store = corpus.stores[1]
    expected = collate(store.read_rows(0, 3).result(), store.feature_rows, **rest, cell_B=[100, 101, 102], dataset_B=1)
    for leaf, truth in zip(batch.rna[:7], expected[:7], strict=True):
        np.testing.assert_array_equal(leaf[:3], truth)


def test_draws_are_pinned():
    """A change here is a change of what every run is trained on: runs begun before it do not resume to the same bits."""
    corpus = FakeCorpus()
    for store in corpus.stores:
        store.counts = (np.arange(store.counts.size).reshape(store.counts.shape) // 3) % 4
        store.feature_rows = np.arange(store.n_features, dtype=np.int32)[::-1]
    stream = stream_of(corpus, seed=7)
    rna, (heldout, *_) = stream.batch(5).rna, stream.heldout_batches(20)
    weights = np.arange(1, 24 * 20 + 1).reshape(24, 20)
    assert rna.cell_B[:8].tolist() == [130, 132, 133, 127, 137, 140, 121, 119]
    assert (rna.features_BL * weights).sum() == 2395384
    assert heldout.rna.cell_B[:8].tolist() == [5, 14, 20, 23, 26, 38, 46, 56]
    assert (heldout.rna.features_BL * weights).sum() == 1637641


def test_no_held_out_cells_is_no_batches():
    stream = stream_of(holdout_fraction=0.0)
    assert stream.n_heldout_cells == 0
    assert list(stream.heldout_batches()) == []


def test_cells_are_named():
    assert stream_of().cell_names(np.array([0, 159, -1], np.int32)) == ["cell 0", "cell 159", "padding"]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_fails_in_a_thread_is_raised_to_the_reader(prefetch):
    corpus = FakeCorpus()
    corpus.stores[0].fails_at = 42
    stream = stream_of(corpus, prefetch=prefetch)
    with pytest.raises(OSError, match="on fire"):
        list(stream.batches(0, 10))
    corpus.stores[0].fails_at = None
    assert len(list(stream.batches(0, 10))) == 10  # a failed read is not remembered


def test_damaged_store_is_named():
    corpus = FakeCorpus()
    corpus.stores[0].feature_rows = corpus.stores[0].feature_rows[:5]
    with pytest.raises(InputError, match="'blood': an entry is in column"):
        list(stream_of(corpus).batches(0, 10))


def test_threads_end_with_the_generator():
    before = set(threading.enumerate())
    batches = stream_of(prefetch=3).batches(0, 10**9)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=0), "data.batch_size=0"),
        (dict(tokens=0), "data.tokens=0"),
        (dict(block_cells=0), "data.block_cells=0"),
        (dict(window_blocks=0), "data.window_blocks=0"),
        (dict(prefetch=-1), "data.prefetch=-1"),
        (dict(expressed_fraction=0.0), "data.expressed_fraction=0.0"),
        (dict(expressed_fraction=1.1), "data.expressed_fraction=1.1"),
        (dict(holdout_fraction=1.0), "data.holdout_fraction=1.0"),
        (dict(holdout_datasets=("kidny",)), "Did you mean 'kidney'"),
        (dict(holdout_datasets=("blood", "brain", "kidney")), "no cells to train on"),
    ],
)
def test_unusable_config_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        stream_of(**changes)


def test_hosts_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="multiple of 5"):
        stream_of(hosts=5)


def test_a_corpus_on_disk_gives_the_counts_of_its_files(tmp_path):
    """Two files with shared genes in another order, through ingest, store, order and tokens, in reused memory."""
    rng = np.random.default_rng(0)
    genes = gene_table().frame["gene_id"].to_numpy()[:120]
    files, truth = [], {}
    for name, cells, order in (("one", 150, np.arange(90)), ("two", 70, rng.permutation(np.arange(30, 120)))):
        counts = rng.poisson(0.7, (cells, len(order)))
        obs = pd.DataFrame(index=[f"{name}{i}" for i in range(cells)])
        adata = anndata.AnnData(csr_matrix(counts.astype(np.float32)), obs, pd.DataFrame(index=genes[order]))
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        files.append(tmp_path / f"{name}.h5ad")
        for cell, row in zip(obs.index, counts, strict=True):
            truth[f"{name}:{cell}"] = dict(zip(genes[order], row.tolist(), strict=True))
    ingest(files, tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    ids = corpus.features["id"].to_numpy()
    stream = stream_of(corpus, tokens=50, prefetch=3)
    plain = stream_of(open_corpus(tmp_path / "corpus"), tokens=50, prefetch=0)
    served = 0
    for step, batch in enumerate(stream.batches(0, 40)):
        assert_same(batch, plain.batch(step))
        rna = batch.rna
        for i, name in enumerate(stream.cell_names(rna.cell_B)):
            features, mask = ids[rna.features_BL[i]], rna.mask_BL[i]
            np.testing.assert_array_equal(rna.counts_BL[i, mask], [truth[name][gene] for gene in features[mask]])
            assert rna.library_B[i] == sum(truth[name].values())
            assert rna.dataset_B[i] == name.startswith("two")
            served += 1
    assert served == 40 * CONFIG.batch_size
    heldout = [name for batch in stream.heldout_batches() for name in stream.cell_names(batch.rna.cell_B)]
    assert set(heldout) - {"padding"} < set(truth)


def test_memory_of_windows_keeps_to_its_limit(tmp_path):
    simulate_corpus(
        SimulationConfig(cells=6000, genes=60, tfs=12, cell_types=3), tmp_path / "c", dataset_cells=3000, jobs=1
    )
    corpus = open_corpus(tmp_path / "c")
    rest = dict(window_blocks=200, batch_size=32, holdout_fraction=0.0, prefetch=0)
    free, bound = stream_of(corpus, **rest), stream_of(corpus, memory_gb=5e-5, **rest)

    def most_held(stream):
        (reader,) = stream._readers.values()
        most = 0
        for step in range(120):
            stream.batch(step)
            held = [sum(store.n_bytes(w._spans[d]) for d, store in reader._stores.items() if d in w._spans)
                    for w in reader._windows.values()]  # fmt: skip
            most = max(most, sum(held))
        return most

    assert most_held(free) > 1.5e5
    assert 2.5e4 < most_held(bound) < 6e4
    assert bound._order.window_blocks < 200
    halves = [stream_of(corpus, memory_gb=5e-5, host=host, hosts=2, **rest).batch(7).rna.features_BL for host in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), bound.batch(7).rna.features_BL)
    with pytest.raises(
        InputError, match=r"data\.memory_gb=1e-06: 1 sequences of cells with at least 4 blocks of 8 cells"
    ):
        stream_of(corpus, memory_gb=1e-6, **rest)
