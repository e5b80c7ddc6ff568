"""A corpus is made in a bucket: the same as in a folder, whole or not at all, and two writers lose nothing."""

import pytest

from mofm.cli import main
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError


@pytest.fixture
def inputs(tmp_path, draw_counts, write_h5ad, gene_ids):
    """Two h5ad files that share some genes."""
    counts = {"one": (draw_counts(60, 40, 1), gene_ids[:40]), "two": (draw_counts(50, 40, 2), gene_ids[20:60])}
    return [write_h5ad(tmp_path / f"{name}.h5ad", *what, prefix=name) for name, what in counts.items()]


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def objects(bucket, prefix: str = "x") -> dict[str, bytes]:
    """What lies below a prefix."""
    from moto.s3.models import s3_backends

    keys = next(iter(s3_backends.values()))["aws"].buckets["corpora"].keys
    return {name.removeprefix(f"{prefix}/"): keys[name].value for name in list(keys) if name.startswith(f"{prefix}/")}


def files(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_same_bytes_as_in_a_folder(bucket, inputs, tmp_path, capsys):
    ingest(inputs, tmp_path / "corpus")
    url = f"{bucket.url}/x"
    assert main(["ingest", str(inputs[0]), url]) == 0
    assert main(["ingest", *map(str, inputs), url]) == 0
    assert "already there" in capsys.readouterr().out
    assert objects(bucket) == files(tmp_path / "corpus")
    assert open_corpus(url).digest == open_corpus(tmp_path / "corpus").digest


@pytest.mark.parametrize("part", ["features.parquet", "X/indices", "var/feature_row/zarr.json", "manifest.json"])
def test_killed_at_any_point_it_reads_as_before_and_goes_on(bucket, inputs, tmp_path, part):
    url = f"{bucket.url}/x"
    ingest(inputs[:1], url)
    before = open_corpus(url).digest
    bucket.refuse = lambda method, path: 403 if method == "PUT" and f"/{part}" in path else None
    assert "may not be" in refusal(lambda: ingest(inputs, url))
    bucket.refuse = lambda method, path: None
    assert open_corpus(url).digest == before
    assert [result.status for result in ingest(inputs, url)] == ["already there", "ingested"]
    ingest(inputs, tmp_path / "corpus")
    assert objects(bucket) == files(tmp_path / "corpus")


def test_of_two_at_once_one_is_told_and_none_is_lost(bucket, inputs, tmp_path):
    url, begun = f"{bucket.url}/x", []

    def other(*_):
        if not begun:
            begun.append(ingest(inputs[1:], url))  # while the first one reads

    assert "another mofm ingest" in refusal(lambda: ingest(inputs[:1], url, on_progress=other))
    assert [store.name for store in open_corpus(url).stores] == ["two"]
    ingest(inputs[:1], url)
    corpus = open_corpus(url)
    assert [store.name for store in corpus.stores] == ["two", "one"]
    for store in corpus.stores:
        ids = corpus.features["id"].to_numpy()[store.feature_rows]
        assert ids.tolist() == store.var().index.tolist()
        store.read_rows(0, store.n_cells).result()


def test_rows_of_features_stay_whoever_comes_between(bucket, inputs, tmp_path, draw_counts, write_h5ad, gene_ids):
    """One writer has its rows and is stopped before its manifest; another appends; the first goes on."""
    url = f"{bucket.url}/x"
    third = write_h5ad(tmp_path / "third.h5ad", draw_counts(40, 30, 3), gene_ids[70:100])
    ingest(inputs[1:], url)
    bucket.refuse = lambda method, path: 403 if method == "PUT" and "manifest" in path else None
    refusal(lambda: ingest(inputs[:1], url))
    bucket.refuse = lambda method, path: None
    uploaded = {name: content for name, content in objects(bucket).items() if "one.rna" in name}
    ingest([third], url)
    assert [result.status for result in ingest(inputs[:1], url)] == ["ingested"]
    assert len(uploaded) > 10
    assert uploaded.items() <= objects(bucket).items()
    for store in open_corpus(url).stores:
        assert open_corpus(url).features["id"].to_numpy()[store.feature_rows].tolist() == store.var().index.tolist()


def test_files_of_another_are_not_overwritten(bucket, inputs):
    url = f"{bucket.url}/x"
    bucket.ask("PUT", "x/stores/one.rna.zarr/X/data/c/0", b"something else")
    assert "is there already, and is another" in refusal(lambda: ingest(inputs[:1], url))
    assert objects(bucket)["stores/one.rna.zarr/X/data/c/0"] == b"something else"


def test_what_cannot_be_written_is_told(bucket, inputs):
    assert "cannot be written to" in refusal(lambda: ingest(inputs, "https://host/corpus"))
    assert "s3://nowhere" in refusal(lambda: ingest(inputs, "s3://nowhere/x"))
    bucket.refuse = lambda method, path: 503 if method == "PUT" else None
    assert "cannot be reached" in refusal(lambda: ingest(inputs, f"{bucket.url}/x"))
    assert "manifest.json" not in objects(bucket)
