"""What is known of a cell beside its counts is in its row of the batch, whoever made it, and changes nothing else there."""

import dataclasses
import logging
import shutil

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from mofm.batch import TokenBatch
from mofm.batches.config import DataConfig
from mofm.batches.labels import CellNumbers, read_numbers
from mofm.batches.stream import Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.genome import gene_table

CONFIG = DataConfig(
    "", batch_size=12, tokens=16, block_cells=8, window_blocks=4, holdout_fraction=0.2, prefetch=0, quota_multiple=2
)
TYPES = ["T cell", "B cell", "NK cell"]


def counts(cells, names, seed, **obs):
    matrix = np.random.default_rng(seed).poisson(1.0, (cells, len(names))) + np.eye(cells, len(names))
    table = pd.DataFrame(obs, index=[f"cell{i}" for i in range(cells)])
    return anndata.AnnData(scipy.sparse.csr_matrix(matrix.astype(np.float32)), table, pd.DataFrame(index=list(names)))


@pytest.fixture(scope="module")
def genes():
    return gene_table("human").gene_ids[:30]


@pytest.fixture(scope="module")
def peaks():
    return [f"chr1:{start}-{start + 400}" for start in range(10_000, 60_000, 2_000)]


def types_of(seed, cells, known=TYPES):
    return np.random.default_rng(seed).choice(known, cells)


@pytest.fixture(scope="module")
def truth():
    """Labels and donors of the four files of the corpus, "" not known."""
    paired = types_of(3, 24, [*TYPES, "Monocyte"])
    return {
        "blood": (types_of(1, 50), np.repeat(["d1", "d2"], 25)),
        "brain": (np.where(np.arange(40) % 4, types_of(2, 40), ""), np.repeat(["d1", "7"], 20)),
        "both": (paired, np.full(24, "d3")),
        "bare": (np.full(20, ""), np.full(20, "")),
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, genes, peaks, truth):
    """Two files of RNA, one of RNA and ATAC of which ATAC alone has the types, and one that tells nothing."""
    folder = tmp_path_factory.mktemp("labels")
    label, donor = truth["blood"]
    blood = counts(50, genes, 1, cell_type=pd.Categorical(label, [*TYPES, "seen nowhere"]), donor=donor)
    label, donor = truth["brain"]
    rows = np.arange(40)
    missing = np.select([label != "", rows % 3 == 0, rows % 3 == 1], [label, "Unknown", " nan "], "")
    brain = counts(40, genes, 2, cell_type=missing, donor=donor)
    label, donor = truth["both"]
    rna, atac = counts(24, genes, 3, donor=donor), counts(24, peaks, 4, cell_type=label)
    blood.write_h5ad(folder / "blood.h5ad")
    brain.write_h5ad(folder / "brain.h5ad")
    mudata.MuData({"rna": rna, "atac": atac}).write(folder / "both.h5mu")
    counts(20, genes, 5).write_h5ad(folder / "bare.h5ad")
    inputs = [folder / name for name in ("blood.h5ad", "brain.h5ad", "both.h5mu", "bare.h5ad")]
    ingest(inputs, folder / "corpus")
    return folder / "corpus"


def stream_of(corpus, *, host=0, hosts=1, **changes):
    asked = {"label_key": "cell_type", "batch_key": "donor"} | changes
    return Stream(open_corpus(corpus), dataclasses.replace(CONFIG, **asked), 1, host=host, hosts=hosts)


def views_of(stream, steps=8):
    batches = [*stream.batches(0, steps), *stream.heldout_batches()]
    return [view for batch in batches for view in batch if view is not None]


def expected(corpus, truth):
    """The label and the technical batch of every cell, None not known."""
    labels, donors = [], []
    for dataset in open_corpus(corpus).datasets:
        label, donor = truth[dataset.name]
        labels += [name or None for name in label]
        donors += [f"{dataset.name}:{name}" if name else None for name in donor]
    return np.array([*labels, None], object), np.array([*donors, None], object)


def test_every_row_has_the_label_and_the_batch_of_its_cell(corpus, truth):
    stream, (labels, donors) = stream_of(corpus), expected(corpus, truth)
    assert stream.labels == ("B cell", "Monocyte", "NK cell", "T cell")
    assert stream.technical_batches == ("blood:d1", "blood:d2", "both:d3", "brain:7", "brain:d1")
    seen = set()
    for view in views_of(stream):
        for numbers, names, true in (
            (view.label_B, stream.labels, labels),
            (view.batch_B, stream.technical_batches, donors),
        ):
            assert numbers.dtype == np.int32
            assert numbers.shape == view.cell_B.shape
            assert np.array([*names, None], object)[numbers].tolist() == true[view.cell_B].tolist()
            seen |= set(np.array([*names, None], object)[numbers])
    assert seen == {*stream.labels, *stream.technical_batches, None}


def test_held_out_batches_are_filled_up_with_rows_without_a_label(corpus):
    views = [view for batch in stream_of(corpus).heldout_batches() for view in batch if view is not None]
    padding = np.concatenate([view.cell_B for view in views]) < 0
    assert padding.any()
    for leaf in ("label_B", "batch_B"):
        numbers = np.concatenate([getattr(view, leaf) for view in views])
        assert (numbers[padding] == -1).all()
        assert (numbers[~padding] >= 0).any()


def test_no_other_leaf_changes(corpus):
    asked, plain = views_of(stream_of(corpus)), views_of(stream_of(corpus, label_key=None, batch_key=None))
    for with_labels, without in zip(asked, plain, strict=True):
        assert without.label_B is without.batch_B is None
        for name in set(TokenBatch._fields) - {"label_B", "batch_B"}:
            one, other = getattr(with_labels, name), getattr(without, name)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def test_groups_are_held_out_whole_and_no_other_cell_moves(corpus, truth):
    """d1 of both files, and beside it the cells that chance held out before."""
    groups = {"donor": ("d1",), "cell_type": ("Monocyte",)}
    plain, grouped = stream_of(corpus), stream_of(corpus, holdout_groups=groups)
    donor = np.array(
        [name or None for dataset in open_corpus(corpus).datasets for name in truth[dataset.name][1]], object
    )
    label = expected(corpus, truth)[0][:-1]
    named = np.flatnonzero((donor == "d1") | (label == "Monocyte"))
    assert grouped.heldout_cells().tolist() == sorted({*plain.heldout_cells().tolist(), *named.tolist()})
    for batch in grouped.batches(0, 20):
        for view in (view for view in batch if view is not None):
            assert not np.isin(view.cell_B, grouped.heldout_cells()).any()
    counts = {
        name: sum(label[np.setdiff1d(np.arange(134), grouped.heldout_cells())] == name) for name in grouped.labels
    }
    assert grouped.label_counts("rna").tolist() == list(counts.values())
    assert grouped.label_counts("atac").sum() < grouped.label_counts("rna").sum()
    assert counts["Monocyte"] == 0


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"donor": ("d11",)}, "no cell has 'd11' in 'donor' of obs. Did you mean 'd1'?"),
        ({"donr": ("d1",)}, "data.holdout_groups='donr': no dataset has such a column"),
    ],
)
def test_groups_that_are_not_there_are_refused(corpus, groups, said):
    with pytest.raises(InputError) as caught:
        stream_of(corpus, holdout_groups=groups)
    assert said in str(caught.value)


def test_one_may_be_asked_without_the_other(corpus):
    only_labels, only_batches = stream_of(corpus, batch_key=None), stream_of(corpus, label_key=None)
    assert only_labels.technical_batches == only_batches.labels == ()
    assert only_labels.batch(0).rna.batch_B is only_batches.batch(0).rna.label_B is None
    both = stream_of(corpus).batch(0).rna
    np.testing.assert_array_equal(only_labels.batch(0).rna.label_B, both.label_B)
    np.testing.assert_array_equal(only_batches.batch(0).rna.batch_B, both.batch_B)


def test_hosts_together_make_the_batch_of_one(corpus):
    one, many = views_of(stream_of(corpus)), [views_of(stream_of(corpus, host=host, hosts=2)) for host in (0, 1)]
    for whole, *parts in zip(one, *many, strict=True):
        for name in ("cell_B", "label_B", "batch_B"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
            assert all(len(getattr(part, name)) == len(getattr(whole, name)) // 2 for part in parts)


def test_batches_made_ahead_are_the_same(corpus):
    for one, other in zip(views_of(stream_of(corpus)), views_of(stream_of(corpus, prefetch=3)), strict=True):
        np.testing.assert_array_equal(one.label_B, other.label_B)
        np.testing.assert_array_equal(one.batch_B, other.batch_B)


def test_what_is_not_known_is_told_once_and_counted(corpus, truth, caplog):
    with caplog.at_level(logging.WARNING, "mofm"):
        stream = stream_of(corpus, batch_key=None)
        list(stream.batches(0, 3))
    (record,) = caplog.records
    unknown = int((truth["brain"][0] == "").sum())
    assert record.getMessage() == (
        f"data.label_key='cell_type': not known of {20 + unknown} of 134 cells: 20 in 1 datasets without that column "
        f"(bare), {unknown} with a value that is missing or unknown"
    )


def test_a_column_that_no_dataset_has_is_an_error_that_names_those_there(corpus):
    with pytest.raises(InputError) as caught:
        stream_of(corpus, label_key="celltype")
    assert str(caught.value) == (
        "data.label_key='celltype': no dataset has such a column in obs; there are cell_type, donor. "
        "Did you mean 'cell_type'?"
    )
    with pytest.raises(InputError, match=r"data\.batch_key='lane': no dataset"):
        stream_of(corpus, batch_key="lane")


COLUMNS = {
    "blanks": (["b", "a", " b ", "unknown", "UNKNOWN", " NaN ", "", None], ("a", "b"), [1, 0, 1, -1, -1, -1, -1, -1]),
    "case": (["a", "A", "unknown type"] + ["A"] * 5, ("A", "a", "unknown type"), [1, 0, 2] + [0] * 5),
    "unique": (list("hgfedcba"), tuple("abcdefgh"), [7, 6, 5, 4, 3, 2, 1, 0]),
    "whole": ([3, 1, 1, 20] + [1] * 4, ("1", "20", "3"), [2, 0, 0, 1] + [0] * 4),
    "with_gaps": ([3.0, np.nan, 1.0] + [3.0] * 5, ("1", "3"), [1, -1, 0] + [1] * 5),
    "yes_no": ([True, False] * 4, ("False", "True"), [1, 0] * 4),
    "hours": (pd.Categorical([0.5, 2.0, np.nan, 2.0] * 2, [2.0, 0.5, 7.0]), ("0.5", "2"), [0, 1, -1, 1] * 2),
    "nullable": (pd.array([2, None, 1, 1] * 2, "Int64"), ("1", "2"), [1, -1, 0, 0] * 2),
    "nullable_yes_no": (pd.array([True, None, False, True] * 2, "boolean"), ("False", "True"), [1, -1, 0, 1] * 2),
}
"""What is written to obs, the names of its numbers, the numbers."""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, genes):
    """A corpus of 8 cells, whose obs has a column of each kind; leave it as it is."""
    folder = tmp_path_factory.mktemp("kinds")
    nothing = {"numbers": np.linspace(0, 1, 8), "nothing": ["unknown", "", "nan", None] * 2}
    obs = {name: values for name, (values, _, _) in COLUMNS.items()} | nothing
    counts(8, genes, 1, **obs).write_h5ad(folder / "one.h5ad")
    ingest([folder / "one.h5ad"], folder / "corpus")
    return folder / "corpus"


def numbers_of(corpus, column):
    return read_numbers(open_corpus(corpus).datasets, column, "data.label_key")


@pytest.mark.parametrize("column", COLUMNS)
def test_values_of_every_kind_of_column(kinds, column):
    numbers = numbers_of(kinds, column)
    assert (numbers.names, numbers.number_N.tolist()) == COLUMNS[column][1:]


def test_numbers_that_name_nothing_are_refused(kinds):
    with pytest.raises(InputError, match=r"data\.label_key='numbers': dataset 'one' has numbers such as 0\.1\d+ in it"):
        numbers_of(kinds, "numbers")


def test_a_column_that_tells_nothing_is_refused(kinds):
    with pytest.raises(InputError, match="this column of obs says nothing of any cell"):
        numbers_of(kinds, "nothing")


def test_a_damaged_column_is_told(kinds, tmp_path):
    folder = shutil.copytree(kinds, tmp_path / "corpus")
    for file in (folder / "stores" / "one.rna.zarr" / "obs" / "case" / "codes").rglob("c/*"):
        file.unlink()
    with pytest.raises(InputError, match=r"obs/case of store 'one' cannot be read: the store is damaged"):
        numbers_of(folder, "case")
    assert numbers_of(folder, "blanks").names == ("a", "b")  # no other column is read


def test_where_two_omics_disagree_rna_counts_and_it_is_told(tmp_path, genes, peaks, caplog):
    rna = counts(6, genes, 1, x=["a", "a", "unknown", "b", "", "c"])
    atac = counts(6, peaks, 2, x=["a", "b", "b", "", "unknown", "d"])
    mudata.MuData({"rna": rna, "atac": atac}).write(tmp_path / "both.h5mu")
    ingest([tmp_path / "both.h5mu"], tmp_path / "corpus")
    with caplog.at_level(logging.WARNING, "mofm"):
        numbers = numbers_of(tmp_path / "corpus", "x")
    assert numbers.names == ("a", "b", "c")  # "d" is a label of no cell
    assert numbers.number_N.tolist() == [0, 0, 1, 1, -1, 2]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "not known of 1 of 6 cells",
        "2 cells have another value in another modality's obs; the first of RNA, ATAC, ADT, methylation counts",
    ]


def test_datasets_of_one_file_share_their_batches(tmp_path, genes, peaks):
    rna, atac = counts(12, genes, 1, donor=["d1", "d2"] * 6), counts(12, peaks, 2, donor=["d1", "d2"] * 6)
    mudata.MuData({"rna": rna, "atac": atac[:6].copy()}).write(tmp_path / "part.h5mu")
    counts(3, genes, 3, donor=["d1"] * 3).write_h5ad(tmp_path / "other.h5ad")
    ingest([tmp_path / "part.h5mu", tmp_path / "other.h5ad"], tmp_path / "corpus")
    datasets = open_corpus(tmp_path / "corpus").datasets
    assert len(datasets) == 3
    numbers = read_numbers(datasets, "donor", "data.batch_key", by_file=True)
    assert numbers.names == ("other:d1", "part:d1", "part:d2")
    assert np.bincount(numbers.number_N).tolist() == [3, 6, 6]


def test_a_cell_that_is_none_has_no_number():
    numbers = CellNumbers(("a", "b"), np.array([0, 1, -1, 1], np.int32))
    found = numbers.of(np.array([3, -1, 2, 0], np.int32))
    assert found.tolist() == [1, -1, -1, 0]
    assert found.dtype == np.int32
