"""Corpora of several omics: quotas in every batch, views of one cell together, the same for any number of hosts."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from mofm.batches.config import DataConfig
from mofm.batches.mixture import view_rows
from mofm.batches.stream import Stream
from mofm.batches.windows import WindowReader
from mofm.corpus.buffers import RowBuffers
from mofm.corpus.datasets import Dataset
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.genome import gene_table
from mofm.omics.rows import CountRows

WIDTHS = {"rna": 40, "atac": 70, "adt": 9, "methylation": 30}
DATASETS = {
    "atlas": (("rna",), 120),
    "small": (("rna",), 20),
    "peaks": (("atac",), 50),
    "multiome": (("rna", "atac"), 60),
    "cite": (("rna", "adt"), 31),
    "snmct": (("rna", "methylation"), 27),
}
CONFIG = DataConfig("corpus", batch_size=32, tokens=24, block_cells=8, window_blocks=6, holdout_fraction=0.2)


class FakeStore:
    """Random counts in memory, behind the interface of a corpus's store."""

    def __init__(self, name, dataset, modality, cells, feature_rows):
        rng = np.random.default_rng([dataset, *modality.encode()])
        shape = (cells, len(feature_rows))
        self.name, self.dataset, self.modality, self.n_cells = name, dataset, modality, cells
        self.feature_rows, self.n_features = feature_rows.astype(np.int32), len(feature_rows)
        self.counts = rng.geometric(0.3, shape) * (rng.random(shape) < 0.4)
        self.hits = rng.binomial(self.counts, 0.6)
        self.cells_read = 0

    def n_bytes(self, spans):
        entries = np.count_nonzero(np.concatenate([self.counts[start:stop] for start, stop in spans]))
        return 3 * (-(-2 * entries // 64) * 64)

    def read_rows(self, start, stop):
        return self.read_spans([(start, stop)])

    def read_spans(self, spans, buffers=None):
        if buffers is None:
            buffers = RowBuffers()
            buffers.reserve(self.n_bytes(spans))
        self.cells_read += sum(stop - start for start, stop in spans)
        every = np.concatenate([np.arange(start, stop) for start, stop in spans])
        dense = self.counts[every]
        cells, columns = np.nonzero(dense)
        indptr_N = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(dense)))]).astype(np.int64)
        values = [columns, dense[cells, columns]]
        if self.modality == "methylation":
            values.append(self.hits[every][cells, columns])
        arrays = [buffers.take(np.dtype(np.uint16), len(cells)) for _ in values]
        for array, value in zip(arrays, values, strict=True):
            array[:] = value
        rows = CountRows(indptr_N, *arrays)
        return SimpleNamespace(result=lambda: rows, is_done=True)


class FakeCorpus:
    """Some of DATASETS, their features in a table where modalities are mixed up."""

    def __init__(self, names=tuple(DATASETS), sizes=None):
        rng = np.random.default_rng(3)
        of = rng.permutation(np.repeat(list(WIDTHS), list(WIDTHS.values())))
        self.features = pd.DataFrame({"id": [f"f{i}" for i in range(len(of))], "modality": of})
        self.datasets = []
        for number, name in enumerate(names):
            modalities, cells = DATASETS[name]
            cells = cells if sizes is None else sizes[number]
            stores = {}
            for modality in modalities:
                some = rng.permutation(np.flatnonzero(of == modality))[: WIDTHS[modality] - 2 - number % 2]
                stores[modality] = FakeStore(name, number, modality, cells, some)
            self.datasets.append(Dataset(name, number, stores))
        self.stores = [store for dataset in self.datasets for store in dataset.stores.values()]
        self.offsets = np.cumsum([0, *(dataset.n_cells for dataset in self.datasets)])

    def cell_name(self, cell):
        return f"cell {cell}"


def stream_of(corpus=None, seed=1, *, host=0, hosts=1, **changes):
    return Stream(corpus or FakeCorpus(), dataclasses.replace(CONFIG, **changes), seed, host=host, hosts=hosts)


def views_of(batch):
    return {modality: view for modality, view in batch._asdict().items() if view is not None}


def assert_same(one, other):
    assert views_of(one).keys() == views_of(other).keys()
    for modality, view in views_of(one).items():
        for a, b in zip(view, views_of(other)[modality], strict=True):
            np.testing.assert_array_equal(a, b)


def joined(batches):
    """The batches of several hosts put together as they are on devices."""
    views = {}
    for modality in views_of(batches[0]):
        leaves = zip(*(getattr(batch, modality) for batch in batches), strict=True)
        views[modality] = [None if parts[0] is None else np.concatenate(parts) for parts in leaves]
    return views


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_every_token_is_what_its_store_says(temperature):
    corpus = FakeCorpus()
    stream = stream_of(corpus, temperature=temperature)
    row_in_modality = corpus.features.groupby("modality").cumcount().to_numpy()
    for batch in [*stream.batches(0, 8), *stream.heldout_batches()]:
        for modality, view in views_of(batch).items():
            assert view.features_BL.max() < stream.features[modality] == WIDTHS[modality]
            assert (view.totals_BL is None) == (modality != "methylation")
            for i in np.flatnonzero(view.cell_B >= 0):
                dataset = corpus.datasets[view.dataset_B[i]]
                store, row = dataset.stores[modality], view.cell_B[i] - corpus.offsets[dataset.number]
                column = {row_in_modality[r]: c for c, r in enumerate(store.feature_rows)}
                mask = view.mask_BL[i]
                columns = [column[f] for f in view.features_BL[i, mask]]
                measured = store.counts[row, columns]
                target, other = view.counts_BL[i, mask], measured
                if modality == "methylation":
                    np.testing.assert_array_equal(view.totals_BL[i, mask], measured)
                    other = store.hits[row, columns]
                np.testing.assert_array_equal(target, other)
                depth = (
                    100 * np.expm1(np.log1p(store.counts[row]).mean()) if modality == "adt" else store.counts[row].sum()
                )
                assert view.library_B[i] == pytest.approx(depth, rel=1e-6)
                if modality == "atac":
                    tf = (measured > 0) / np.count_nonzero(store.counts[row])
                    idf = stream.idf[view.features_BL[i, mask]]
                    np.testing.assert_allclose(view.values_BL[i, mask], np.log1p(1e4 * tf * idf), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 0.0])
def test_quotas_are_exact_in_every_batch_and_paired_views_hold_equal_cells(temperature):
    corpus = FakeCorpus()
    stream = stream_of(corpus, temperature=temperature)
    assert {s.name for s in stream.strata} == {"rna", "atac", "rna+atac", "rna+adt", "rna+methylation"}
    assert sum(s.quota for s in stream.strata) == CONFIG.batch_size
    for batch in stream.batches(0, 20):
        views = views_of(batch)
        assert {modality: len(view.cell_B) for modality, view in views.items()} == stream.rows
        for position, stratum in enumerate(stream.strata):
            rows = [view_rows(stream.strata, modality)[position] for modality in stratum.modalities]
            cells = [views[m].cell_B[part] for m, part in zip(stratum.modalities, rows, strict=True)]
            assert len(cells[0]) == stratum.quota
            for some in cells:
                np.testing.assert_array_equal(some, cells[0])
                dataset = np.searchsorted(corpus.offsets, some, side="right") - 1
                assert set(dataset) <= set(stratum.datasets)
            for modality, part in zip(stratum.modalities, rows, strict=True):
                np.testing.assert_array_equal(views[modality].dataset_B[part], dataset)


def test_epochs_are_exact_within_strata():
    stream = stream_of()
    heldout = set(stream.heldout_cells().tolist())
    served = {s.name: [] for s in stream.strata}
    for batch in stream.batches(0, 120):
        for position, stratum in enumerate(stream.strata):
            modality = stratum.modalities[-1]
            part = view_rows(stream.strata, modality)[position]
            served[stratum.name] += views_of(batch)[modality].cell_B[part].tolist()
    corpus = FakeCorpus()
    for stratum in stream.strata:
        cells = {c for d in stratum.datasets for c in range(corpus.offsets[d], corpus.offsets[d + 1])} - heldout
        sequence = np.array(served[stratum.name])
        for count in range(stratum.quota, len(sequence) + 1, stratum.quota):  # no cell is an epoch ahead of another
            often = Counter(sequence[:count].tolist())
            assert {often[c] for c in cells} <= {count // len(cells), -(-count // len(cells))}
        assert len(sequence) >= 2 * len(cells)
        assert set(sequence.tolist()) == cells
    assert not heldout & {cell for cells in served.values() for cell in cells}


def test_temperature_gives_small_datasets_their_share_in_exact_epochs():
    corpus = FakeCorpus(("atlas", "small", "cite"), sizes=(4000, 40, 360))
    stream = stream_of(corpus, temperature=0.5, holdout_fraction=0.0, batch_size=64)
    by_name = {s.name: s for s in stream.strata}
    # 63.2 + 6.3 against 19.0
    assert {name: s.quota for name, s in by_name.items()} == {"rna": 50, "rna+adt": 14}
    part = view_rows(stream.strata, "rna")[0]
    sequence = np.concatenate([batch.rna.cell_B[part] for batch in stream.batches(0, 100)])
    small = sequence[(sequence >= 4000) & (sequence < 4040)]
    assert len(small) == pytest.approx(len(sequence) / 11, abs=3)
    for epoch in range(len(small) // 40):
        assert sorted(small[epoch * 40 : epoch * 40 + 40]) == list(range(4000, 4040))
    large = sequence[sequence < 4000]
    assert len(set(large[:4000].tolist())) == len(large[:4000])
    equal = stream_of(corpus, temperature=0.0, holdout_fraction=0.0, batch_size=64)
    often = Counter(np.concatenate([batch.rna.dataset_B[part] for batch in equal.batches(0, 20)]).tolist())
    assert often[0] == pytest.approx(often[1], abs=2)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    temperature=st.sampled_from([1.0, 0.5, 0.0]),
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    prefetch=st.sampled_from([0, 3]),
    window_blocks=st.sampled_from([1, 5, 100]),
)
def test_a_batch_is_a_function_of_seed_and_step(seed, temperature, steps, prefetch, window_blocks):
    changes = dict(temperature=temperature, window_blocks=window_blocks)
    one = stream_of(seed=seed, prefetch=0, **changes)
    first = min(steps)
    other = list(stream_of(seed=seed, prefetch=prefetch, **changes).batches(first, first + 4))
    for step in steps:
        again = stream_of(seed=seed, prefetch=0, **changes).batch(step)
        assert_same(one.batch(step), again)
    for step, batch in enumerate(other, first):
        assert_same(batch, one.batch(step))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_make_the_batch_of_one(hosts, temperature):
    changes = dict(temperature=temperature, quota_multiple=4, batch_size=64)
    one = stream_of(**changes)
    many = [stream_of(host=host, hosts=hosts, **changes) for host in range(hosts)]
    pairs = [(one.batch(step), [stream.batch(step) for stream in many]) for step in (0, 1, 2, 3, 50)]
    heldout = [list(stream.heldout_batches(60)) for stream in (one, *many)]
    assert len({len(batches) for batches in heldout}) == 1
    pairs += [(whole, parts) for whole, *parts in zip(*heldout, strict=True)]
    for whole, parts in pairs:
        together = joined(parts)
        assert together.keys() == views_of(whole).keys()
        for modality, view in views_of(whole).items():
            for leaf, other in zip(view, together[modality], strict=True):
                np.testing.assert_array_equal(leaf, other)


def test_held_out_cells_are_held_out_in_every_modality_and_evaluated_in_all():
    corpus = FakeCorpus()
    stream = stream_of(corpus, holdout_datasets=("multiome",))
    heldout = set(stream.heldout_cells().tolist())
    multiome = set(range(corpus.offsets[3], corpus.offsets[4]))
    assert multiome < heldout
    assert "rna+atac" not in {s.name for s in stream.strata}
    trained = {c for batch in stream.batches(0, 60) for view in views_of(batch).values() for c in view.cell_B.tolist()}
    assert not trained & heldout
    assert trained | heldout == set(range(corpus.offsets[-1]))
    seen = {modality: [] for modality in WIDTHS}
    for batch in stream.heldout_batches():
        for modality, view in views_of(batch).items():
            seen[modality] += view.cell_B[view.cell_B >= 0].tolist()
    for modality, cells in seen.items():
        having = {
            c
            for dataset in corpus.datasets
            if modality in dataset.stores
            for c in range(corpus.offsets[dataset.number], corpus.offsets[dataset.number + 1])
        }
        assert sorted(cells) == sorted(having & heldout)
    for a, b in zip(stream.heldout_batches(), stream.heldout_batches(), strict=True):
        assert_same(a, b)


def test_count_batches_of_methylation_have_both_reads():
    corpus = FakeCorpus()
    stream = stream_of(corpus)
    for batch in stream.count_batches(0, 5):
        assert batch.keys() == stream.rows.keys()
        reads = batch["methylation"]
        for i, (cell, number) in enumerate(zip(reads.cell_B, reads.dataset_B, strict=True)):
            store = corpus.datasets[number].stores["methylation"]
            row, mine = cell - corpus.offsets[number], slice(reads.indptr_B[i], reads.indptr_B[i + 1])
            total, hits = np.zeros(WIDTHS["methylation"], int), np.zeros(WIDTHS["methylation"], int)
            total[reads.features[mine]], hits[reads.features[mine]] = reads.counts[mine], reads.hits[mine]
            columns = stream._panels.known["methylation"].columns_of(number)
            np.testing.assert_array_equal(total[columns], store.counts[row])
            np.testing.assert_array_equal(hits[columns], store.hits[row])


def test_some_held_out_cells_of_every_stratum():
    stream = stream_of(holdout_fraction=0.4)
    few = list(stream.heldout_batches(40))
    names = {dataset for batch in few for view in views_of(batch).values() for dataset in view.dataset_B.tolist()}
    assert {0, 2, 3, 4, 5} <= names
    cells = {c for batch in few for view in views_of(batch).values() for c in view.cell_B[view.cell_B >= 0].tolist()}
    assert abs(len(cells) - 40) <= 4
    assert cells <= set(stream.heldout_cells().tolist())


def test_rna_of_a_paired_corpus_is_split_as_rna_alone():
    """Ingesting a second modality moves no cell to the other side."""
    paired = stream_of(FakeCorpus(("multiome",))).heldout_cells()
    alone = stream_of(FakeCorpus(("atlas",), sizes=(60,))).heldout_cells()
    np.testing.assert_array_equal(paired, alone)


def test_tokens_of_a_modality_are_as_many_as_it_has_or_as_are_asked_for():
    assert stream_of().tokens == {"rna": 24, "atac": 24, "adt": 7, "methylation": 24}
    stream = stream_of(atac_tokens=60, adt_tokens=12, methylation_tokens=3)
    assert stream.tokens == {"rna": 24, "atac": 60, "adt": 12, "methylation": 3}
    batch = stream.batch(0)
    assert {modality: view.mask_BL.shape[1] for modality, view in views_of(batch).items()} == stream.tokens


def test_windows_are_shared_out_among_sequences():
    """A corpus of many datasets holds hardly more cells than one of a single large one."""
    names = ("atlas",) * 20
    corpus = FakeCorpus(names, sizes=(1200,) * 20)
    wide = dict(holdout_fraction=0.0, window_blocks=40)
    stream = stream_of(corpus, temperature=0.5, **wide)
    for _ in stream.batches(0, 40):
        pass
    assert len(stream._readers) == 20
    blocks = sum(
        len(window.window.stores) for reader in stream._readers.values() for window in reader._windows.values()
    )
    assert blocks <= 20 * 3 * 4  # LEAST_BLOCKS in each window, three windows each
    one = stream_of(FakeCorpus(("atlas",), sizes=(24_000,)), **wide)
    for _ in one.batches(0, 40):
        pass
    (reader,) = one._readers.values()
    assert blocks <= 2 * sum(len(window.window.stores) for window in reader._windows.values())


def test_readers_are_asked_where_a_sequence_moves_on_and_not_for_every_batch(monkeypatch):
    asked, fill = [], WindowReader.fill

    def counted(reader, out, place, seat, until):
        asked.append((seat.number, seat.first))
        return fill(reader, out, place, seat, until)

    monkeypatch.setattr(WindowReader, "fill", counted)
    corpus = FakeCorpus(("atlas",) * 10, sizes=(1200,) * 10)
    stream = stream_of(
        corpus, temperature=0.5, holdout_fraction=0.0, batch_size=40, block_cells=32, prefetch=0, window_blocks=40
    )
    served = list(stream.batches(0, 96))  # 4 cells of each in a batch, 128 in a window: 3 windows
    assert 3 * 10 <= len(asked) < 0.25 * 96 * 10
    assert {number for number, _ in asked} == set(range(10))
    for step in (0, 31, 32, 95):
        assert_same(served[step], stream_of(
            corpus, temperature=0.5, holdout_fraction=0.0, batch_size=40, block_cells=32, window_blocks=40
        ).batch(step))  # fmt: skip


def test_a_host_reads_only_the_strata_of_its_rows():
    """RNA is 16 rows of the atlas and 16 of the multiome: the first of two hosts has those, the other these."""
    unread = []
    for host in (0, 1):
        corpus = FakeCorpus(("atlas", "multiome"))
        stream = stream_of(corpus, quotas={"rna": 1, "rna+atac": 1}, host=host, hosts=2)
        stream.batch(0)
        unread.append([dataset.name for dataset in corpus.datasets if not dataset.stores["rna"].cells_read])
    assert unread == [["multiome"], ["atlas"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(temperature=-0.1), "data.temperature=-0.1"),
        (dict(temperature=1.5), "data.temperature=1.5"),
        (dict(atac_tokens=0), "data.atac_tokens=0"),
        (dict(quota_multiple=0), "data.quota_multiple=0"),
        (dict(quotas={"rna": 1.0}), "the corpus has rna, atac, rna\\+atac"),
        (dict(quotas={"rna": 0.0}), "rna=0.0: a share must be more than 0"),
        (dict(quotas={"rna": float("nan")}), "a share must be more than 0"),
        (dict(quotas={"rna+aatac": 1.0}), "Did you mean 'atac'"),
        (dict(batch_size=4), "5 sets of modalities"),
        (dict(hosts=2, batch_size=33), "do not divide by the 2 hosts"),
    ],
)
def test_unusable_config_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        stream_of(**changes)


def anndata_of(counts, names, cells, **layers):
    layers = {key: scipy.sparse.csr_matrix(value.astype(np.float32)) for key, value in layers.items()}
    obs, var = pd.DataFrame(index=list(cells)), pd.DataFrame(index=list(names))
    return anndata.AnnData(scipy.sparse.csr_matrix(counts.astype(np.float32)), obs, var, layers=layers)


def test_a_corpus_on_disk_gives_what_its_files_say(tmp_path):
    """RNA, ATAC and ADT of cells that only partly have all three, methylation of others: through ingest and back."""
    rng = np.random.default_rng(0)
    regions = [f"chr{1 + i % 3}:{i * 5000 + 100}-{i * 5000 + 900}" for i in range(60)]
    names = {
        "rna": gene_table().frame["gene_id"].tolist()[:50],
        "atac": regions,
        "adt": ["CD3", "CD4", "CD8a", "CD19", "CD56"],
        "methylation": [f"chr2:{i * 1000}-{i * 1000 + 1000}" for i in range(40)],
    }
    cells = {"rna": range(70), "atac": range(99, 39, -1), "adt": range(20, 60), "methylation": range(200, 260)}
    counts = {m: rng.poisson(1.0, (len(cells[m]), len(names[m]))) + np.eye(len(cells[m]), len(names[m])) for m in names}
    hits = rng.binomial(counts["methylation"].astype(int), 0.5)
    named = {modality: [f"cell-{i}" for i in some] for modality, some in cells.items()}
    paired = {m: anndata_of(counts[m], names[m], named[m]) for m in ("rna", "atac", "adt")}
    mudata.MuData(paired).write_h5mu(tmp_path / "paired.h5mu")
    alone = anndata_of(counts["methylation"], names["methylation"], named["methylation"], methylated=hits)
    alone.write_h5ad(tmp_path / "meth.h5ad")
    ingest([tmp_path / "paired.h5mu"], tmp_path / "corpus", build="GRCh38")
    ingest([tmp_path / "meth.h5ad"], tmp_path / "corpus", build="GRCh38", modality="methylation")

    corpus = open_corpus(tmp_path / "corpus")
    stream = stream_of(corpus, tokens=60, temperature=0.5, batch_size=40)
    assert {s.name for s in stream.strata} >= {"rna", "atac", "rna+atac", "rna+adt", "rna+atac+adt", "methylation"}
    # Row of a feature in its modality -> its column in the file.
    column = {}
    for store in corpus.stores:
        named_in_file = dict(zip(store.var().index, store.var()["name_in_file"], strict=True))
        ids = corpus.features.loc[corpus.features["modality"] == store.modality, "id"]
        column[store.modality] = np.array([names[store.modality].index(named_in_file[i]) for i in ids])
    seen = {modality: set() for modality in names}
    for batch in [*stream.batches(0, 12), *stream.heldout_batches()]:
        for modality, view in views_of(batch).items():
            target = hits if modality == "methylation" else counts[modality]
            for i in np.flatnonzero(view.cell_B >= 0):
                (name,) = stream.cell_names(view.cell_B[[i]])
                row, mask = named[modality].index(name.split(":")[1]), view.mask_BL[i]
                columns = column[modality][view.features_BL[i, mask]]
                np.testing.assert_array_equal(view.counts_BL[i, mask], target[row, columns])
                if modality == "methylation":
                    np.testing.assert_array_equal(view.totals_BL[i, mask], counts[modality][row, columns])
                read = counts[modality][row]
                depth = 100 * np.expm1(np.log1p(read).mean()) if modality == "adt" else read.sum()
                assert view.library_B[i] == pytest.approx(depth, rel=1e-6)
                seen[modality].add(row)
    assert {modality: len(some) for modality, some in seen.items()} == {m: len(some) for m, some in cells.items()}


def test_memory_is_that_of_the_windows_held():
    """However many sequences of however different windows there are, none keeps the memory of a larger one's."""
    corpus = FakeCorpus(("atlas",) * 6, sizes=(6000, *[300] * 5))
    stream = stream_of(corpus, temperature=0.9, holdout_fraction=0.0, window_blocks=40, prefetch=0)
    for step in range(250):
        stream.batch(step)
    sizes = set()
    for reader in stream._readers.values():
        windows = list(reader._windows.values())
        needed = [sum(reader._stores[d].n_bytes(spans) for d, spans in window._spans.items()) for window in windows]
        held = [len(buffers._bytes) for buffers in (*(window._buffers for window in windows), *reader._spare)]
        assert len(held) <= len(windows) + 1
        assert max(held) <= 1.5 * max(needed)
        sizes.add(len(windows[0].window.stores))
    assert max(sizes) > 5 * min(sizes)
