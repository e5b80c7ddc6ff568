"""A head's confidences are chances: of cells that it never saw as many are right as it says; it keeps as many of the right
ones as asked, hears rare types, and goes with the model as arrays, by the command line, the bundle and Python alike."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import mofm
from mofm.cli import main
from mofm.errors import InputError
from mofm.export.heads import FILES, AnnotationHeads, LabelHead, load_heads, save_heads
from mofm.inference.calibration import reliability
from mofm.inference.head import FEW, fit_head, names_by_head
from mofm.inference.model import load
from mofm.inference.naming import SHARE_KEPT, UNKNOWN
from mofm.omics.simulate import SimulationConfig, simulate

FINETUNE = Path(__file__).parent.parent.parent / "configs" / "finetune.py"
SHARES = np.array([0.5, 0.25, 0.12, 0.06, 0.03, 0.02, 0.02])
NAMES = np.array([f"type {letter}" for letter in "abcdefg"], object)


def clouds(cells: int, seed: int, width: int = 12):
    """(embeddings, labels) of overlapping types, of very different numbers."""
    centres = np.random.default_rng(1).normal(size=(len(SHARES), width)) * 0.8
    rng = np.random.default_rng(seed)
    code = rng.choice(len(SHARES), cells, p=SHARES)
    return (5 + 3 * (centres[code] + rng.normal(size=(cells, width)))).astype(np.float32), NAMES[code]


def recalls(labels, truth):
    return np.array([np.mean(labels[truth == name] == name) for name in NAMES])


@pytest.fixture(scope="module")
def fitted():
    embedding, labels = clouds(3_000, seed=2)
    return fit_head(embedding, labels, np.arange(3_000) % 4 == 0)


def test_confidences_are_chances_in_cells_that_it_never_saw(fitted):
    embedding, truth = clouds(20_000, seed=3)
    found = names_by_head(fitted, embedding)
    right = found.likeliest == truth
    assert 0.7 < right.mean() < 0.95
    assert reliability(found.confidence_N, right) < 0.04
    hot = np.exp(fitted.logits(embedding) / (fitted.temperature / 3))
    assert reliability((hot / hot.sum(axis=1, keepdims=True)).max(axis=1), right) > 0.08
    assert fitted.figures["calibration_error"] < 0.1
    assert fitted.figures["accuracy"] == pytest.approx(right.mean(), abs=0.04)


def test_as_many_right_cells_are_kept_as_asked(fitted):
    embedding, truth = clouds(20_000, seed=4)
    found = names_by_head(fitted, embedding)
    kept, right = found.labels != UNKNOWN, found.likeliest == truth
    assert (found.labels[kept] == found.likeliest[kept]).all()
    assert kept[right].mean() == pytest.approx(SHARE_KEPT, abs=0.03)
    assert kept[~right].mean() < 0.85
    assert right[kept].mean() > right.mean() + 0.01


def test_rare_types_have_a_voice(fitted):
    (train, labels), (embedding, truth) = clouds(3_000, seed=2), clouds(20_000, seed=5)
    plain = LogisticRegression(max_iter=2_000).fit(train, labels.astype(str)).predict(embedding)
    ours, theirs = recalls(names_by_head(fitted, embedding).likeliest, truth), recalls(plain, truth)
    assert ours.mean() > theirs.mean() + 0.03
    assert ours[-1] > theirs[-1] + 0.1


def test_cells_without_a_label_or_of_too_few_are_left_out(fitted):
    embedding, labels = clouds(3_000, seed=2)
    strange = np.random.default_rng(0).normal(size=(40 + FEW - 1, embedding.shape[1])).astype(np.float32) * 50
    more = np.append(labels, np.array([None] * 40 + ["few"] * (FEW - 1), object))
    is_heldout = np.append(np.arange(3_000) % 4 == 0, np.zeros(40 + FEW - 1, bool))
    again = fit_head(np.concatenate([embedding, strange]), more, is_heldout)
    assert again.labels == fitted.labels
    np.testing.assert_array_equal(again.weight_EC, fitted.weight_EC)
    assert (again.temperature, again.threshold) == (fitted.temperature, fitted.threshold)
    assert again.figures == fitted.figures | {"left_out": {"few": FEW - 1}}


def test_two_types_are_told_apart(fitted):
    embedding, labels = clouds(2_000, seed=6)
    two = np.isin(labels, NAMES[:2])
    head = fit_head(embedding[two], labels[two], np.arange(two.sum()) % 4 == 0)
    chance = head.probabilities(embedding[two])
    assert chance.shape[1] == 2
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    assert (names_by_head(head, embedding[two]).likeliest == labels[two]).mean() > 0.85


@pytest.mark.parametrize(
    ("names", "heldout", "said"),
    [
        (["a"] * 100, 30, f"1 of the labels have {FEW} or more training cells"),
        (["a"] * 98 + ["b"] * (FEW - 1), 30, "1 of the labels"),
        (["a", "b"] * 50, 10, "10 labelled cells are held out, and at least 20"),
        ([None] * 100, 30, "0 of the labels"),
    ],
)
def test_too_few_labels_are_refused(names, heldout, said):
    with pytest.raises(InputError, match=said):
        fit_head(np.zeros((100, 3), np.float32), names, np.arange(100) < heldout)


def test_reliability_is_the_gap_between_what_is_said_and_what_is():
    right = np.arange(1_000) % 2 == 0
    assert reliability(np.full(1_000, 0.5), right) == pytest.approx(0)
    assert reliability(np.full(1_000, 0.9), right) == pytest.approx(0.4)
    assert reliability(np.where(right, 0.9, 0.1), right) == pytest.approx(0.1)


def test_heads_come_back_as_they_were_or_are_refused(fitted, tmp_path):
    assert load_heads(tmp_path) is None
    save_heads(tmp_path, AnnotationHeads("cell_type", 7, {"rna": fitted, "atac": fitted}))
    found = load_heads(tmp_path)
    assert (found.label_key, found.step, set(found.of)) == ("cell_type", 7, {"rna", "atac"})
    embedding = clouds(10, seed=9)[0]
    np.testing.assert_array_equal(found.of["atac"].probabilities(embedding), fitted.probabilities(embedding))
    np.testing.assert_array_equal(found.of["rna"].strangeness(embedding), fitted.strangeness(embedding))
    assert found.of["rna"].figures == fitted.figures
    record = json.loads((tmp_path / FILES[0]).read_text())
    (tmp_path / FILES[0]).write_text(json.dumps(record | {"version": 9}))
    with pytest.raises(InputError, match="of version 9"):
        load_heads(tmp_path)
    (tmp_path / FILES[0]).write_text(json.dumps(record | {"step": None}))
    with pytest.raises(InputError, match="damaged"):
        load_heads(tmp_path)


@pytest.fixture(scope="module")
def headed(trained, make_cells, tmp_path_factory):
    """A run begun from the tiny model, its encoder as it was, with a head for cell types; beside it new cells."""
    place = tmp_path_factory.mktemp("headed") / "run"
    make_cells(80, seed=5).write_h5ad(place.parent / "new.h5ad")
    words = ["--config", str(FINETUNE), f"--config.data.corpus={trained.corpus}", "--config.data.holdout_fraction=0.4"]
    words += ["--config.data.batch_size=16", "--config.run.eval_cells=8", "--workdir", str(place), "--quiet"]
    assert main(["finetune", str(trained.workdir), *words, "--tune", "probe", "--task", "annotation:cell_type"]) == 0
    return place


def test_the_command_python_and_the_bundle_label_alike(headed, trained, make_cells, tmp_path):
    make_cells(80, seed=5).write_h5ad(tmp_path / "new.h5ad")
    assert main(["export", str(headed), str(tmp_path / "bundle")]) == 0
    assert "## Annotation" in (tmp_path / "bundle" / "README.md").read_text()
    for name, model in (("run", headed), ("bundle", tmp_path / "bundle")):
        assert main(["annotate", str(model), str(tmp_path / "new.h5ad"), str(tmp_path / f"{name}.h5ad")]) == 0
    told, again = (ad.read_h5ad(tmp_path / f"{name}.h5ad").obs for name in ("run", "bundle"))
    cells = ad.read_h5ad(tmp_path / "new.h5ad")
    mofm.load(tmp_path / "bundle").annotate(cells, progress=False)
    assert (told["mofm_label"][told["mofm_label_distance"] > 1] == UNKNOWN).all()
    for key in ("mofm_label", "mofm_label_likeliest", "mofm_label_confidence", "mofm_label_distance"):
        assert told[key].tolist() == again[key].tolist() == cells.obs[key].tolist()
    assert (told["mofm_label_likeliest"] == told["cell_type"]).mean() > 0.8
    assert set(told["mofm_label"]) <= {"a", "b", UNKNOWN}
    assert cells.uns["mofm_annotation"]["label_key"] == "cell_type"
    assert load(headed).step == 0
    ours, theirs = (load(place).embed(trained.source, quiet=True).embedding_NE for place in (headed, trained.workdir))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture
def three(headed, tmp_path):
    """The model with a head that is never sure of a T cell which it is, and an ontology of its labels."""
    shutil.copytree(headed, tmp_path / "three")
    weight_EC = np.zeros((8, 3), np.float32)
    embedding_NE = load(headed).embed(ad.read_h5ad(headed.parent / "new.h5ad"), quiet=True).embedding_NE
    weight_EC[0, 2] = 12 / np.ptp(embedding_NE[:, 0])
    bias_C = np.array([0.1, 0.0, -weight_EC[0, 2] * np.median(embedding_NE[:, 0])], np.float32)
    head = LabelHead(("CD4 T cell", "CD8 T cells", "B cell"), weight_EC, bias_C, 1.0, 0.55, {})
    save_heads(tmp_path / "three", AnnotationHeads("cell_type", 0, {"rna": head}))
    obo = "[Term]\nid: CL:{0:07}\nname: {1}\nis_a: CL:{2:07}\n"
    terms = [
        (624, "CD4 T cell", 84),
        (625, "CD8 T cell", 84),
        (84, "T cell", 542),
        (236, "B cell", 542),
        (542, "lymphocyte", 0),
    ]
    (tmp_path / "cl.obo").write_text("ontology: cl\n\n" + "\n".join(obo.format(*term) for term in terms))
    return tmp_path / "three", tmp_path / "cl.obo", head.probabilities(embedding_NE)


def test_where_no_label_is_sure_enough_a_broader_term_is_told(three, headed, tmp_path, capsys):
    place, ontology, chance_NC = three
    words = [str(place), str(headed.parent / "new.h5ad"), str(tmp_path / "out.h5ad"), "--ontology", str(ontology)]
    assert main(["annotate", *words]) == 0
    told = ad.read_h5ad(tmp_path / "out.h5ad")
    t_cell_N = chance_NC[:, :2].sum(axis=1)
    is_t_N, is_b_N = t_cell_N >= 0.55, chance_NC[:, 2] >= 0.55
    assert is_t_N.sum() > 5 < is_b_N.sum()
    expected = np.select([is_t_N, is_b_N], ["T cell", "B cell"], UNKNOWN)
    assert told.obs["mofm_label"].tolist() == expected.tolist()
    terms = {"T cell": "CL:0000084", "B cell": "CL:0000236", UNKNOWN: ""}
    assert told.obs["mofm_label_term"].tolist() == [terms[name] for name in expected]
    np.testing.assert_allclose(told.obs["mofm_label_confidence"][is_t_N], t_cell_N[is_t_N], rtol=1e-5)
    assert set(told.obs["mofm_label_likeliest"][is_t_N]) <= {"CD4 T cell", "B cell"}
    printed = capsys.readouterr().out
    assert f"{is_t_N.sum()} cells are named by a broader term" in printed
    assert told.uns["mofm_annotation"]["broader_cells"] == is_t_N.sum()
    assert main(["annotate", *words[:3], "--overwrite", "--confidence", "0.999"]) == 0
    assert set(ad.read_h5ad(tmp_path / "out.h5ad").obs["mofm_label"]) == {UNKNOWN}
    for wrong, said in (
        (["--confidence", "1.2"], "more than 0 and at most 1"),
        (["--ontology", "no.obo"], "no such file"),
    ):
        assert main(["annotate", *words[:3], "--overwrite", *wrong]) == 2
        assert said in capsys.readouterr().err


def test_the_portal_labels_as_the_command_line_does(headed, three, trained, tmp_path, capsys, monkeypatch):
    """The card of its model, and a job with its map, tables and files; UMAP is long to compile, and two columns do."""
    job, model_card = (
        pytest.importorskip(f"mofm.portal.{name}", exc_type=ImportError) for name in ("job", "model_card")
    )
    monkeypatch.setattr("mofm.evaluation.figures.umap_coordinates", lambda X_ND: np.asarray(X_ND[:, :2], np.float32))
    for place, labels in ((headed, "cell_type"), (trained.workdir, "")):
        (tmp_path / "card").mkdir(exist_ok=True)
        assert model_card.main(str(place), str(tmp_path / "card")) == 0
        card = model_card.read_card(tmp_path / "card")
        assert (card.labels, card.labelled, card.ontology) == (labels, ("rna",) if labels else (), "")
    place, ontology, _ = three
    assert model_card.main(str(place), str(tmp_path / "card"), str(ontology)) == 0
    assert model_card.read_card(tmp_path / "card").ontology == "cl.obo"
    for wrong, said in ((headed, "none of 2 labels is one of its terms"), (trained.workdir, "has no annotation head")):
        assert model_card.main(str(wrong), str(tmp_path / "card"), str(ontology)) == 2
        assert said in capsys.readouterr().err
    (folder := tmp_path / "job").mkdir()
    what = {"verb": "annotate", "options": {"modality": "rna", "confidence": 0.6}, "name": "new.h5ad"}
    new = headed.parent / "new.h5ad"
    job.perform(load(place), new, folder, what | {"ontology": str(ontology)})
    words = [str(place), str(new), str(tmp_path / "out.h5ad"), "--ontology", str(ontology), "--confidence", "0.6"]
    assert main(["annotate", *words]) == 0
    ours, theirs = ad.read_h5ad(folder / "cells.h5ad").obs, ad.read_h5ad(tmp_path / "out.h5ad").obs
    pd.testing.assert_frame_equal(ours, theirs)
    page = json.loads((folder / "result.json").read_text())
    (table,) = page["tables"]
    assert table["columns"] == ["label", "term", "cells", "confidence"]
    assert {row[0]: int(row[2]) for row in table["rows"]} == theirs["mofm_label"].value_counts().to_dict()
    assert page["map"]["keys"][0] == "mofm_label"
    assert any("are named by a broader term" in line for line in page["lines"])
    assert {file["name"] for file in page["files"]} == {one.name for one in folder.iterdir()} - {
        "result.json",
        "points.json",
    }
    told = pd.read_csv(folder / "labels.csv", index_col="cell", dtype={"cell": str})
    np.testing.assert_array_equal(told["mofm_label"].astype(str), theirs["mofm_label"].astype(str))
    np.testing.assert_allclose(told["mofm_label_confidence"], theirs["mofm_label_confidence"], rtol=1e-5)


def test_a_head_of_another_step_or_none_is_told(headed, trained, make_cells, tmp_path, capsys):
    make_cells(20).write_h5ad(tmp_path / "new.h5ad")
    words = [str(tmp_path / "new.h5ad"), str(tmp_path / "out.h5ad")]
    assert main(["annotate", str(trained.workdir), *words]) == 2
    assert "has no annotation head: give --reference and --label" in capsys.readouterr().err
    shutil.copytree(headed, tmp_path / "moved")
    record = json.loads((tmp_path / "moved" / FILES[0]).read_text())
    (tmp_path / "moved" / FILES[0]).write_text(json.dumps(record | {"step": 3}))
    assert main(["annotate", str(tmp_path / "moved"), *words]) == 2
    assert "is of step 3, this is step 0; give --step 3" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "moved"), str(tmp_path / "bundle")]) == 0
    assert not (tmp_path / "bundle" / FILES[0]).exists()
    capsys.readouterr()
    assert main(["annotate", str(headed), *words, "--label", "cell_type"]) == 2
    assert "--reference and --label belong together" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("annotation:cell_tipe", (), "Did you mean 'cell_type'"),
        ("annotation:cell_type", ("--config.data.holdout_fraction=0.05",), "labelled cells are held out"),
    ],
)
def test_labels_that_cannot_be_learned_are_told_before_anything_is_trained(trained, tmp_path, capsys, task, more, said):
    words = [
        "--config",
        str(FINETUNE),
        f"--config.data.corpus={trained.corpus}",
        "--workdir",
        str(tmp_path / "run"),
        *more,
    ]
    assert main(["finetune", str(trained.workdir), *words, "--task", task]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tasks_of_no_meaning_are_refused(capsys):
    for task in ("annotation", "annotation:", "regression:age"):
        with pytest.raises(SystemExit) as stopped:
            main(["finetune", "model", "--config", "c", "--workdir", "w", "--task", task])
        assert stopped.value.code == 2
        assert "annotation:COLUMN, integration:COLUMN or perturbation:COLUMN is expected" in capsys.readouterr().err


@pytest.mark.slow
def test_chances_hold_in_simulated_cells_that_were_held_out(regulated_model):
    """Shallow cells, hard to separate: a third learned from, a third calibrated on, a third judged."""
    cells = simulate(SimulationConfig(cells=1_500, genes=150, tfs=20, cell_types=4, library_size=150.0, seed=1))
    embedding = regulated_model.embed(cells, quiet=True).embedding_NE
    names, part = cells.obs["cell_type"].astype(object).to_numpy(), np.arange(1_500) % 3
    head = fit_head(embedding[part < 2], names[part < 2], (part == 1)[part < 2])
    found = names_by_head(head, embedding[part == 2])
    right = found.likeliest == names[part == 2]
    assert reliability(found.confidence_N, right, bins=5) < 0.08
    assert (found.labels != UNKNOWN)[right].mean() > 0.9
    assert right.mean() > 0.5


def left_out(kept):
    """(head of `kept` types, embeddings of cells of these and of the others)."""
    embedding, labels = clouds(3_000, seed=2)
    known, (new, truth) = np.isin(labels, kept), clouds(4_000, seed=11)
    head = fit_head(embedding[known], labels[known], None)
    return head, new[np.isin(truth, kept)], new[~np.isin(truth, kept)]


@pytest.mark.parametrize("left", NAMES[:4])
def test_cells_of_a_type_that_nobody_labelled_are_farther_than_others(left):
    head, known, new = left_out([name for name in NAMES if name != left])
    far, near = head.strangeness(new), head.strangeness(known)
    assert roc_auc_score(np.repeat([1, 0], [len(far), len(near)]), np.append(far, near)) > 0.65
    told = names_by_head(head, new).labels
    assert (told == UNKNOWN)[far > 1].all()
    assert (told == UNKNOWN).mean() > (names_by_head(head, known).labels == UNKNOWN).mean() + 0.05


def test_a_cell_far_from_all_types_is_unknown_however_sure_the_regression_is():
    head, known, _ = left_out(NAMES[:3])
    beyond = 60 * head.weight_EC[:, 0] / np.linalg.norm(head.weight_EC[:, 0]) + known.mean(axis=0)
    found = names_by_head(head, beyond[None].astype(np.float32), least=0.5)
    assert head.probabilities(beyond[None]).max() > 0.99
    assert found.labels.tolist() == [UNKNOWN]
    assert found.likeliest.tolist() == [NAMES[0]]
    for bare in (replace(head, places=None), replace(head, far=np.inf)):
        assert names_by_head(bare, beyond[None], least=0.5).labels.tolist() == [NAMES[0]]


@pytest.mark.parametrize("cells", [150, 3_000])
def test_a_head_that_is_judged_by_all_cells_learns_from_all_and_keeps_what_it_says(cells):
    embedding, labels = clouds(cells, seed=12)
    new, truth = clouds(8_000, seed=13)
    crossed, held = (fit_head(embedding, labels, which) for which in (None, np.arange(cells) % 4 == 0))
    assert crossed.figures["training_cells"] == crossed.figures["heldout_cells"] >= cells - 4
    assert held.figures["training_cells"] >= cells - 8 > 3 * held.figures["heldout_cells"]
    found = names_by_head(crossed, new)
    right = found.likeliest == truth
    assert (found.labels != UNKNOWN)[right].mean() == pytest.approx(SHARE_KEPT, abs=0.04)
    assert reliability(found.confidence_N, right) < 0.06
    assert crossed.figures["accuracy"] == pytest.approx(right.mean(), abs=0.06)


def test_heads_of_the_form_before_still_load(fitted, tmp_path):
    """Version 1 had no places, and no figure of how it was judged."""
    save_heads(tmp_path, AnnotationHeads("cell_type", 7, {"rna": replace(fitted, places=None)}))
    record = json.loads((tmp_path / FILES[0]).read_text())
    (tmp_path / FILES[0]).write_text(json.dumps(record | {"version": 1}))
    found = load_heads(tmp_path).of["rna"]
    embedding = clouds(10, seed=9)[0]
    assert found.strangeness(embedding) is None
    assert set(names_by_head(found, embedding).labels) <= {*fitted.labels, UNKNOWN}
    save_heads(tmp_path, AnnotationHeads("cell_type", 7, {"rna": replace(fitted, bias_C=fitted.bias_C[1:])}))
    with pytest.raises(InputError, match="damaged"):
        load_heads(tmp_path)


def test_names_of_figures_are_those_that_the_card_reads(fitted):
    assert {"heldout_cells", "accuracy", "mean_recall", "calibration_error", "kept"} <= fitted.figures.keys()
