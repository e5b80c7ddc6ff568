"""`mofm evaluate`: numbers that can be worked out by hand come out so, what a model was trained on is told, what cannot be
judged is refused before any work, and the report holds it all, the same to the byte each time."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from mofm.batches.stream import Stream
from mofm.cli import main
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.evaluation.annotation import knn_accuracy
from mofm.evaluation.baselines import log_normalised
from mofm.evaluation.evaluate import TASKS, Settings, evaluate
from mofm.evaluation.evaluation_page import record_of, rows_of, write_evaluation
from mofm.evaluation.integration import batch_mixing, batch_mixing_within
from mofm.evaluation.pairing import foscttm
from mofm.evaluation.seen import seen_cells
from mofm.evaluation.stated import at_depth, surprise
from mofm.evaluation.tasks import matching, scib
from mofm.evaluation.translation import per_feature_correlation
from mofm.evaluation.translation_baselines import Measured, baseline_translations, centred_log_ratio
from mofm.inference.model import load
from mofm.omics.readers import Reading
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata

SMALL = Path(__file__).parent.parent.parent / "configs" / "small.py"
CELLS, DRAWS = 120, 60
FOLDS = 3
FEW = {"bootstrap": DRAWS, "folds": FOLDS, "umap": False}


class Judged(NamedTuple):
    """The files, the run that was trained on them, and the cells."""

    cells: Path
    table: Path
    workdir: Path
    omics: dict
    folder: Path


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Judged:
    """120 cells of RNA and ADT of 3 types, with embeddings in obsm; a model of both, with a network, trained a little."""
    folder = tmp_path_factory.mktemp("judged")
    config = SimulationConfig(cells=CELLS, genes=120, tfs=12, cell_types=3, library_size=3000.0, seed=1)
    omics = simulate_multiomics(MultiomicsConfig(cells=config), ("rna", "adt"))
    rng, truth = np.random.default_rng(0), omics["rna"].obs["cell_type"].astype(str).to_numpy()
    same = rng.normal(size=(CELLS, 6))
    for adata in omics.values():
        adata.obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(CELLS) % 3]
        adata.obsm["X_truth"] = np.eye(3)[np.unique(truth, return_inverse=True)[1]]
        adata.obsm["X_lot"] = np.random.default_rng(9).normal(size=(CELLS, 5))
        adata.obsm["X_same"] = same
    grn, names = omics["rna"].varp["grn"].tocoo(), omics["rna"].var_names
    edges = pd.DataFrame({"tf": names[grn.row], "target": names[grn.col], "sign": np.sign(grn.data).astype(int)})
    edges[edges["tf"] != edges["target"]].to_csv(folder / "network.tsv", sep="\t", index=False)
    write_mudata(to_mudata(omics), folder / "cells.h5mu")
    assert main(["ingest", str(folder / "cells.h5mu"), str(folder / "corpus")]) == 0
    overrides = {
        **{"data.corpus": folder / "corpus", "data.batch_size": 32, "data.tokens": 48, "data.holdout_fraction": 0.25},
        **{"encoder.width": 16, "encoder.blocks": 1, "encoder.heads": 2, "encoder.ffn": 24, "encoder.cell_width": 12},
        **{"translator.blocks": 1, "objectives.cycle_weight": 0, "objectives.drift_weight": 0},
        **{"network.tables": [str(folder / "network.tsv")], "network.held_out_edges": 0.4, "grn.width": 8},
        **{"run.steps": 4, "run.eval_every": 4, "run.eval_cells": 16, "run.checkpoint_every": 4},
    }
    words = [f"--config.{key}={value}" for key, value in overrides.items()]
    assert main(["train", "--config", str(SMALL), "--workdir", str(folder / "run"), "--quiet", *words]) == 0
    return Judged(folder / "cells.h5mu", folder / "network.tsv", folder / "run", omics, folder)


@pytest.fixture(scope="module")
def model(judged):
    return load(judged.workdir)


@pytest.fixture(scope="module")
def everything(judged, model):
    """All tasks but perturbation, which takes more cells (`test_perturbation.py`), and scib, as if it were not installed
    (`test_scib.py`)."""
    settings = Settings(
        label_key="cell_type",
        batch_key="donor",
        network=judged.table,
        compare={"truth": "X_truth", "lot": "X_lot", "same": "X_same"},
        **FEW,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scib, "is_installed", lambda: False)
        return evaluate(model, judged.cells, settings, quiet=True)


def table(found) -> pd.DataFrame:
    return pd.DataFrame(rows_of(found)).set_index(["task", "of", "metric", "method"]).sort_index()


def test_every_task_is_judged_with_intervals_around_its_scores(everything):
    assert list(everything.judged) == [task for task in TASKS if task not in ("perturbation", "scib")]
    assert set(everything.skipped) == {"perturbation", "scib"}
    assert "--condition-key" in everything.skipped["perturbation"]
    assert "mofm[scib]" in everything.skipped["scib"]
    frame = table(everything)
    assert np.isfinite(frame[["value", "low", "high"]].to_numpy()).all()
    assert (frame["low"] <= frame["high"]).all()
    means = frame[~frame.index.get_level_values("metric").str.contains("median")]
    inside = (means["low"] - 1e-9 <= means["value"]) & (means["value"] <= means["high"] + 1e-9)
    assert inside.mean() > 0.95  # a percentile interval of a score that resampling biases may miss it
    for task in everything.judged:
        kinds = set(frame.loc[task]["kind"])
        assert {"mofm", "linear", "trivial"} <= kinds, task


def test_a_cell_is_as_deep_as_the_model_takes_it_to_be(model, judged):
    rna, adt = (np.asarray(judged.omics[modality].X.todense()) for modality in ("rna", "adt"))
    np.testing.assert_array_equal(model.depths(judged.omics["rna"]), rna.sum(axis=1))
    geometric = np.exp(np.log1p(adt).mean(axis=1))
    np.testing.assert_allclose(model.depths(judged.omics["adt"], Reading("adt")), 100 * (geometric - 1), rtol=1e-6)


def test_labels_given_away_are_read_without_error_and_noise_is_at_chance(everything):
    scores = table(everything)["value"]
    for of in ("rna", "adt"):
        for metric in ("accuracy, 15-NN", "accuracy, linear probe", "macro-F1, 15-NN"):
            assert scores["annotation", of, metric, "truth"] == 1.0
        assert scores["integration", of, "label neighbours", "truth"] == 1.0
        assert scores["integration", of, "label silhouette", "truth"] == 1.0
        assert scores["annotation", of, "accuracy, 15-NN", "lot"] < 0.6
        assert 0.8 < scores["integration", of, "batch mixing", "noise"] < 1.2
    row = table(everything).loc["annotation", "rna", "accuracy, 15-NN", "truth"]
    assert (row["low"], row["high"]) == (1.0, 1.0)
    assert row["mofm_is"] in ("worse", "no clear difference")


def test_the_majority_is_what_it_is_by_hand(everything, judged):
    labels = judged.omics["rna"].obs["cell_type"].astype(str).to_numpy()
    fold_N = everything.subject.cells.fold_N
    right = 0
    for fold in range(FOLDS):
        names, counts = np.unique(labels[fold_N != fold], return_counts=True)
        right += np.sum(labels[fold_N == fold] == names[np.argmax(counts)])
    row = table(everything).loc["annotation", "rna", "accuracy, 15-NN", "majority"]
    assert row["value"] == pytest.approx(right / CELLS)
    assert row["cells"] == CELLS
    spread = 1.96 * np.sqrt(row["value"] * (1 - row["value"]) / CELLS)
    assert row["high"] - row["low"] == pytest.approx(2 * spread, rel=0.5)


def test_differences_are_of_the_scores(everything):
    frame = table(everything)
    for (task, of, metric, method), row in frame.iterrows():
        if method == "mofm":
            assert row["mofm_is"] is None
            continue
        ours = frame.loc[task, of, metric, "mofm"]["value"]
        assert row["difference"] == pytest.approx(ours - row["value"])
        surely = row["difference_low"] > 0 or row["difference_high"] < 0
        assert (row["mofm_is"] != "no clear difference") == surely
        if surely:
            assert (row["mofm_is"] == "better") == ((row["difference"] > 0) != row["lower_is_better"])


def test_translation_is_judged_per_feature_within_folds(everything, judged):
    rna, adt = judged.omics["rna"], judged.omics["adt"]
    truth_NF, fold_N = centred_log_ratio(adt.X), everything.subject.cells.fold_N
    used = np.flatnonzero(np.asarray((adt.X > 0).sum(axis=0)).ravel())
    means = []
    for fold in range(FOLDS):
        train, test = fold_N != fold, fold_N == fold
        told = baseline_translations("rna", Measured(rna.X[train]), Measured(rna.X[test]), truth_NF[train][:, used])
        means.append(per_feature_correlation(truth_NF[test][:, used], told.ridge_NF).mean)
    scores = table(everything)["value"]
    assert scores["translation", "rna to adt", "mean Pearson per feature", "ridge"] == pytest.approx(
        np.mean(means), abs=1e-6
    )
    for of in ("rna to adt", "adt to rna"):
        for word in ("mean", "median"):
            assert scores["translation", of, f"{word} Pearson per feature", "feature mean"] == 0.0


def test_mofm_translates_as_it_does_elsewhere(everything, judged, model):
    from mofm.inference.targets import find_targets
    from mofm.inference.translate import translate_cells

    rna, adt = judged.omics["rna"], judged.omics["adt"]
    names = [str(name) for name in rna.var_names]
    plain, targets = ad.AnnData(adt.X, adt.obs[[]], adt.var), find_targets(model, "rna", names)
    told = translate_cells(model, plain, targets, Reading("adt"), quiet=True)
    predicted = pd.DataFrame(0.0, index=adt.obs_names, columns=names)
    predicted[told.var_names] = np.log1p(np.asarray(told.X) / told.obs[["mofm_depth"]].to_numpy() * 1e4)
    truth_NF = log_normalised(rna.X).toarray()
    shown = np.flatnonzero(np.asarray((rna.X > 0).sum(axis=0)).ravel())
    fold_N, means, surprises = everything.subject.cells.fold_N, [], []
    counts_NK = rna[:, told.var_names].X.toarray()
    times_N = np.asarray(rna.X.sum(axis=1)).ravel() / told.obs["mofm_depth"].to_numpy()
    surprise_NK = surprise("rna", counts_NK, *at_depth("rna", told.X, told.layers["sd"] ** 2, times_N))[
        :, counts_NK.any(axis=0)
    ]
    for fold in range(FOLDS):
        test = np.flatnonzero(fold_N == fold)
        means.append(per_feature_correlation(truth_NF[test][:, shown], predicted.to_numpy()[test][:, shown]).mean)
        surprises.append(surprise_NK[test].mean())
    found = table(everything)["value"]["translation", "adt to rna"]
    assert found["mean Pearson per feature", "mofm"] == pytest.approx(np.mean(means), abs=1e-5)
    assert found["surprise, nats a count", "mofm"] == pytest.approx(np.mean(surprises), abs=1e-5)
    assert 0 < found["surprise, nats a count", "feature share"] < 2 * found["surprise, nats a count", "mofm"]


def test_views_that_are_one_match_and_chance_is_chance(everything):
    scores = table(everything)["value"]
    of = ("matching", "rna and adt")
    assert scores[(*of, "FOSCTTM", "same")] == 0.0
    assert scores[(*of, "matching score", "same")] == 1.0
    assert scores[(*of, "FOSCTTM", "chance")] == 0.5
    assert scores[(*of, "matching score", "chance")] == pytest.approx(FOLDS / CELLS)
    subject = everything.subject
    sides = [view.embedding_NE - view.embedding_NE.mean(axis=0, dtype=float) for view in subject.views.values()]
    folds = [subject.cells.fold_N == fold for fold in range(FOLDS)]
    expected = np.mean([foscttm(*(side[fold] for side in sides)) for fold in folds])
    assert scores[(*of, "FOSCTTM", "mofm")] == pytest.approx(expected, abs=1e-6)


def test_modalities_mix_as_they_are_and_labels_are_told_from_one_to_the_other(everything, judged):
    scores, subject = table(everything)["value"], everything.subject
    of = ("matching", "rna and adt")
    labels = judged.omics["rna"].obs["cell_type"].astype(str).to_numpy()
    plain = [view.embedding_NE.astype(float) for view in subject.views.values()]
    centred = [side - side.mean(axis=0) for side in plain]
    expected = {"modality mixing": [], "modality mixing within labels": [], "labels from the other modality, 15-NN": []}
    for fold in (subject.cells.fold_N == number for number in range(FOLDS)):
        both, side_of = np.concatenate([side[fold] for side in plain]), np.repeat(["rna", "adt"], fold.sum())
        mixed = (
            batch_mixing(both, side_of).score,
            batch_mixing_within(both, side_of, np.tile(labels[fold], 2)).score,
        )
        rna, adt = (side[fold] for side in centred)
        told = [knn_accuracy(x, labels[fold], y, labels[fold]).accuracy.value for x, y in ((rna, adt), (adt, rna))]
        for metric, value in zip(expected, (*mixed, np.mean(told)), strict=True):
            expected[metric].append(value)
    for metric, values in expected.items():
        assert scores[(*of, metric, "mofm")] == pytest.approx(np.mean(values), abs=1e-6), metric
    assert scores[(*of, "modality mixing", "same")] > 1  # a view's nearest is the cell's other one
    assert scores[(*of, "modality mixing", "chance")] == 1
    commonest = [
        pd.Series(labels[subject.cells.fold_N == number]).value_counts(normalize=True).iloc[0]
        for number in range(FOLDS)
    ]
    assert scores[(*of, "labels from the other modality, 15-NN", "chance")] == pytest.approx(np.mean(commonest))


def test_a_gap_between_modalities_is_seen_by_their_mixing_alone(model, judged, everything):
    subject = everything.subject
    apart = dataclasses.replace(subject.views["adt"], embedding_NE=subject.views["adt"].embedding_NE + 100)
    found = matching.judge(subject._replace(views={**subject.views, "adt": apart}))
    scores = {score.metric: score.estimate.interval.value for score in found.scores if score.method == "mofm"}
    before = table(everything)["value"]["matching", "rna and adt"]
    assert scores["modality mixing"] == scores["modality mixing within labels"] == 0
    for metric in ("FOSCTTM", "matching score", "labels from the other modality, 15-NN"):
        assert scores[metric] == pytest.approx(before[metric, "mofm"], abs=1e-4), metric


def test_regulation_judges_only_what_training_was_not_told(everything, judged, model):
    edges = model.network.edges
    held_out = int((edges["split"] != "train").sum())
    rows = table(everything).loc["regulation", "rna", "AUROC of edges"]
    assert 10 <= rows["features"].iloc[0] <= held_out
    assert rows.loc["degrees", "value"] == pytest.approx(0.5, abs=0.2)
    assert f"{int((edges['split'] == 'train').sum()):,} more were shown" in " ".join(
        everything.judged["regulation"].notes
    )


def test_what_training_saw_is_told_cell_by_cell(everything, judged, model):
    config = model.config
    stream = Stream(open_corpus(judged.folder / "corpus"), config.data, config.seed)
    held = np.zeros(CELLS, bool)
    held[stream.heldout_cells()] = True
    assert 10 < held.sum() < CELLS - 10
    np.testing.assert_array_equal(everything.seen.is_seen_N, ~held)
    assert f"{(~held).sum()} of the {CELLS} judged cells were in the model's training" in everything.notes[0]
    assert everything.seen.counts(np.ones(CELLS, bool)) == {
        "trained on": (~held).sum(), "held out of training": held.sum(), "not in the training corpus": 0,
    }  # fmt: skip


def test_groups_that_training_held_out_are_told_as_such(judged, model):
    types = judged.omics["rna"].obs["cell_type"].astype(str)
    data = dataclasses.replace(model.config.data, holdout_groups={"cell_type": (types.iloc[0],)})
    grouped = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    plain, found = (seen_cells(one, types.index, {}).is_seen_N for one in (model, grouped))
    np.testing.assert_array_equal(found, plain & (types != types.iloc[0]).to_numpy())


def test_unseen_cells_alone_are_judged_where_that_is_asked(judged, model, everything):
    found = evaluate(model, judged.cells, Settings(tasks=("translation",), split="unseen", **FEW), quiet=True)
    unseen = ~everything.seen.is_seen_N
    assert set(table(found)["cells"]) == {int(unseen.sum())}
    assert found.notes[0].startswith(f"None of the {unseen.sum()} judged cells was in the model's training")


def test_cells_of_one_name_and_other_counts_are_others(judged, model):
    rna = judged.omics["rna"].copy()
    rna.X = rna.X.tocsr()
    rna.X[5] = rna.X[5] * 2
    rna.obs_names = [name if place < 60 else f"other{place}" for place, name in enumerate(rna.obs_names)]
    settings = Settings(tasks=("annotation",), label_key="cell_type", **FEW)
    found = evaluate(model, rna, settings, quiet=True)
    assert set(found.seen.status_N[60:]) == {"not in the training corpus"}
    assert found.seen.status_N[5] == "not in the training corpus"
    assert "trained on" in found.seen.status_N[:60]


def test_where_the_corpus_is_gone_what_is_known_is_said(judged, model, tmp_path):
    shutil.copytree(judged.workdir, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["config"]["data"]["corpus"] = str(tmp_path / "nowhere")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    moved, asked = load(tmp_path / "run"), {"tasks": ("annotation",), "label_key": "cell_type", **FEW}
    found = evaluate(moved, judged.omics["rna"], Settings(**asked), quiet=True)
    assert found.seen.status_N is None
    assert "is unknown" in found.notes[0]
    assert f"cells ({CELLS} cells)" in found.notes[0]
    with pytest.raises(InputError, match="--corpus"):
        evaluate(moved, judged.omics["rna"], Settings(split="unseen", **asked), quiet=True)
    again = evaluate(moved, judged.omics["rna"], Settings(corpus=judged.folder / "corpus", **asked), quiet=True)
    assert "trained on" in again.seen.status_N


def test_groups_are_kept_apart(judged, model):
    settings = Settings(tasks=("annotation",), label_key="cell_type", split="donor", **FEW)
    found = evaluate(model, judged.cells, settings, quiet=True)
    cells = found.subject.cells
    assert [len(set(cells.fold_N[cells.groups == donor])) for donor in ("d1", "d2", "d3")] == [1, 1, 1]
    assert len(cells.folds) == 3


def test_the_same_seed_gives_the_same_record_and_another_gives_another(judged, model, tmp_path):
    asked = {"tasks": ("annotation", "integration"), "label_key": "cell_type", **FEW}
    first, again, other = (
        json.dumps(record_of(evaluate(model, judged.cells, Settings(seed=seed, **asked), quiet=True)))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert json.loads(first)["tasks"] != json.loads(other)["tasks"]


def test_at_most_so_many_cells_are_taken_by_lot(judged, model):
    settings = Settings(tasks=("annotation",), label_key="cell_type", max_cells=50, **FEW)
    found = evaluate(model, judged.cells, settings, quiet=True)
    assert len(found.subject.cells.names) == 50
    assert "50 of 120 cells are judged" in " ".join(found.notes)
    assert all(view.adata.n_obs == 50 for view in found.subject.views.values())


def test_the_report_holds_every_table_and_every_number(everything, tmp_path):
    page = write_evaluation(everything, tmp_path / "out", "mofm evaluate ...")
    html, record = page.read_text(), json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert page.name == "report.html"
    for task in everything.judged:
        assert f">{task}</h3>" in html
        assert record["tasks"][task]["rows"]
    assert not re.search("https?:", html)  # an image in base64 may hold the letters, no colon
    assert html.count("data:image/png;base64,") == len(list((tmp_path / "out").glob("*.png"))) >= 7
    assert "What else is to be known" in html
    assert "made by others" in html
    assert len(record["data"]["blake3"]) == 64
    assert record["settings"]["bootstrap"] == DRAWS
    assert {"mofm", "jax", "numpy"} <= record["versions"].keys()
    assert sum(len(task["rows"]) for task in record["tasks"].values()) == len(rows_of(everything))


def refused(capsys, *words) -> str:
    code = main(["evaluate", *map(str, words)])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1, err
    return err


REFUSALS = {
    "velocity": (["--tasks", "velocity"], "'velocity' is not a task; choose from integration, scib, annotation"),
    "a typo": (["--tasks", "anotation"], "Did you mean 'annotation'?"),
    "no labels": (["--tasks", "annotation"], "--label-key"),
    "no network table": (["--tasks", "regulation"], "--network"),
    "no such label": (["--label-key", "cell_typ"], "Did you mean 'cell_type'?"),
    "no such group": (["--label-key", "cell_type", "--split", "doner"], "Did you mean 'donor'?"),
    "no such obsm": (["--compare", "scVI=X_scVI"], "no obsm['X_scVI']; it has"),
    "no key": (["--compare", "scVI"], "write NAME=KEY"),
    "a name that is taken": (["--compare", "mofm=X_lot"], "taken"),
    "too few draws": (["--bootstrap", "3"], "at least 20"),
    "one fold": (["--folds", "1"], "at least 2"),
    "no corpus": (["--tasks", "translation", "--corpus", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_in_a_line_and_nothing_is_written(judged, capsys, tmp_path, snapshot, case):
    words, said = REFUSALS[case]
    assert said in refused(capsys, judged.workdir, judged.cells, "--quiet", "--out", tmp_path / "out", *words)
    assert snapshot(tmp_path) == {}


@pytest.mark.slow
def test_a_model_that_does_not_translate_says_so(trained, capsys, tmp_path):
    line = refused(capsys, trained.workdir, trained.source, "--tasks", "translation", "--out", tmp_path / "out")
    assert "does not translate" in line


def test_an_out_that_is_there_or_a_file_is_refused(trained, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("{}")
    (tmp_path / "file").write_text("")
    assert "--overwrite" in refused(capsys, trained.workdir, trained.source, "--out", tmp_path / "out")
    assert "is a file" in refused(capsys, trained.workdir, trained.source, "--out", tmp_path / "file")


@pytest.mark.slow
def test_as_a_command(trained, capsys, tmp_path, monkeypatch):
    """All that the data allow is judged, what is not is said, and the whole is there."""
    monkeypatch.setattr(scib, "is_installed", lambda: False)
    words = ["evaluate", trained.workdir, trained.source, "--label-key", "cell_type", "--batch-key", "batch"]
    words += ["--bootstrap", 50, "--folds", 3, "--out", tmp_path / "out", "--quiet"]
    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for said in (
        "integration: of",
        "annotation: of",
        "translation: not judged",
        "regulation: not judged",
        "report.html",
    ):
        assert said in out, out
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert set(record["tasks"]) == {"integration", "annotation"}
    assert set(record["skipped"]) == {"scib", "translation", "matching", "regulation", "perturbation"}
    assert (tmp_path / "out" / "umap_rna.png").exists()
