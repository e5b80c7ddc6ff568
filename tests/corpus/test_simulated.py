"""A simulated corpus: what its data sets hold, and that it goes on where it was."""

import dataclasses

import anndata
import numpy as np
import pytest

from mofm.corpus import simulated
from mofm.corpus.simulated import simulate_corpus
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.omics.simulate import SimulationConfig, simulate

CONFIG = SimulationConfig(cells=250, genes=40, tfs=12, cell_types=3, seed=5)


def counts_of(dataset):
    store = dataset.stores["rna"]
    rows = store.read_rows(0, store.n_cells).result()
    dense = np.zeros((store.n_cells, store.n_features), np.int64)
    cell = np.repeat(np.arange(store.n_cells), np.diff(rows.indptr_N))
    dense[cell, rows.indices] = rows.data
    return dense


def bytes_of(root):
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_parts_are_other_cells_of_one_network(tmp_path):
    told = []
    results = simulate_corpus(CONFIG, tmp_path / "corpus", dataset_cells=100, jobs=1, on_cells=told.append)
    assert [result.entry.cells for result in results] == [100, 100, 50]
    assert sum(told) == 250
    corpus = open_corpus(tmp_path / "corpus")
    for part, dataset in enumerate(corpus.datasets):
        alone = simulate(dataclasses.replace(CONFIG, cells=dataset.n_cells, part=part))
        np.testing.assert_array_equal(counts_of(dataset), alone.X.toarray())
        assert dataset.cell_names().tolist() == alone.obs_names.tolist()
    first, second = (simulate(dataclasses.replace(CONFIG, cells=100, part=part)) for part in (0, 1))
    np.testing.assert_array_equal(first.varp["grn"].toarray(), second.varp["grn"].toarray())
    np.testing.assert_array_equal(first.uns["simulation"]["attractors"], second.uns["simulation"]["attractors"])
    assert (first.X != second.X).nnz > 0
    assert not set(first.obs_names) & set(second.obs_names)
    assert first.obs["cell_type"].tolist() != second.obs["cell_type"].tolist()


def test_it_goes_on_where_it_was_with_the_same_bytes(tmp_path, monkeypatch):
    whole = tmp_path / "whole" / "corpus"
    simulate_corpus(CONFIG, whole, dataset_cells=100, jobs=1)
    assert list(whole.parent.iterdir()) == [whole]  # no file of a part is left

    made, make = [], simulated._make

    def dies_at_the_second(part, *rest):
        made.append(part.part)
        if len(made) == 2:
            raise KeyboardInterrupt
        return make(part, *rest)

    monkeypatch.setattr(simulated, "_make", dies_at_the_second)
    killed = tmp_path / "killed" / "corpus"
    with pytest.raises(KeyboardInterrupt):
        simulate_corpus(CONFIG, killed, dataset_cells=100, jobs=1)
    assert list(killed.parent.iterdir()) == [killed]
    simulate_corpus(CONFIG, killed, dataset_cells=100, jobs=1)
    assert made == [0, 1, 1, 2]
    assert bytes_of(killed) == bytes_of(whole)
    assert simulate_corpus(CONFIG, killed, dataset_cells=100, jobs=1) == []


def test_processes_make_the_same_bytes_and_more_cells_leave_the_others_alone(tmp_path):
    two = dataclasses.replace(CONFIG, cells=200)
    simulate_corpus(two, tmp_path / "corpus", dataset_cells=100, jobs=2)
    before = bytes_of(tmp_path / "corpus")
    added = simulate_corpus(dataclasses.replace(CONFIG, cells=300), tmp_path / "corpus", dataset_cells=100, jobs=2)
    assert [result.entry.cells for result in added] == [100]
    assert simulate_corpus(dataclasses.replace(CONFIG, cells=300), tmp_path / "corpus", dataset_cells=100, jobs=2) == []
    simulate_corpus(dataclasses.replace(CONFIG, cells=300), tmp_path / "other", dataset_cells=100, jobs=1)
    after = bytes_of(tmp_path / "corpus")
    assert after == bytes_of(tmp_path / "other")
    assert all(after[name] == content for name, content in before.items() if name.startswith("stores"))


def test_several_omics(tmp_path):
    config = dataclasses.replace(CONFIG, cells=60)
    simulate_corpus(config, tmp_path / "corpus", ("rna", "adt"), dataset_cells=30, jobs=1)
    corpus = open_corpus(tmp_path / "corpus")
    assert [dataset.modalities for dataset in corpus.datasets] == [("rna", "adt")] * 2
    assert corpus.n_cells == 60


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match="--dataset-cells 0"):
        simulate_corpus(CONFIG, tmp_path / "corpus", dataset_cells=0)
    with pytest.raises(InputError, match="--jobs 0"):
        simulate_corpus(CONFIG, tmp_path / "corpus", jobs=0)
    simulate_corpus(CONFIG, tmp_path / "corpus", dataset_cells=100, jobs=1)
    more = dataclasses.replace(CONFIG, cells=300)
    with pytest.raises(InputError, match=r"00002-50'.* multiple of --dataset-cells"):
        simulate_corpus(more, tmp_path / "corpus", dataset_cells=100, jobs=1)


def test_a_corpus_by_the_command(tmp_path, capsys):
    from mofm.cli import main

    small = ["--cells", "60", "--genes", "40", "--tfs", "12", "--cell-types", "3"]
    assert main(["simulate", str(tmp_path / "corpus"), *small, "--dataset-cells", "30", "--jobs", "1"]) == 0
    assert "60 new cells in 2 data sets" in capsys.readouterr().out
    assert main(["simulate", str(tmp_path / "a.h5ad"), *small, "--jobs", "1"]) == 2
    assert "--jobs and --dataset-cells are for a corpus" in capsys.readouterr().err
    assert main(["simulate", str(tmp_path / "corpus"), *small, "--overwrite"]) == 2
    assert main(["simulate", str(tmp_path / "a.h5ad"), *small]) == 0
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    first = simulate(SimulationConfig(cells=30, genes=40, tfs=12, cell_types=3))
    np.testing.assert_array_equal(adata.varp["grn"].toarray(), first.varp["grn"].toarray())
