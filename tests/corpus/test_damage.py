"""A flipped byte of a shard is found, named, and stops or is skipped: then all other cells are what they were."""

import json
import logging
import shutil
from pathlib import Path

import anndata
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

from mofm.batch import TokenBatch
from mofm.batches.config import DataConfig
from mofm.batches.stream import Stream
from mofm.corpus.damage import spans_of
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.training.config import build_config
from mofm.training.loop import train

DATA = {"batch_size": 16, "tokens": 32, "block_cells": 16, "window_blocks": 4, "holdout_fraction": 0.2, "prefetch": 2}


def flip(file: Path, place: int = 5) -> None:
    """Changes one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


@pytest.fixture
def damaged(sharded, tmp_path) -> Path:
    """A corpus in which the second file of X/data of dataset "one" has a changed byte in its first chunk."""
    folder = shutil.copytree(sharded, tmp_path / "corpus")
    flip(folder / "stores" / "one.rna.zarr" / "X" / "data" / "c" / "1")
    return folder


def cells_of_chunk(corpus: Path, name: str, number: int) -> np.ndarray:
    """Cells with entries in a chunk of X, counted over all files, by AnnData and zarr alone."""
    folder = corpus / "stores" / f"{name}.rna.zarr"
    chunk = zarr.open_array(folder / "X" / "data", mode="r").chunks[0]
    indptr = anndata.io.read_zarr(folder).X.indptr
    touched = [i for i in range(len(indptr) - 1) if set(range(indptr[i], indptr[i + 1])) & _entries(chunk, number)]
    return np.array(touched)


def _entries(chunk: int, number: int) -> set[int]:
    return set(range(number * chunk, (number + 1) * chunk))


def batches(corpus, n: int = 30, **config) -> list:
    stream = Stream(corpus, DataConfig("", **(DATA | config)), seed=5)
    return [*stream.batches(0, n), *stream.heldout_batches()]


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_error_names_file_chunk_and_cells(sharded, damaged):
    lost = cells_of_chunk(sharded, "one", 2)
    assert 3 < len(lost) < 60
    store = open_corpus(damaged).stores[0]
    line = refusal(lambda: store.read_rows(0, store.n_cells).result())
    assert "one.rna.zarr" in line
    assert f"X/data/c/1: chunks 0, which hold cells {lost[0]} to {lost[-1]}" in line
    assert "copy the corpus again" in line
    with pytest.raises(InputError, match="X/data/c/1"):
        batches(open_corpus(damaged))


def test_rows_that_are_lost_are_empty_and_the_others_whole(sharded, damaged):
    lost = cells_of_chunk(sharded, "one", 2)
    sound, store = open_corpus(sharded).stores[0], open_corpus(damaged, damaged="skip").stores[0]
    for spans in ([(0, store.n_cells)], [(lost[0], lost[0] + 1)], [(200, 210), (lost[0] - 1, lost[-1] + 2), (0, 9)]):
        rows, whole = store.read_spans(spans).result(), sound.read_spans(spans).result()
        cells = np.concatenate([np.arange(*span) for span in spans])
        assert rows.lost_N.tolist() == np.isin(cells, lost).tolist()
        kept = ~np.repeat(rows.lost_N, np.diff(whole.indptr_N))
        np.testing.assert_array_equal(np.diff(rows.indptr_N), np.where(rows.lost_N, 0, np.diff(whole.indptr_N)))
        np.testing.assert_array_equal(rows.indices, whole.indices[kept])
        np.testing.assert_array_equal(rows.data, whole.data[kept])
    assert store.read_rows(0, lost[0]).result().lost_N is None
    assert store.n_lost == len(lost)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_stream_leaves_them_out_and_changes_nothing_else(sharded, damaged, prefetch, caplog):
    lost = cells_of_chunk(sharded, "one", 2)
    corpus = open_corpus(damaged, damaged="skip")
    with caplog.at_level(logging.WARNING, "mofm"):
        these = batches(corpus, 40, prefetch=prefetch)
    those, n_lost = batches(open_corpus(sharded), 40), 0
    for this, that in zip(these, those, strict=True):
        gone = np.isin(that.rna.cell_B, lost)
        n_lost += gone.sum()
        for name, a, b in zip(TokenBatch._fields, this.rna, that.rna, strict=True):
            if a is not None:
                nothing = -1 if name in ("cell_B", "dataset_B") else 0
                shaped = gone.reshape(-1, *[1] * (b.ndim - 1))
                np.testing.assert_array_equal(a, np.where(shaped, nothing, b).astype(b.dtype))
    assert n_lost > len(lost)  # several epochs
    assert corpus.n_lost == len(lost)
    (record,) = caplog.records
    assert f"X/data/c/1: chunks 0, which hold cells {lost[0]} to {lost[-1]}" in record.getMessage()


@pytest.mark.parametrize(
    ("file", "change", "chunks"),
    [
        ("X/indices/c/0", lambda file: flip(file), {0}),
        ("X/data/c/0", lambda file: flip(file, -6), {0, 1}),  # the index of the chunks
        ("X/data/c/0", lambda file: file.write_bytes(file.read_bytes()[:-40]), {0, 1}),
        ("X/data/c/0", lambda file: file.write_bytes(b""), {0, 1}),
        ("X/data/c/0", lambda file: file.unlink(), {0, 1}),
    ],
)
def test_whatever_is_wrong_with_a_file(sharded, tmp_path, file, change, chunks):
    folder = shutil.copytree(sharded, tmp_path / "corpus")
    change(folder / "stores" / "one.rna.zarr" / file)
    lost = np.unique(np.concatenate([cells_of_chunk(sharded, "one", number) for number in chunks]))
    store = open_corpus(folder, damaged="skip").stores[0]
    assert np.flatnonzero(store.read_rows(0, store.n_cells).result().lost_N).tolist() == lost.tolist()
    assert file in refusal(lambda: open_corpus(folder).stores[0].read_rows(0, 230).result())


def test_what_is_not_counts_still_stops(sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "corpus")
    flip(folder / "stores" / "one.rna.zarr" / "X" / "indptr" / "c" / "0")
    assert "indptr" in refusal(lambda: batches(open_corpus(folder, damaged="skip")))


def test_a_bucket_that_does_not_answer_is_no_damage(bucket, sharded):
    url = bucket.upload(sharded, "x")
    bucket.refuse = lambda method, path: 503 if "/data/c/1" in path else None
    corpus = open_corpus(url, damaged="skip")
    assert "cannot be reached" in refusal(lambda: batches(corpus))
    assert corpus.n_lost == 0


def test_damage_in_a_bucket_is_skipped_as_here(bucket, damaged):
    url = bucket.upload(damaged, "x")
    here, there = (batches(open_corpus(place, damaged="skip")) for place in (damaged, url))
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_are_told_as_spans():
    assert spans_of([0]) == "0"
    assert spans_of([0, 1, 2, 7, 1000, 1001]) == "0 to 2, 7, 1,000 to 1,001"


# --- a row that is lost, for the model ---


def test_a_run_trains_on_the_rest_and_counts(trained, tmp_path, caplog):
    folder = shutil.copytree(trained.corpus, tmp_path / "corpus")
    (store,) = open_corpus(folder).stores
    file = next(iter((folder / store.entry.path / "X" / "data" / "c").iterdir()))
    chunk = zarr.open_array(file.parents[1], mode="r").chunks[0]
    if store.entry.entries <= chunk:
        pytest.fail("the corpus is of one chunk: nothing would be left")
    flip(file)
    values = trained.config.to_dict() | {"data": trained.config.to_dict()["data"] | {"corpus": str(folder)}}
    assert "X/data/c/0" in refusal(lambda: train(build_config(values), tmp_path / "stops", quiet=True))
    values["data"]["damaged"] = "skip"
    assert train(build_config(values), tmp_path / "run", quiet=True) == 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (lost,) = {line["lost_rows"] for line in lines if "lost_rows" in line}
    assert 0 < lost < 96
    assert f"{lost} rows are damaged" in caplog.records[-1].getMessage()
    assert all(np.isfinite(value) for line in lines for value in line.values())


def test_a_run_that_stopped_at_damage_goes_on_without_it(trained, tmp_path):
    values = trained.config.to_dict()
    stop, skip = (build_config(values | {"data": values["data"] | {"damaged": what}}) for what in ("stop", "skip"))
    assert stop.science() == skip.science()


@pytest.mark.slow
def test_a_lost_row_changes_no_loss(make_view):
    from mofm.nn.model import gene_states, init
    from mofm.nn.spec import EncoderConfig, ModelSpec
    from mofm.objectives.masked import masked_modelling
    from mofm.objectives.total import ObjectivesConfig
    from mofm.training.step import Knowledge, Recipe, answers

    spec = ModelSpec(
        EncoderConfig(width=16, blocks=1, heads=2, ffn=24, cell_width=8, bins=6, compute_dtype="float32"), 40
    )
    params = init(spec, jax.random.key(0))
    whole = make_view(cells=4)
    fewer = TokenBatch(*(None if leaf is None else leaf[[0, 1, 3]] for leaf in whole))
    for leaf in whole:
        if leaf is not None:
            leaf[2] = -1 if leaf is whole.cell_B or leaf is whole.dataset_B else 0

    def losses(view):
        hidden_BL = view.mask_BL & (np.arange(view.mask_BL.shape[1]) % 2 == 0)
        outputs = answers(
            Recipe(spec, ObjectivesConfig(), None, 0), Knowledge({}), params, gene_states(spec, params)
        ).see(view, jnp.asarray(hidden_BL), "rna")
        return masked_modelling(outputs, view, hidden_BL, "rna")

    expected, padded = losses(fewer), losses(whole)
    for name, value in expected.items():
        assert float(padded[name]) == pytest.approx(float(value), rel=1e-6), name
