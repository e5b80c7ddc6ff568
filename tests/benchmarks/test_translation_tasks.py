"""The splits of the translation benchmark hide what they say they hide, and a guidance graph joins what overlaps."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("mofm.configs", reason="mofm is not installed: benchmarks need its configs")
sys.path.append(str(Path(__file__).parent))  # benchmarks are scripts that import each other by their names

import peer_methods
import translation_tasks as tasks

from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus


@pytest.fixture(scope="module")
def simulated():
    return tasks.task("simulated", cells=120, genes=100)


@pytest.mark.parametrize("setting", tasks.SETTINGS)
def test_test_cells_are_in_no_training_data(simulated, setting):
    one = tasks.split(simulated, setting, 0)
    for name, adata in simulated.omics.items():
        held = set(map(bytes, one.test[name].X.toarray().astype(np.int32)))
        seen = set(map(bytes, one.train[name].X.toarray().astype(np.int32)))
        assert one.test[name].n_obs == 30
        assert one.test[name].obs_names.equals(one.test["rna"].obs_names)
        assert len(seen) <= adata.n_obs - 30
        if name == "rna":  # rows of the others are not all unlike each other
            assert not held & seen


def test_settings_show_the_pairs_that_they_say(simulated):
    known = {setting: tasks.pairs(tasks.split(simulated, setting, 0), "rna", "atac") for setting in tasks.SETTINGS}
    assert {setting: len(shown[0]) for setting, shown in known.items()} == {"paired": 90, "tenth": 9, "unpaired": 0}
    for setting in ("paired", "tenth"):
        for name, adata in zip(("rna", "atac"), known[setting], strict=True):
            own = simulated.omics[name][known[setting][0].obs_names]
            assert (adata.X != own.X).nnz == 0


def test_a_tenth_shows_the_other_cells_in_one_modality_each(simulated):
    one = tasks.split(simulated, "tenth", 0)
    times = pd.concat([pd.Series(1, adata.obs_names) for adata in one.train.values()]).groupby(level=0).sum()
    assert times.value_counts().to_dict() == {1: 81, 4: 9}


def test_unpaired_cells_have_all_modalities_in_an_order_that_tells_nothing(simulated):
    one = tasks.split(simulated, "unpaired", 0)
    assert {name: adata.n_obs for name, adata in one.train.items()} == dict.fromkeys(simulated.omics, 90)
    depth = {name: adata.obs["n_counts"].to_numpy(float) for name, adata in one.train.items()}
    kinds = [adata.obs["cell_type"].astype(str).to_numpy() for adata in one.train.values()]
    assert sorted(kinds[0]) == sorted(kinds[1])
    assert (kinds[0] != kinds[1]).any()
    assert not np.array_equal(np.argsort(depth["rna"]), np.argsort(depth["atac"]))


@pytest.mark.parametrize(
    ("setting", "datasets"),
    [("unpaired", 4), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("paired", 1), ("tenth", 5)))],
)
def test_training_files_can_be_ingested(simulated, setting, datasets, tmp_path):
    paths = tasks.write(tasks.split(simulated, setting, 0), tmp_path)
    assert set(paths) == {"train", *simulated.omics}
    ingest([paths["train"]], tmp_path / "corpus", unpaired=True)
    assert len(open_corpus(tmp_path / "corpus").datasets) == datasets


def test_a_gene_is_joined_to_the_peaks_of_its_body_and_its_upstream_2_kb():
    genes = pd.DataFrame({"chrom": ["1", "1", "2", ""], "start": 10_000, "end": 20_000, "strand": ["+", "-", "+", ""]})
    places = [
        ("1", 7_900, 8_000),
        ("1", 7_900, 8_001),
        ("1", 19_999, 20_100),
        ("1", 21_999, 23_000),
        ("3", 10_000, 10_500),
    ]
    peaks = pd.DataFrame(places, columns=["chrom", "start", "end"])
    assert sorted(peer_methods.peak_edges(genes, peaks)) == [(0, 1), (0, 2), (1, 2), (1, 3)]
    proteins = pd.DataFrame({"genes": ["b;a", "", "x;b"]})
    assert peer_methods.protein_edges(pd.DataFrame(index=["a", "b"]), proteins) == [(1, 0), (0, 0), (1, 2)]
