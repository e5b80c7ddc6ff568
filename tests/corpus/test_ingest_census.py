"""A Census becomes a dataset for each dataset_id; what is there already is left alone, whatever happened before."""

import json

import anndata
import numpy as np
import pytest

pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed")

from mofm.cli import main
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus, read_manifest
from mofm.errors import InputError

ALL = ["ds-a", "ds-b", "ds-c"]


@pytest.fixture
def folder(tmp_path, census, write_soma):
    return write_soma(tmp_path / "census", census)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        ingest(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_store_has_the_genes_and_cells_of_its_dataset(folder, tmp_path, census):
    results = ingest([folder], tmp_path / "corpus", obs_filter="disease == 'normal'")
    assert sorted(result.name for result in results) == ALL
    primary = census.obs["is_primary_data"] & (census.obs["disease"] == "normal")
    for result in results:
        rows = np.flatnonzero((census.obs["dataset_id"] == result.name) & primary)
        genes = np.flatnonzero(census.presence["abc".index(result.name[-1])])
        adata = anndata.io.read_zarr(tmp_path / "corpus" / result.entry.path)
        assert np.array_equal(adata.X.toarray(), census.layers["raw"][np.ix_(rows, genes)])
        assert adata.var_names.tolist() == census.var["feature_id"].iloc[genes].tolist()
        assert adata.obs_names.tolist() == [f"{result.name}/{one}" for one in census.ids[rows]]
        assert adata.obs["tissue"].tolist() == census.obs["tissue"].iloc[rows].tolist()
        assert result.entry.kind == "soma"
        assert result.entry.source == "census"
        assert result.entry.given == {"obs-filter": "disease == 'normal'"}
        assert any(f"{len(genes)} of 40 genes are measured" in note for note in result.entry.notes)
    # What a dataset does not measure is not in its space, and so never a zero of it.
    assert len(open_corpus(tmp_path / "corpus").features) == 40


def test_a_stopped_ingest_goes_on_and_ends_in_the_same_bytes(folder, tmp_path, content, monkeypatch):
    ingest([folder], tmp_path / "whole")
    seen = []

    def stop(number, name, done, total):
        seen.append(name)
        if len(set(seen)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([folder], tmp_path / "corpus", on_progress=stop)
    assert len(read_manifest(tmp_path / "corpus").stores) == 1
    results = ingest([folder], tmp_path / "corpus")
    assert [result.status for result in results] == ["already there", "ingested", "ingested"]
    assert content(tmp_path / "corpus") == content(tmp_path / "whole")
    results = ingest([folder], tmp_path / "corpus")
    assert {result.status for result in results} == {"already there"}
    assert content(tmp_path / "corpus") == content(tmp_path / "whole")


@pytest.mark.slow
def test_processes_make_the_same_bytes(folder, tmp_path, content):
    ingest([folder], tmp_path / "one")
    ingest([folder], tmp_path / "two", jobs=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_dataset_enters_once_by_one_filter(folder, tmp_path, census, write_soma):
    ingest([folder], tmp_path / "corpus", obs_filter="tissue == 'lung'")
    said = refusal([folder], tmp_path / "corpus", obs_filter="tissue == 'blood'")
    assert "in the corpus already as 'ds-" in said
    assert "--obs-filter \"tissue == 'lung'\"" in said
    assert "in the corpus already" in refusal(
        [folder], tmp_path / "corpus", obs_filter="tissue == 'lung'", duplicates=True
    )
    # Nor from another build of the Census.
    later = write_soma(tmp_path / "later", census._replace(build="2025-11-08"))
    assert "has a store 'ds-a' already, made from a different census" in refusal([later], tmp_path / "corpus")


def test_names_are_put_before_those_of_the_datasets(folder, tmp_path):
    results = ingest([folder], tmp_path / "corpus", names=["lung"])
    assert sorted(result.name for result in results) == [f"lung-{name}" for name in ALL]


def test_mouse_is_refused_by_a_corpus_of_human(tmp_path, census, write_soma):
    from mofm.omics.genome import gene_table

    var = census.var.assign(feature_id=gene_table("mouse").gene_ids[100:140])
    mouse = write_soma(tmp_path / "mouse", census._replace(var=var, organism="mus_musculus"))
    said = refusal([mouse], tmp_path / "corpus")
    assert "mouse" in said
    assert not (tmp_path / "corpus" / "manifest.json").exists()
    assert len(ingest([mouse], tmp_path / "corpus", species="mouse")) == 3


def test_an_experiment_that_changes_while_it_is_read(tmp_path, census, write_soma):
    import tiledbsoma

    obs = census.obs.drop(columns=["dataset_id", "is_primary_data"])
    path = write_soma(tmp_path / "mine", census._replace(obs=obs, presence=None))

    def change(*_):
        with tiledbsoma.open(str(path / "obs"), "w") as opened:
            opened.metadata["more"] = 1

    assert "was changed while it was read" in refusal([path], tmp_path / "corpus", on_progress=change)
    (result,) = ingest([path], tmp_path / "corpus")
    assert (result.name, result.entry.cells, result.entry.features) == ("mine", 60, 40)


def test_the_command_line(folder, tmp_path, capsys):
    corpus = str(tmp_path / "corpus")
    assert main(["ingest", str(folder), corpus, "--obs-filter", "tissue == 'lung'"]) == 0
    assert "ds-b: rna Title of ds-b" in capsys.readouterr().out
    assert main(["ingest", str(folder), corpus, "--obs-filter", "tisue == 'lung'"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["inspect", str(folder), "--json"]) == 0
    assert {one["dataset"] for one in json.loads(capsys.readouterr().out)["selected"]} == set(ALL)
    assert main(["ingest", f"file://{folder}", corpus, "--obs-filter", "tissue == 'lung'"]) == 0
    assert "already there" in capsys.readouterr().out
