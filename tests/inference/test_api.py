"""What `mofm.load` gives reads AnnData and MuData as the command line reads their files: the same numbers to the bit, from a
run and from its bundle, in memory, backed or a view; written where scverse expects them."""

import subprocess
import sys

import anndata as ad
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest

import mofm
from mofm.cli import main
from mofm.errors import InputError
from mofm.inference.annotate import annotate
from mofm.inference.model import cells_at_once


@pytest.fixture(scope="module")
def bundled(regulated, tmp_path_factory):
    """The regulated model as a bundle, loaded as a user does."""
    out = tmp_path_factory.mktemp("bundled") / "bundle"
    assert main(["export", str(regulated.workdir), str(out), "--licence", "cc-by-4.0"]) == 0
    return mofm.load(out)


@pytest.fixture
def cells(regulated):
    return ad.read_h5ad(regulated.source)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """To the bit; text that was in a file may have another dtype."""
    one, other = one.reset_index(drop=True), other.reset_index(drop=True)
    pd.testing.assert_frame_equal(one, other, check_exact=True, check_dtype=False)


def test_the_package_is_imported_without_jax():
    code = "import sys, mofm; assert callable(mofm.load); assert not {'jax', 'anndata'} & set(sys.modules), sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_embed_is_the_command_s_to_the_bit(regulated, bundled, cells, tmp_path):
    assert main(["embed", str(regulated.workdir), str(regulated.source), str(tmp_path / "out.h5ad")]) == 0
    wanted = ad.read_h5ad(tmp_path / "out.h5ad")
    assert bundled.embed(cells) is None
    np.testing.assert_array_equal(cells.obsm["X_mofm"], wanted.obsm["X_mofm"])
    assert set(cells.uns["mofm"]) == set(wanted.uns["mofm"])
    for key, value in wanted.uns["mofm"].items():
        np.testing.assert_array_equal(cells.uns["mofm"][key], value, err_msg=key)
    cells.write_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "again.h5ad").obsm["X_mofm"], wanted.obsm["X_mofm"])


def test_memory_file_view_layer_and_dense_are_read_alike(regulated, bundled, cells):
    wanted_NE = bundled.embed(cells, copy=True).obsm["X_mofm"]
    assert "X_mofm" not in cells.obsm
    backed = ad.read_h5ad(regulated.source, backed="r")
    assert bundled.embed(backed, key_added="X_other") is None
    np.testing.assert_array_equal(backed.obsm["X_other"], wanted_NE)
    in_memory = bundled.embed(backed, copy=True)
    assert not in_memory.isbacked
    np.testing.assert_array_equal(in_memory.obsm["X_mofm"], wanted_NE)
    first = bundled.embed(cells[:64], copy=True)  # one batch
    np.testing.assert_array_equal(first.obsm["X_mofm"], wanted_NE[:64])
    np.testing.assert_array_equal(bundled.embed(backed[:64], copy=True).obsm["X_mofm"], wanted_NE[:64])
    layered = ad.AnnData(np.log1p(cells.X.toarray()), cells.obs, cells.var, layers={"mine": cells.X.toarray()})
    bundled.embed(layered, layer="mine")
    np.testing.assert_array_equal(layered.obsm["X_mofm"], wanted_NE)
    assert layered.uns["mofm"]["counts_from"] == "layers/mine"
    with pytest.raises(InputError, match=r"no raw counts found.*counts_from="):
        bundled.embed(layered)


def test_mudata_is_written_to_as_a_whole(bundled, cells):
    protein = ad.AnnData(np.ones((300, 2), np.float32), pd.DataFrame(index=cells.obs_names[100:]), None)
    protein.var_names = ["CD3", "CD4"]
    rna = cells[:200].copy()
    both = mudata.MuData({"rna": rna, "adt": protein})
    bundled.embed(both, modality="rna")
    embedded = pd.DataFrame(both.obsm["X_mofm"], both.obs_names)
    bundled.embed(rna)
    np.testing.assert_array_equal(embedded.loc[rna.obs_names], rna.obsm["X_mofm"])
    assert embedded.drop(rna.obs_names).isna().all(axis=None)


def test_regulators_are_the_command_s(regulated, bundled, cells, tmp_path):
    words = ["--groupby", "group", "--top", "50"]
    assert main(["regulators", str(regulated.workdir), str(regulated.source), str(tmp_path), *words]) == 0
    bundled.regulators(cells, "group", top=50)
    wanted, found = ad.read_h5ad(tmp_path / "cells.h5ad"), cells.uns["mofm_regulators"]
    np.testing.assert_array_equal(cells.obsm["mofm_tf_activity"], wanted.obsm["mofm_tf_activity"])
    assert list(found["tfs"]) == list(wanted.uns["mofm_regulators"]["tfs"])
    same(found["edges"], pd.read_parquet(tmp_path / "edges.parquet"))
    assert "groups of fewer than 10 cells are left out: few (3)" in list(found["notes"])
    cells.write_h5ad(tmp_path / "again.h5ad")
    again = ad.read_h5ad(tmp_path / "again.h5ad").uns["mofm_regulators"]
    assert list(again["edges"]["tf"]) == list(found["edges"]["tf"])
    assert list(again["top"]["group"]) == list(found["top"]["group"])


def test_what_the_command_and_python_write_is_drawn_alike(regulated, bundled, cells, tmp_path):
    words = ["--groupby", "group", "--top", "50"]
    assert main(["regulators", str(regulated.workdir), str(regulated.source), str(tmp_path), *words]) == 0
    bundled.regulators(cells, "group", top=50)
    axes = [mofm.pl.regulators(ad.read_h5ad(tmp_path / "cells.h5ad")), mofm.pl.regulators(cells)]
    one, other = (drawn.collections[0] for drawn in axes)
    for of in ("get_offsets", "get_array", "get_sizes"):
        np.testing.assert_array_equal(getattr(one, of)(), getattr(other, of)())
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(cells.uns["mofm_regulators"]["groups"])
    best = cells.uns["mofm_regulators"]["top"].query("rank == 1")["activity"]
    assert one.get_array().max() == pytest.approx(best.max())
    assert one.get_sizes().max() == 98  # edges were counted
    bundled.embed(cells)
    bundled.annotate(cells, cells[:200].copy(), "group")
    bundled.perturb(cells, knock_out=cells.uns["mofm_regulators"]["top"]["tf"].iloc[0])
    cells.obsm["X_mofm"] = cells.obsm["X_mofm"][:, :2]  # UMAP is long to compile
    assert mofm.pl.embedding(cells, "mofm_label_confidence").get_title(loc="left") == "mofm_label_confidence"
    assert mofm.pl.confidence(cells).get_xlabel() == "confidence: chance"
    cells.uns["mofm_annotation"]["calibrated"] = False
    assert "15 nearest" in mofm.pl.confidence(cells).get_xlabel()
    table = pd.crosstab(cells.obs["group"], cells.obs["mofm_label"], normalize="index")
    np.testing.assert_allclose(
        np.sort(mofm.pl.confusion(cells, "group").images[0].get_array(), None), np.sort(table, None)
    )
    assert "knocked out" in mofm.pl.perturbation(cells).get_title(loc="left")
    assert mofm.pl.history(regulated.workdir).get_xlabel() == "step"
    plt.close("all")


def test_perturb_is_the_command_s(regulated, bundled, cells, tmp_path):
    tf, other = bundled.pretrained.network.edges["tf"].unique()[:2]
    tf, other = bundled.pretrained.genes["symbol"].iloc[[tf, other]]
    words = ["--knock-out", tf, "--overexpress", f"{other}=4"]
    assert main(["perturb", str(regulated.workdir), str(regulated.source), str(tmp_path), *words]) == 0
    wanted = ad.read_h5ad(tmp_path / "cells.h5ad")
    moved = bundled.perturb(cells, knock_out=tf, overexpress={other: 4}, copy=True)
    for key in ("X_mofm", "X_mofm_perturbed"):
        np.testing.assert_array_equal(moved.obsm[key], wanted.obsm[key])
    np.testing.assert_array_equal(moved.obs["mofm_shift"], wanted.obs["mofm_shift"])
    same(moved.uns["mofm_perturbation"]["genes"], pd.read_parquet(tmp_path / "genes.parquet"))
    assert moved.uns["mofm_perturbation"]["groups"]["cells"].tolist() == [400]
    moved.write_h5ad(tmp_path / "again.h5ad")


def test_what_it_is_is_told(bundled):
    said = repr(bundled)
    assert "'run', step 40: rna of human" in said
    assert "networks truth" in said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model, cells: model.embed("cells.h5ad"), "read_h5ad"),
        (lambda model, cells: model.embed(cells.to_df()), "a DataFrame is none of AnnData"),
        (lambda model, cells: model.embed(cells, layers="counts"), "Did you mean 'layer'|no option 'layers'"),
        (lambda model, cells: model.embed(cells, batchsize=3), "Did you mean 'batch_size'"),
        (lambda model, cells: model.embed(cells, layer="counts", counts_from="X"), "give one"),
        (lambda model, cells: model.embed(cells, layer="nowhere"), "no matrix 'layers/nowhere'"),
        (lambda model, cells: model.embed(cells, batch_size=0), "batch size 0"),
        (lambda model, cells: model.regulators(cells, "grup"), "Did you mean 'group'"),
        (lambda model, cells: model.perturb(cells), "name at least one TF"),
        (lambda model, cells: model.translate(cells, "atac"), "never saw atac"),
        (lambda model, cells: model.translate(cells, "rna"), "does not translate"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(bundled, cells, call, said):
    with pytest.raises(InputError, match=said) as error:
        call(bundled, cells)
    assert "\n" not in str(error.value)
    assert "X_mofm" not in cells.obsm
    assert "mofm" not in cells.uns


def test_a_view_of_a_backed_file_is_not_written_to(regulated, bundled):
    backed = ad.read_h5ad(regulated.source, backed="r")
    with pytest.raises(InputError, match="copy=True"):
        bundled.embed(backed[:10])


@pytest.mark.parametrize(
    ("width", "tokens", "memory", "cells"),
    [
        (512, 2048, None, 64),  # a CPU
        (512, 2048, 80 * 2**30, 128),
        (128, 2048, 80 * 2**30, 512),
        (128, 512, 80 * 2**30, 1024),
        (4096, 8192, 2**30, 16),
    ],
)
def test_a_batch_is_as_large_as_the_device_bears(width, tokens, memory, cells):
    assert cells_at_once(width, tokens, memory) == cells
    if memory is not None and 16 < cells < 1024:
        assert cells <= memory / 8 / (tokens * width * 64) < 2 * cells


def test_annotate_is_a_vote_of_the_nearest(bundled, cells):
    reference, asked = cells[:250].copy(), cells[250:].copy()
    bundled.annotate(asked, reference, "group", voters=7)
    bundled.embed(cells)
    known_ME = cells.obsm["X_mofm"][7:250]  # the first seven have no label, and no voice
    known_ME, asked_NE = (some - known_ME.mean(axis=0) for some in (known_ME, cells.obsm["X_mofm"][250:]))
    known_ME, asked_NE = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (known_ME, asked_NE))
    nearest_NK = np.argsort(-asked_NE @ known_ME.T, axis=1)[:, :7]
    labels = cells.obs["group"].to_numpy(object)[7:250][nearest_NK]
    for place, row in enumerate(labels):
        share = asked.obs["mofm_label_voices"].iloc[place]
        assert np.mean(row == asked.obs["mofm_label_likeliest"].iloc[place]) == pytest.approx(share)
        assert share == pytest.approx(max(np.mean(row == name) for name in set(row)))
    assert (asked.obs["mofm_label_nearest"] == cells.obs_names[7:250][nearest_NK[:, 0]]).mean() > 0.95
    right = asked.obs["mofm_label_likeliest"].astype(str) == asked.obs["cell_type"].astype(str)
    assert right.mean() > 0.8  # the largest type has 40%
    told, known = asked.uns["mofm_annotation"], asked.obs["mofm_label"] != "unknown"
    assert (told["reference_cells"], told["calibrated"]) == (243, True)
    assert told["unknown_cells"] == (~known).sum() < 0.3 * len(asked)
    assert (asked.obs["mofm_label"][known].astype(str) == asked.obs["mofm_label_likeliest"][known].astype(str)).all()
    assert asked.obs["mofm_label_confidence"].mean() == pytest.approx(right.mean(), abs=0.1)
    assert (asked.obs["mofm_label_confidence"][known] >= told["threshold"] - 1e-6).all()
    with pytest.raises(InputError, match="Did you mean 'group'"):
        bundled.annotate(asked, reference, "gruop")
    with pytest.raises(InputError, match="a reference needs label_key"):
        bundled.annotate(asked, reference)
    with pytest.raises(InputError, match="labels none of the 7 reference cells"):
        bundled.annotate(asked, cells[:7], "group")


def test_a_reference_that_is_too_small_to_be_judged_gives_shares(bundled, cells):
    """By all voices, whatever they are worth; by a majority of them where broader terms may be told."""
    bundled.annotate(cells, cells[7:50].copy(), "cell_type")
    assert cells.uns["mofm_annotation"]["calibrated"] is False
    np.testing.assert_array_equal(cells.obs["mofm_label_confidence"], cells.obs["mofm_label_voices"])
    assert (cells.obs["mofm_label"] == cells.obs["mofm_label_likeliest"]).all()
    bundled.annotate(cells, cells[7:50].copy(), "cell_type", confidence=0.5)
    unsure = cells.obs["mofm_label_voices"] < 0.5
    assert 0 < unsure.sum() < len(cells)
    np.testing.assert_array_equal(cells.obs["mofm_label"] == "unknown", unsure)


def test_annotate_is_the_command_s_to_the_bit(regulated, bundled, cells, tmp_path, capsys):
    reference, asked = cells[:250].copy(), cells[250:].copy()
    for name, part in (("reference", reference), ("asked", asked)):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    asked_file, reference_file, out = (str(tmp_path / f"{name}.h5ad") for name in ("asked", "reference", "out"))
    files = [asked_file, "--reference", reference_file, out]  # options anywhere
    types = sorted(cells.obs["cell_type"].unique())
    terms = [f"[Term]\nid: X:{place}\nname: {name}\nis_a: X:{8 + place // 3}\n" for place, name in enumerate(types)]
    terms += ["[Term]\nid: X:8\nname: some\nis_a: X:10\n", "[Term]\nid: X:9\nname: others\nis_a: X:10\n"]
    (tmp_path / "x.obo").write_text("ontology: x\n\n" + "\n".join([*terms, "[Term]\nid: X:10\nname: all\n"]))
    how = ["--label", "group", "--voters", "7", "--ontology", str(tmp_path / "x.obo"), "--confidence", "0.9"]
    assert main(["annotate", str(regulated.workdir), *files, *how]) == 0
    printed = capsys.readouterr().out
    bundled.annotate(asked, reference, "group", voters=7, ontology=tmp_path / "x.obo", confidence=0.9)
    wanted = ad.read_h5ad(tmp_path / "out.h5ad")
    names = [f"mofm_label{end}" for end in ("", "_confidence", "_likeliest", "_term", "_voices", "_nearest")]
    said = asked.uns["mofm_annotation"]
    is_broad = asked.obs["mofm_label"] == "some"
    assert said["broader_cells"] == is_broad.sum() > 0
    assert set(asked.obs["mofm_label_term"][is_broad]) == {"X:8"}
    assert f"{said['broader_cells']:,} cells are named by a broader term" in printed
    assert "x.obo: 4 of 5 labels are terms; 1 are none ('few')" in printed
    for name in names:
        assert wanted.obs[name].tolist() == asked.obs[name].tolist()
    np.testing.assert_array_equal(wanted.X.toarray(), asked.X.toarray())
    assert main(["annotate", str(regulated.workdir), *files, "--label", "gruop", "--overwrite"]) == 2


def test_of_as_many_voices_the_nearest_counts():
    reference_ME = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]], np.float32)
    labels = pd.Series(["east", "east", "north", "north", None], name="way")
    asked_NE = reference_ME[:4].mean(axis=0) + np.array([[1, -0.9], [-0.9, 1]], np.float32)
    found = annotate(asked_NE, reference_ME, labels, voters=9)
    assert found.labels.tolist() == ["east", "north"]
    assert found.confidence_N.tolist() == [0.5, 0.5]
    assert set(found.neighbours_NK.ravel()) == {0, 1, 2, 3}
    with pytest.raises(InputError, match="voters 0"):
        annotate(asked_NE, reference_ME, labels, voters=0)
