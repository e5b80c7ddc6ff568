"""Regulators of groups of cells: right beside the truth of a simulation, the same for the same question, honest about what
was known, and written whole."""

import dataclasses
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mofm.cli import main
from mofm.cli.options import copy_name
from mofm.cli.regulators import default_folder
from mofm.errors import InputError
from mofm.inference import links
from mofm.inference.groups import read_groups
from mofm.inference.links import link_blocks, network_of
from mofm.inference.model import RNA, Options, load
from mofm.inference.profiles import read_profiles
from mofm.inference.regulator_output import write_table
from mofm.inference.regulators import COLUMNS, rank_edges, regulators
from mofm.training.network import RunNetwork

GROUPS = ("type_1", "type_2", "type_3", "type_4")


@pytest.fixture(scope="module")
def found(regulated, regulated_model):
    return regulators(regulated_model, regulated.source, "group", top=300, quiet=True)


def truth_of(regulated, tfs) -> np.ndarray:
    cells = regulated.cells
    return pd.DataFrame(cells.obsm["tf_activity"], columns=cells.uns["simulation"]["tf_names"])[list(tfs)].to_numpy()


def z_scores(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def test_activities_follow_the_truth(regulated, found):
    activity_NT = found.activity_NT
    assert activity_NT.shape == (400, len(found.tfs))
    assert activity_NT.dtype == np.float32
    np.testing.assert_allclose(activity_NT.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(activity_NT.std(axis=0), 1, atol=1e-3)
    correlation_T = (z_scores(truth_of(regulated, found.tfs)) * activity_NT).mean(axis=0)
    assert correlation_T.mean() > 0.3
    assert (correlation_T > 0).mean() > 0.8


def test_edges_follow_the_truth(regulated, found):
    """The first edges of a type move their target there as the true network does."""
    cells = regulated.cells
    activity = pd.DataFrame(truth_of(regulated, found.tfs), columns=found.tfs)
    types, effects = cells.obs["cell_type"].astype(str).to_numpy(), cells.varp["grn"].toarray()
    place = {name: row for row, name in enumerate(cells.var_names)}
    agreeing = []
    for row in found.edges[found.edges["rank"] <= 30].itertuples():
        shift = activity.loc[types == row.group, row.tf].mean() - activity[row.tf].mean()
        agreeing.append(np.sign(row.score) * np.sign(effects[place[row.tf], place[row.target]] * shift))
    assert np.mean(agreeing) > 0.5  # 1: all right; 0: half right, half wrong, or all no edges


def test_the_table_is_ranked(found):
    edges = found.edges
    assert tuple(edges.columns) == COLUMNS
    assert tuple(edges["group"].unique()) == GROUPS
    for _, part in edges.groupby("group"):
        assert part["rank"].tolist() == list(range(1, 301))
        assert (np.diff(part["score"].abs()) <= 0).all()
        assert not part.duplicated(["tf_id", "target_id"]).any()
    assert (edges["tf"] != edges["target"]).all()
    assert edges["confidence"].between(0, 1).all()
    top = found.top
    assert set(top["group"]) == set(GROUPS)
    assert (top[top["rank"] == 1]["activity"].to_numpy() > 0.3).all()


def test_what_was_known_is_said(regulated, regulated_model, found):
    symbols = regulated_model.genes["symbol"].to_numpy()
    split = {}
    for row in regulated_model.network.edges.itertuples():
        split[symbols[row.tf], symbols[row.target]] = row.split, row.sign
    words = {"train": "training", "held_out_edge": "held out"}
    for row in found.edges.itertuples():
        what, sign = split.get((row.tf, row.target), ("", 0))
        assert row.known == words.get(what, "")
        assert row.networks == ("truth" if what else "")
        if row.known == "training":
            assert row.sign == {1: "activates", -1: "represses"}[sign]
    assert {"training", "held out", ""} == set(found.edges["known"])


def test_the_same_question_has_the_same_answer(regulated, regulated_model, found):
    again = regulators(regulated_model, regulated.source, "group", top=300, quiet=True)
    np.testing.assert_array_equal(again.activity_NT, found.activity_NT)
    pd.testing.assert_frame_equal(again.edges, found.edges)


def test_batch_size_changes_nothing(regulated, regulated_model, found):
    other = regulators(regulated_model, regulated.source, "group", top=300, batch_size=37, quiet=True)
    np.testing.assert_allclose(other.activity_NT, found.activity_NT, atol=1e-4)


def test_blocks_of_tfs_change_nothing(regulated_model, found, monkeypatch):
    rng = np.random.default_rng(0)
    network = network_of(regulated_model)
    shift_CT, shift_CG = rng.normal(size=(2, len(network.tfs))), rng.normal(size=(2, len(regulated_model.genes)))
    whole = rank_edges(regulated_model, network, ("a", "b"), shift_CT, shift_CG, 50)
    monkeypatch.setattr(links, "BLOCK_PAIRS", 3 * regulated_model.spec.genes)
    pd.testing.assert_frame_equal(rank_edges(regulated_model, network, ("a", "b"), shift_CT, shift_CG, 50), whole)
    blocks = [len(block) for block, _ in link_blocks(regulated_model, network, network.tfs)]
    assert max(blocks) == 3
    assert sum(blocks) == len(network.tfs)


def test_profiles_are_z_scores_less_the_cells_mean(regulated, regulated_model):
    """Against the same numbers, dense."""
    cells, genes = regulated.cells, len(regulated_model.genes)
    with regulated_model.opened(regulated.source, RNA, Options(quiet=True)) as matched:
        ((table, matching),) = matched
        groups = read_groups(table, "group", 10)
        profiles = read_profiles(table, matching, genes, groups.code_N, len(groups.names))
        rng = np.random.default_rng(0)
        loading_GT = sparse.csc_array(rng.normal(size=(genes, 3)) * (rng.random((genes, 3)) < 0.2))
        score_NT = np.concatenate(list(profiles.scores(loading_GT)))
    order = cells.var_names.get_indexer(regulated_model.genes["id"])
    counts = cells.X.toarray()[:, order].astype(float)
    values = np.log1p(counts / cells.X.sum(axis=1).reshape(-1, 1) * 1e4)
    values = np.asarray((values - values.mean(axis=0)) / np.where(values.std(axis=0) > 0, values.std(axis=0), np.inf))
    values = values - values.sum(axis=1, keepdims=True) / np.count_nonzero(values.std(axis=0))
    np.testing.assert_allclose(score_NT, values @ loading_GT, atol=1e-8)
    for place, name in enumerate(groups.names):
        inside = (cells.obs["group"] == name).to_numpy()
        np.testing.assert_allclose(profiles.group_CG[place], values[inside].mean(axis=0), atol=1e-8)


def test_cells_without_a_group_and_small_groups_are_told(found):
    assert found.groups.names == GROUPS
    assert (found.groups.code_N == -1).sum() == 10
    assert found.groups.sizes.sum() == 390
    assert any(note.startswith("7 cells have no group") for note in found.notes)
    assert any("few (3)" in note for note in found.notes)


def test_one_network_of_the_model(regulated, regulated_model, found):
    named = regulators(regulated_model, regulated.source, "group", network="truth", top=300, quiet=True)
    pd.testing.assert_frame_equal(named.edges, found.edges)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"groupby": "grop"}, r"no column 'grop'.*Did you mean 'group'"),
        ({"network": "truht"}, r"no network 'truht'.*Did you mean 'truth'"),
        ({"min_cells": 1000}, r"none of the 5 groups.*--min-cells"),
        ({"min_cells": 0}, "min cells 0"),
        ({"top": 0}, "top 0"),
    ],
)
def test_questions_that_cannot_be_answered(regulated, regulated_model, asked, what):
    with pytest.raises(InputError, match=what):
        regulators(regulated_model, regulated.source, **({"groupby": "group"} | asked), quiet=True)


def test_a_model_of_no_network_is_refused(trained):
    with pytest.raises(InputError, match=r"without a regulatory network.*network\.tables"):
        regulators(load(trained.workdir), trained.source, "cell_type", quiet=True)


def test_cells_of_other_genes_are_refused(trained, regulated_model):
    with pytest.raises(InputError, match=r"none of its 300 genes"):
        regulators(regulated_model, trained.source, "cell_type", quiet=True)


def test_tables_by_their_suffix(found, tmp_path):
    for name, read in (("e.parquet", pd.read_parquet), ("e.tsv", pd.read_table), ("e.tsv.gz", pd.read_table)):
        write_table(found.edges, tmp_path / name)
        table = read(tmp_path / name)
        assert table["target_id"].tolist() == found.edges["target_id"].tolist()
        np.testing.assert_allclose(table["score"], found.edges["score"], rtol=1e-5)
    with pytest.raises(InputError, match=r"e\.xlsx.*\.parquet"):
        write_table(found.edges, tmp_path / "e.xlsx")


def test_through_the_command_line(regulated, found, tmp_path, capsys, snapshot):
    words = ["regulators", regulated.workdir, regulated.source, tmp_path / "out", "--groupby", "group", "--top", 300]
    words = [str(word) for word in words]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "type_1" in said
    assert "7 cells have no group" in said
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == ["cells.h5ad", "edges.parquet", "regulators.png"]
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "edges.parquet"), found.edges, check_dtype=False)
    written, source = ad.read_h5ad(folder / "cells.h5ad"), ad.read_h5ad(regulated.source)
    np.testing.assert_array_equal(written.obsm["mofm_tf_activity"], found.activity_NT)
    pd.testing.assert_frame_equal(written.obs, source.obs)
    report = written.uns["mofm_regulators"]
    assert tuple(report["tfs"]) == found.tfs
    assert report["step"] == 40
    assert report["group_sizes"].tolist() == found.groups.sizes.tolist()
    assert set(report["top_tfs"]) == set(GROUPS)
    before = snapshot(folder)
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert snapshot(folder) == before
    assert main([*words, "--overwrite"]) == 0


def test_the_default_folder_lies_beside_the_file(tmp_path):
    assert default_folder(tmp_path / "cells.h5ad") == tmp_path / "cells_regulators"
    assert (copy_name(tmp_path / "cells.h5mu"), copy_name(tmp_path / "store.zarr")) == ("cells.h5mu", "cells.h5ad")
    assert str(default_folder("s3://bucket/cells.h5ad")) == "cells_regulators"


def test_edges_of_several_networks(regulated_model):
    """A pair is known where any network was trained on it; networks that disagree on a sign do not tell it."""
    columns = ("tf", "target", "relation", "sign", "weight", "confidence", "split")
    rows = [
        (0, 1, 0, 1, 1.0, "", "train"),
        (0, 1, 1, -1, 1.0, "", "held_out_edge"),
        (2, 3, 1, -1, 1.0, "", "held_out_tf"),
    ]
    two = RunNetwork(pd.DataFrame(rows, columns=columns), ("one", "two"))
    both = network_of(dataclasses.replace(regulated_model, network=two))
    assert both.pairs.to_dict("list") == {
        "tf": [0, 2], "target": [1, 3], "sign": [0, -1], "known": ["training", "held out"], "network": ["one;two", "two"],
    }  # fmt: skip
    assert both.tfs.tolist() == [0, 2]
    second = network_of(dataclasses.replace(regulated_model, network=two), "two")
    assert (second.names, second.relations, second.pairs["known"].tolist()) == (("two",), (1,), ["held out"] * 2)
    known_TG = both.known_signs(both.tfs, 5)
    assert known_TG[0, 1] == 0
    assert np.isnan(known_TG).sum() == 9


def test_labels_may_be_numbers(regulated, regulated_model):
    with regulated_model.opened(regulated.source, RNA, Options(quiet=True)) as matched:
        ((table, _),) = matched
        numbered = dataclasses.replace(table, obs=table.obs.assign(cluster=np.arange(400) % 3))
        groups = read_groups(numbered, "cluster")
        assert groups.names == ("0", "1", "2")
        many = dataclasses.replace(table, obs=table.obs.assign(cluster=np.arange(400) % 12))
        assert read_groups(many, "cluster").names == tuple(map(str, range(12)))
        assert groups.sizes.tolist() == [134, 133, 133]
        with pytest.raises(InputError, match="labels none of its 400 cells"):
            read_groups(dataclasses.replace(table, obs=table.obs.assign(empty=np.nan)), "empty")


def test_the_portal_finds_the_same_and_shows_it(regulated, regulated_model, found, tmp_path, monkeypatch):
    """The job of a portal; UMAP is long to compile, and the first two columns do."""
    from mofm.evaluation import figures

    perform = pytest.importorskip("mofm.portal.job", exc_type=ImportError).perform

    monkeypatch.setattr(figures, "umap_coordinates", lambda X_ND: np.asarray(X_ND[:, :2], np.float32))
    options = {"groupby": "group", "min_cells": 10, "network": None, "modality": "rna"}
    perform(
        regulated_model, regulated.source, tmp_path, {"verb": "regulators", "options": options, "name": "cells.h5ad"}
    )
    page = json.loads((tmp_path / "result.json").read_text())
    assert page["title"] == "Regulators of group"
    told = [file["name"] for kind in ("files", "images") for file in page[kind]]
    assert {*told, "points.json", "result.json"} == {path.name for path in tmp_path.iterdir()}
    tfs = pd.read_csv(tmp_path / "tfs.csv")
    assert tfs["tf"].tolist() == found.top["tf"].tolist()
    np.testing.assert_allclose(tfs["activity"], found.top["activity"], rtol=1e-4, atol=1e-5)
    edges = pd.read_csv(tmp_path / "edges.csv", keep_default_na=False)
    assert edges[edges["rank"] <= 300]["target"].tolist() == found.edges["target"].tolist()
    np.testing.assert_allclose(
        ad.read_h5ad(tmp_path / "cells.h5ad").obsm["mofm_tf_activity"], found.activity_NT, rtol=1e-4
    )
    groups, *activities = json.loads((tmp_path / "points.json").read_text())["keys"]
    assert (groups["name"], groups["levels"]) == ("group", list(GROUPS))
    assert groups["counts"] == found.groups.sizes.tolist()
    assert all(key["name"].endswith(" activity") for key in activities)
    assert any("few (3)" in line for line in page["lines"])
