"""The cache of shards: a file of a bucket is fetched once, kept within a limit, shared, and mended where it is damaged."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from streaming import assert_equal_batches, batches, batches_through_cache

from mofm.batches.config import DataConfig
from mofm.corpus.cache import ShardCache
from mofm.corpus.store import open_corpus
from mofm.errors import InputError

MANY = 10**9


def shards(folder: Path) -> list[Path]:
    """Of X, in a corpus or a cache."""
    return sorted(path for path in folder.rglob("X/*/c/*") if "indptr" not in path.parts and path.is_file())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def expected(sharded):
    return batches(open_corpus(sharded))


def test_each_shard_is_fetched_once_and_a_second_epoch_asks_for_nothing(bucket, sharded, expected, tmp_path):
    url = bucket.upload(sharded, "x")
    corpus = open_corpus(url, cache=ShardCache(tmp_path / "cache", MANY))
    bucket.requests.clear()
    assert_equal_batches(batches(corpus), expected)
    asked = [path for method, path in bucket.requests if "/X/" in path and "/c/" in path and "indptr" not in path]
    assert sorted(asked) == sorted(f"/corpora/x/{path.relative_to(sharded)}" for path in shards(sharded))
    bucket.requests.clear()
    assert_equal_batches(batches(corpus), expected)
    assert bucket.requests == []
    assert [path.read_bytes() for path in shards(tmp_path)] == [path.read_bytes() for path in shards(sharded)]


def test_another_run_finds_what_is_there(bucket, sharded, expected, tmp_path):
    url = bucket.upload(sharded, "x")
    batches(open_corpus(url, cache=ShardCache(tmp_path / "cache", MANY)))
    bucket.requests.clear()
    assert_equal_batches(batches(open_corpus(url, cache=ShardCache(tmp_path / "cache", MANY))), expected)
    assert not [path for _, path in bucket.requests if "data/c" in path or "indices/c" in path]


def test_another_corpus_at_the_same_place_is_another(bucket, sharded, tmp_path, draw_counts, write_h5ad, gene_ids):
    from mofm.corpus.ingest import ingest

    url, cache = bucket.upload(sharded, "x"), tmp_path / "cache"
    batches(open_corpus(url, cache=ShardCache(cache, MANY)))
    ingest([write_h5ad(tmp_path / "one.h5ad", draw_counts(230, 60, 8), gene_ids[:60])], tmp_path / "other")
    bucket.upload(tmp_path / "other", "x")
    there = open_corpus(url, cache=ShardCache(cache, MANY))
    assert_equal_batches(batches(there), batches(open_corpus(tmp_path / "other")))


@pytest.mark.parametrize("part", [0.0, 0.3, 0.8])
def test_it_stays_within_its_limit_and_the_rest_is_read_in_the_bucket(bucket, sharded, expected, tmp_path, part):
    all_bytes = sum(path.stat().st_size for path in shards(sharded))
    limit = max(1, int(part * all_bytes))
    url = bucket.upload(sharded, "x")
    corpus = open_corpus(url, cache=ShardCache(tmp_path / "cache", limit), cache_bytes=0)  # none in memory
    for _ in range(2):
        bucket.requests.clear()
        assert_equal_batches(batches(corpus), expected)
        assert bucket.requests
        assert size(tmp_path / "cache") <= limit
    assert bool(shards(tmp_path / "cache")) == (part > 0)


def test_a_shard_too_large_leaves_room_for_smaller_ones(tmp_path):
    cache, part = ShardCache(tmp_path / "cache", 100), tmp_path / "cache" / ".0.part"
    part.touch()
    assert not cache.has_room(part, 101)
    assert cache.has_room(part, 60)
    other = part.with_name(".1.part")
    other.touch()
    assert not cache.has_room(other, 41)
    assert cache.has_room(other, 40)
    assert part.stat().st_size == 60
    assert other.stat().st_size == 40


def test_closed_stores_make_room_the_oldest_first_and_open_ones_stay(bucket, sharded, expected, tmp_path):
    urls = [bucket.upload(sharded, name) for name in ("a", "b", "c")]
    one = sum(path.stat().st_size for path in shards(sharded))
    bound = 2 * one  # of shards not compressed
    cache = ShardCache(tmp_path / "cache", 2 * one + bound)

    def folders():
        return {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir() and shards(path)}

    first = open_corpus(urls[0], cache=cache)
    batches(first)
    held = folders()
    second = open_corpus(urls[1], cache=cache)
    batches(second)
    closed = folders() - held
    del second
    third = open_corpus(urls[2], cache=ShardCache(tmp_path / "cache", 2 * one + one // 4))
    batches(third)
    assert held <= folders()
    assert len(shards(tmp_path / "cache")) < 3 * len(shards(sharded))
    assert len([path for name in closed for path in shards(tmp_path / "cache" / name)]) < len(shards(sharded))
    bucket.requests.clear()
    assert_equal_batches(batches(first), expected)
    assert bucket.requests == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "index"])
def test_a_shard_damaged_here_is_fetched_again(bucket, sharded, expected, tmp_path, damage):
    url = bucket.upload(sharded, "x")
    batches(open_corpus(url, cache=ShardCache(tmp_path / "cache", MANY)))
    file = shards(tmp_path / "cache")[0]
    sound = file.read_bytes()
    flipped = {"flip": 5, "index": len(sound) - 6}
    content = bytearray(sound[: {"cut": len(sound) - 9, "empty": 0}.get(damage)])
    if damage in flipped:
        content[flipped[damage]] ^= 0x10
    file.write_bytes(content)
    corpus = open_corpus(url, cache=ShardCache(tmp_path / "cache", MANY))
    bucket.requests.clear()
    assert_equal_batches(batches(corpus), expected)
    # Reads that failed beside the first may read the rest of their rows in the bucket, of this one file.
    fetched = {path for _, path in bucket.requests if "data/c" in path or "indices/c" in path}
    assert [path.endswith(str(file.relative_to(file.parents[3]))) for path in fetched] == [True]
    assert file.read_bytes() == sound


def test_damage_in_the_bucket_is_told_of_the_file_there(bucket, sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "corpus")
    file = shards(folder)[0]
    file.write_bytes(b"\xff" * 9 + file.read_bytes()[9:])
    url = bucket.upload(folder, "x")
    with pytest.raises(InputError, match=r"X/data/c/0: chunks 0") as caught:
        batches(open_corpus(url, cache=ShardCache(tmp_path / "cache", MANY)))
    assert url in str(caught.value)
    skipping = open_corpus(url, damaged="skip", cache=ShardCache(tmp_path / "cache", MANY))
    assert_equal_batches(batches(skipping), batches(open_corpus(folder, damaged="skip")))


def test_a_file_that_is_deleted_under_a_reader_is_missed_by_nobody(bucket, sharded, expected, tmp_path):
    corpus = open_corpus(bucket.upload(sharded, "x"), cache=ShardCache(tmp_path / "cache", MANY))
    with ThreadPoolExecutor(1) as threads:
        deleting = threads.submit(
            lambda: [path.unlink(missing_ok=True) for _ in range(50) for path in shards(tmp_path / "cache")]
        )
        for _ in range(3):
            assert_equal_batches(batches(corpus), expected)
        deleting.result()


def test_a_bucket_that_fails_while_fetching_is_told_and_asked_again(bucket, sharded, expected, tmp_path):
    corpus = open_corpus(bucket.upload(sharded, "x"), cache=ShardCache(tmp_path / "cache", MANY))
    bucket.refuse = lambda method, path: 503 if "data/c" in path else None
    with pytest.raises(InputError, match="cannot be reached"):
        batches(corpus)
    bucket.refuse = lambda method, path: None
    assert_equal_batches(batches(corpus), expected)


def test_processes_share_it(bucket, sharded, expected, tmp_path):
    url, spawn = bucket.upload(sharded, "x"), multiprocessing.get_context("spawn")
    # A process that ends before its time breaks the pool, and nobody waits for ever.
    with spawn.Manager() as manager, ProcessPoolExecutor(2, spawn) as processes:
        together = manager.Barrier(2, timeout=300)
        for read in [processes.submit(batches_through_cache, url, tmp_path / "cache", together) for _ in range(2)]:
            assert_equal_batches(read.result(), expected)
    asked = [path for _, path in bucket.requests if "/X/" in path and "/c/" in path and "indptr" not in path]
    assert sorted(asked) == sorted(f"/corpora/x/{path.relative_to(sharded)}" for path in shards(sharded))
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache_dir"):
        ShardCache(tmp_path / "file" / "cache", MANY)
    with pytest.raises(InputError, match=r"data\.cache_gb"):
        DataConfig("x", cache_gb=0.0)
