"""A corpus in a bucket is the corpus that was put there: opened, streamed, trained from; and what a server can do to it."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from streaming import assert_equal_batches, batches

from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.errors import InputError


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def use(corpus) -> None:
    """Opens a corpus and reads all of it."""
    for store in open_corpus(corpus).stores:
        store.read_rows(0, store.n_cells).result()
        _ = store.feature_rows, store.obs(), store.var(), store.obs_columns(), store.obs_column("label")


def test_everything_reads_as_it_does_here(bucket, sharded):
    there, here = open_corpus(bucket.upload(sharded, "a/b")), open_corpus(sharded)
    assert there.digest == here.digest
    assert there.features.equals(here.features)
    for far, near in zip(there.stores, here.stores, strict=True):
        for a, b in zip(far.read_rows(0, far.n_cells).result(), near.read_rows(0, far.n_cells).result(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert far.obs().equals(near.obs())
        assert far.obs_columns() == near.obs_columns() == ["label", "score"]
        assert far.obs_column("label").equals(near.obs_column("label"))
        assert far.var().equals(near.var())
        assert far.cell_names().tolist() == near.cell_names().tolist()


def test_batches_are_the_same_bits(bucket, sharded):
    assert_equal_batches(batches(open_corpus(bucket.upload(sharded, "x"))), batches(open_corpus(sharded)))


@pytest.mark.slow
def test_it_is_inspected_and_trained_from(bucket, sharded, tmp_path, capsys):
    url = bucket.upload(sharded, "x")
    assert main(["inspect", url, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(d["name"], d["cells"]) for d in report["datasets"]] == [("one", 230), ("two", 57)]
    config = Path(__file__).parents[2] / "configs" / "small.py"
    small = {
        "data.corpus": url, "data.batch_size": 8, "data.tokens": 16, "data.block_cells": 16, "data.window_blocks": 4,
        "encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 8,
        "run.steps": 2, "run.eval_every": 2, "run.eval_cells": 8, "run.checkpoint_every": 2,
    }  # fmt: skip
    overrides = [f"--config.{key}={value}" for key, value in small.items()]
    assert main(["train", "--config", str(config), "--workdir", str(tmp_path / "run"), "--quiet", *overrides]) == 0
    assert "train/loss" in (tmp_path / "run" / "metrics.jsonl").read_text()


# --- what servers do ---


def test_a_server_that_fails_now_and_then_is_asked_again(bucket, sharded):
    url, seen = bucket.upload(sharded, "x"), Counter()

    def first_time(method, path):
        seen[path] += 1
        return 503 if seen[path] == 1 else None

    expected = batches(open_corpus(sharded))
    bucket.refuse = first_time
    assert_equal_batches(batches(open_corpus(url)), expected)
    use(url)
    assert max(seen.values()) > 1


@pytest.mark.parametrize(
    "part", ["manifest.json", "features.parquet", "X/data/zarr.json", "indptr/c/0", "data/c", "obs"]
)
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_goes_on_failing_is_told(bucket, sharded, part, status):
    url = bucket.upload(sharded, "x")
    bucket.refuse = lambda method, path: status if f"/{part}" in path else None
    line = refusal(partial(use, url))
    assert "cannot be reached" in line
    assert str(status) in line
    assert "damaged" not in line
    assert len([path for _, path in bucket.requests if path.endswith("/manifest.json")]) <= 3


@pytest.mark.parametrize("part", ["manifest.json", "X/data/zarr.json", "data/c", "obs"])
def test_no_permission_is_told_with_what_gives_it(bucket, sharded, part):
    url = bucket.upload(sharded, "x")
    bucket.refuse = lambda method, path: 403 if f"/{part}" in path else None
    line = refusal(partial(use, url))
    assert "may not be read" in line
    assert "AWS_ACCESS_KEY_ID" in line
    assert "damaged" not in line


def test_without_credentials_a_private_bucket_stays_private(bucket, sharded, monkeypatch, tmp_path):
    url = bucket.upload(sharded, "x")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "may not be read" in refusal(partial(open_corpus, url))


@pytest.mark.parametrize("name", ["lab", "default"])
def test_a_profile_is_taken(bucket, sharded, monkeypatch, tmp_path, name):
    url = bucket.upload(sharded, "x")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    (tmp_path / "config").write_text("")
    (tmp_path / "credentials").write_text(f"[{name}]\naws_access_key_id = lab\naws_secret_access_key = lab\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    if name != "default":
        monkeypatch.setenv("AWS_PROFILE", name)
    assert open_corpus(url).n_cells == 287


def test_a_bucket_that_may_not_be_listed_forbids_what_is_not_there(bucket, sharded, tmp_path):
    url = bucket.upload(sharded, "x")
    bucket.refuse = lambda method, path: 403 if path.endswith("gene_table.parquet") else None
    from mofm.batches.spaces import corpus_spaces

    assert len(corpus_spaces(open_corpus(url))[0]) == len(corpus_spaces(open_corpus(sharded))[0])


@pytest.mark.parametrize("url", ["s3://corpora/elsewhere", "s3://nowhere/x"])
def test_a_bucket_without_a_corpus_is_told(bucket, url):
    line = refusal(partial(open_corpus, url))
    assert url in line
    assert "check the bucket" in line


@pytest.mark.parametrize("url", ["s3://Not_A_Bucket!/x", "ftp://host/x"])
def test_what_is_no_url_is_told(bucket, url):
    assert url in refusal(partial(open_corpus, url))


def test_nobody_there_is_told(bucket, sharded, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal(partial(open_corpus, "s3://corpora/x"))
    assert "cannot be reached" in refusal(partial(open_corpus, "http://127.0.0.1:9/x"))
