"""Plots draw the numbers that are in the data, return the Axes they drew on, leave the data alone, and tell what is missing.

What `model` and the command line write is drawn in tests/inference/test_api.py and tests/test_omics_end_to_end.py."""

import subprocess
import sys

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba

import mofm
from mofm.errors import InputError
from mofm.evaluation import figures
from mofm.omics.genome import gene_table

CELLS = 60


@pytest.fixture(autouse=True)
def closed():
    """No figure is left to pyplot."""
    yield
    plt.close("all")


@pytest.fixture
def cells():
    """An AnnData with a two-column embedding, labels, and counts of three genes."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"kind": pd.Categorical(rng.choice(["B", "T", "NK"], CELLS)), "score": rng.normal(size=CELLS)},
        index=[f"cell{i}" for i in range(CELLS)],
    )
    obs.loc[obs.index[0], "kind"] = None
    counts = sp.csr_matrix(rng.poisson(2.0, (CELLS, 3)).astype(np.float32))
    adata = ad.AnnData(counts, obs, pd.DataFrame(index=["CD3E", "CD19", "NKG7"]))
    adata.obsm["X_mofm"] = rng.normal(size=(CELLS, 2)).astype(np.float32)
    return adata


def points(axes):
    """Places and colours of all points, sorted by place."""
    drawn = [part for part in axes.collections if len(part.get_offsets())]
    place = np.concatenate([part.get_offsets() for part in drawn])
    colour = np.concatenate([np.broadcast_to(part.get_facecolors(), (len(part.get_offsets()), 4)) for part in drawn])
    order = np.lexsort(place.T)
    return np.asarray(place)[order], colour[order]


def names_of(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_importing_mofm_loads_no_plots_and_plots_load_no_jax():
    code = (
        "import sys, mofm; assert not {'matplotlib', 'scanpy'} & set(sys.modules); assert 'pl' in dir(mofm)\n"
        "assert callable(mofm.pl.embedding); assert 'matplotlib' in sys.modules; assert 'jax' not in sys.modules\n"
        "try: mofm.nothing\nexcept AttributeError as error: assert 'nothing' in str(error)\nelse: raise SystemExit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_plot_is_documented_and_has_an_ax():
    for name in mofm.pl.__all__:
        assert f"mofm.pl.{name}(" in mofm.pl.__doc__
        assert "ax" in getattr(mofm.pl, name).__annotations__


# The map


def test_embedding_draws_each_cell_where_it_is_in_the_colour_of_its_kind(cells):
    axes = mofm.pl.embedding(cells, "kind")
    assert isinstance(axes, Axes)
    place, colour = points(axes)
    order = np.lexsort(cells.obsm["X_mofm"].T)
    np.testing.assert_allclose(place, cells.obsm["X_mofm"][order], rtol=1e-6)
    wanted = dict(zip(["B", "NK", "T"], figures.PALETTE, strict=False)) | {"nan": figures.FAINT}
    assert [to_hex(one) for one in colour] == [wanted[str(kind)].lower() for kind in cells.obs["kind"].iloc[order]]
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == [f"{k}  {(cells.obs['kind'] == k).sum()}" for k in ("B", "NK", "T")] + ["unlabelled  1"]
    assert (axes.get_title(loc="left"), axes.get_xlabel()) == ("kind", "mofm, 1")


def test_embedding_keeps_the_colours_of_scanpy(cells):
    cells.uns["kind_colors"] = ["#111111", "#222222", "#333333"]  # of the categories in their order: B, NK, T
    place, colour = points(mofm.pl.embedding(cells, "kind"))
    is_b = cells.obs["kind"].iloc[np.lexsort(cells.obsm["X_mofm"].T)] == "B"
    assert {to_hex(one) for one in colour[is_b.to_numpy()]} == {"#111111"}
    assert len(place) == CELLS


def test_embedding_draws_genes_and_numbers_and_several(cells):
    figure, axes = plt.subplots()
    assert mofm.pl.embedding(cells, "CD19", ax=axes) is axes
    assert len(figure.axes[0].child_axes) == 1  # the colour bar
    drawn = [one for one in axes.collections if one.get_array() is not None and len(one.get_array())]
    np.testing.assert_allclose(np.sort(drawn[-1].get_array()), np.sort(cells.X[:, 1].toarray().ravel()))
    cells.layers["twice"] = cells.X * 2
    (axes,) = mofm.pl.embedding(cells, ["CD19"], layer="twice")
    drawn = [one for one in axes.collections if one.get_array() is not None and len(one.get_array())]
    assert drawn[-1].get_array().max() == 2 * cells.X[:, 1].max()
    several = mofm.pl.embedding(cells, ["kind", "score"])
    assert [one.get_title(loc="left") for one in several] == ["kind", "score"]
    assert several[0].figure is several[1].figure
    assert mofm.pl.embedding(cells).get_legend() is None


def test_embedding_makes_a_umap_once_and_again_where_the_embedding_changed(cells, monkeypatch):
    made = []

    def first_two(X_ND, seed):
        made.append(len(X_ND))
        return X_ND[:, :2] + seed

    monkeypatch.setattr("mofm.pl.maps.umap_coordinates", first_two)
    X = np.random.default_rng(1).normal(size=(CELLS, 5)).astype(np.float32)
    X[3] = np.nan  # a cell that was not measured
    cells.obsm["X_mofm"] = X
    place, _ = points(mofm.pl.embedding(cells, "score"))
    assert len(place) == CELLS - 1
    mofm.pl.embedding(cells, "kind")
    assert made == [CELLS - 1]
    np.testing.assert_array_equal(cells.obsm["X_mofm_umap"][:3], X[:3, :2])
    mofm.pl.embedding(cells, "kind", seed=1)
    cells.obsm["X_mofm"] = X * 2
    mofm.pl.embedding(cells, "kind")
    assert len(made) == 3
    mofm.pl.embedding(cells[:20], "kind", seed=5)  # a view: nothing is kept
    assert (len(made), cells.n_obs) == (4, CELLS)
    np.testing.assert_array_equal(cells.obsm["X_mofm_umap"][:3], 2 * X[:3, :2])


def test_nothing_but_the_map_is_written(cells):
    before = cells.copy()
    mofm.pl.embedding(cells, ["kind", "score", "CD3E"])
    assert set(cells.uns) == set(before.uns)
    assert set(cells.obsm) == set(before.obsm)
    pd.testing.assert_frame_equal(cells.obs, before.obs)


# Labels


@pytest.fixture
def labelled(cells):
    rng = np.random.default_rng(2)
    cells.obs["mofm_label"] = pd.Categorical(np.repeat(["B", "T", "unknown"], [15, 25, 20]))
    cells.obs["mofm_label_confidence"] = rng.random(CELLS).astype(np.float32)
    cells.obs["truth"] = np.repeat(["B", "T", "NK", None], [20, 20, 15, 5])
    cells.uns["mofm_annotation"] = {"threshold": 0.4}
    return cells


def test_confidence_is_that_of_each_label(labelled):
    axes = mofm.pl.confidence(labelled)
    assert names_of(axes) == ["T  25", "B  15", "unknown  20"]
    median = labelled.obs.groupby("mofm_label", observed=True)["mofm_label_confidence"].median()
    drawn = {line.get_ydata().mean(): line.get_xdata()[0] for line in axes.lines if line.get_color() == figures.INK}
    assert [drawn[row] for row in (0, 1, 2)] == pytest.approx([median[name] for name in ("T", "B", "unknown")])
    assert [line.get_xdata()[0] for line in axes.lines if to_hex(line.get_color()) == figures.SECOND.lower()] == [0.4]
    assert axes.get_xlabel() == "confidence: chance"
    labelled.uns["mofm_annotation"] = {"voters": 7}
    assert "7 nearest reference cells" in mofm.pl.confidence(labelled).get_xlabel()


def test_confusion_is_shares_of_the_true_label(labelled):
    axes = mofm.pl.confusion(labelled, "truth")
    share = axes.images[0].get_array()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["B", "T", "unknown"]
    assert names_of(axes) == ["B  20", "NK  15", "T  20"]
    np.testing.assert_allclose(share, [[0.75, 0.25, 0], [0, 0, 1], [0, 1, 0]])
    assert axes.get_title(loc="left") == "63.6% of 55 cells are right, 5 without"
    assert {text.get_text() for text in axes.texts} == {".75", ".25", "1.00"}


# Regulation


@pytest.fixture
def regulated_cells(cells):
    rng = np.random.default_rng(3)
    activity = rng.normal(size=(CELLS, 6)).astype(np.float32)
    activity[1] = np.nan
    tfs = [f"TF{i}" for i in range(6)]
    cells.obsm["mofm_tf_activity"] = activity
    rows = [
        {
            "group": group,
            "rank": rank + 1,
            "tf": tfs[(rank + shift) % 6],
            "activity": 2.0 - rank + shift,
            "targets": rank * 10,
        }
        for shift, group in enumerate(["B", "T"])
        for rank in range(6)
    ]
    cells.uns["mofm_regulators"] = {"tfs": np.array(tfs), "groupby": "kind", "top": pd.DataFrame(rows)}
    return cells


def test_regulators_are_dots_of_activity_and_targets(regulated_cells):
    axes = mofm.pl.regulators(regulated_cells, n_tfs=2)
    assert names_of(axes) == ["B", "T"]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == ["TF0", "TF1", "TF2"]  # the first two of each
    (dots,) = axes.collections
    top = regulated_cells.uns["mofm_regulators"]["top"].set_index(["group", "tf"])
    for (column, row), activity, area in zip(dots.get_offsets(), dots.get_array(), dots.get_sizes(), strict=True):
        wanted = top.loc[(["B", "T"][int(row)], columns[int(column)])]
        assert activity == wanted["activity"]
        assert area == pytest.approx(8 + 90 * wanted["targets"] / 50)  # T ranks TF0 last, with 50
    assert len(dots.get_offsets()) == 6


def test_regulators_by_another_column_are_mean_activities(regulated_cells):
    regulated_cells.obs["half"] = np.repeat(["two", "one"], CELLS // 2)
    axes = mofm.pl.regulators(regulated_cells, groupby="half", n_tfs=6)
    assert names_of(axes) == ["one", "two"]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    (dots,) = axes.collections
    activity = pd.DataFrame(regulated_cells.obsm["mofm_tf_activity"], columns=[f"TF{i}" for i in range(6)])
    wanted = activity.groupby(regulated_cells.obs["half"].to_numpy()).mean()
    for (column, row), value in zip(dots.get_offsets(), dots.get_array(), strict=True):
        assert value == pytest.approx(wanted.loc[["one", "two"][int(row)], columns[int(column)]], rel=1e-5)
    assert list(wanted.loc["one"].sort_values(ascending=False).index) == columns
    assert axes.get_xlabel() == ""  # no edges were counted
    del regulated_cells.uns["mofm_regulators"]["top"]  # as older files are
    with pytest.raises(InputError, match=r"no table 'top'.*groupby="):
        mofm.pl.regulators(regulated_cells)
    assert len(mofm.pl.regulators(regulated_cells, groupby="kind").collections) == 1


@pytest.fixture
def moved():
    """The table of `mofm perturb` for two groups."""
    rows = [
        {"group": group, "gene": f"G{i}", "network": (-1) ** i * (5 - i) * sign, "model": 0.1 * i, "known": known}
        for group, sign in (("B", 1), ("T", -1))
        for i, known in enumerate(["training", "held out", "", "training", ""])
    ]
    return pd.DataFrame(rows)


def test_perturbation_is_the_largest_shifts(moved, cells):
    axes = mofm.pl.perturbation(moved, group="T", n_genes=3)
    assert names_of(axes) == ["G0", "G1", "G2"]
    assert [bar.get_width() for bar in axes.patches] == [-5, 4, -3]
    assert len({to_hex(bar.get_facecolor()) for bar in axes.patches}) == 3
    assert len(axes.get_legend().get_texts()) == 3
    cells.uns["mofm_perturbation"] = {"genes": moved[moved["group"] == "B"], "changes": np.array(["GATA1 knocked out"])}
    axes = mofm.pl.perturbation(cells, by="model")
    assert names_of(axes) == ["G4", "G3", "G2", "G1", "G0"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0])
    assert axes.get_title(loc="left") == "GATA1 knocked out: the genes that move most"
    assert axes.get_xlabel().endswith("nats")


# Translation


GENES = gene_table("human").frame[["gene_id", "symbol"]].query("symbol != gene_id").iloc[2000:2030]


def made_translation(modality, names, ids, mean_NF, sd_NF, depth):
    var = pd.DataFrame({"feature_id": ids, "trained": True}, index=pd.Index(names))
    obs = pd.DataFrame({"mofm_depth": depth}, index=[f"cell{i}" for i in range(len(mean_NF))])
    report = {"mofm": {"target": modality, "depth": "median", "species": "human"}}
    return ad.AnnData(mean_NF.astype(np.float32), obs, var, uns=report, layers={"sd": sd_NF.astype(np.float32)})


def measured_as(counts_NF, told, var, **layers):
    """In another order of cells and features, and with a feature more."""
    rng = np.random.default_rng(9)
    rows, columns = rng.permutation(counts_NF.shape[0]), rng.permutation(counts_NF.shape[1])
    cut = {name: sp.csr_matrix(layer[rows][:, columns].astype(np.float32)) for name, layer in layers.items()}
    counts = sp.csr_matrix(counts_NF[rows][:, columns].astype(np.float32))
    return ad.AnnData(counts, told.obs.iloc[rows], var.iloc[columns], layers=cut)


@pytest.fixture(scope="module")
def rna():
    """Negative binomial counts of cells of many depths, exactly as told: (told, measured, counts)."""
    rng = np.random.default_rng(4)
    cells, depth, theta = 1500, 1000.0, 4.0
    share = rng.dirichlet(np.ones(30) * 2, 5)[rng.integers(0, 5, cells)]
    library = rng.lognormal(np.log(depth), 0.5, cells).round()
    expected = share * library[:, None]
    counts = rng.poisson(rng.gamma(theta, expected / theta))
    mean = share * depth
    told = made_translation(
        "rna", GENES["symbol"], GENES["gene_id"].to_numpy(), mean, np.sqrt(mean + mean**2 / theta), depth
    )
    return told, measured_as(counts, told, pd.DataFrame(index=GENES["gene_id"] + ".3")), counts


def test_correlations_are_those_of_each_feature(rna):
    told, measured, counts = rna
    wanted = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    of_told = np.log1p(told.X / 1000 * 1e4)
    r = pd.Series([np.corrcoef(wanted[:, i], of_told[:, i])[0, 1] for i in range(30)], told.var_names)
    axes = mofm.pl.correlations(told, measured)
    r = r.sort_values(ascending=False)
    assert names_of(axes) == list(r.index)
    np.testing.assert_allclose(axes.collections[-1].get_offsets()[:, 0], r, atol=1e-4)
    assert axes.get_title(loc="left") == f"Mean {r.mean():.2f} of 30 features"
    assert axes.lines[1].get_xdata()[0] == pytest.approx(r.mean(), abs=1e-4)
    assert axes.get_xlabel() == "Pearson r across 1,500 cells"


def test_translation_is_told_against_measured(rna):
    told, measured, counts = rna
    name = told.var_names[7]
    (axes,) = mofm.pl.translation(told, measured, [name])
    place = np.asarray(axes.collections[0].get_offsets())
    wanted = np.log1p(counts[:, 7] / counts.sum(axis=1) * 1e4)
    np.testing.assert_allclose(place[:, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(place[:, 1], np.log1p(told.X[:, 7] * 10), rtol=1e-5)
    r = np.corrcoef(wanted, place[:, 1])[0, 1]
    assert axes.get_title(loc="left") == f"{name}: Pearson r {r:.2f}"
    assert r > 0.3


def test_many_features_are_a_histogram(rna, monkeypatch):
    told, measured, _ = rna
    monkeypatch.setattr("mofm.pl.predictions.NAMED", 5)
    axes = mofm.pl.correlations(told, measured)
    assert sum(bar.get_height() for bar in axes.patches) == 30
    assert axes.get_ylabel() == "features"


def ratio_of(axes):
    return float(axes.get_title(loc="left").split()[2])


def test_deviations_of_counts_are_calibrated_at_every_depth(rna):
    told, measured, _ = rna
    axes = mofm.pl.calibration(told, measured)
    assert ratio_of(axes) == pytest.approx(1, abs=0.05)
    said, found = axes.lines[1].get_data()
    assert len(said) == 10
    np.testing.assert_allclose(found, said, rtol=0.15)
    assert found[-1] > 5 * found[0]


def test_deviations_that_are_told_too_small_are_found():
    """Poisson told, and the counts vary more; and deviations of half the size."""
    rng = np.random.default_rng(5)
    mean = np.tile(rng.uniform(5, 50, 30), (400, 1))
    library = mean.sum(axis=1)[0]
    told = made_translation("rna", GENES["symbol"], GENES["gene_id"].to_numpy(), mean, np.sqrt(mean), library)
    counts = rng.poisson(mean * rng.gamma(4, 1 / 4, mean.shape))
    axes = mofm.pl.calibration(told, measured_as(counts, told, pd.DataFrame(index=GENES["gene_id"])))
    wanted = np.sqrt(np.mean(1 + mean / 4))
    assert ratio_of(axes) == pytest.approx(wanted, rel=0.1)


def test_regions_are_judged_by_auroc_and_calibrated_by_chance():
    rng = np.random.default_rng(6)
    places = [f"chr1:{1_000_000 + 1000 * i}-{1_000_500 + 1000 * i}" for i in range(12)]
    chance = rng.uniform(0.05, 0.9, (800, 12))
    told = made_translation(
        "atac", places, [f"GRCh38_{p}" for p in places], chance, np.sqrt(chance * (1 - chance)), 100.0
    )
    counts = (rng.random(chance.shape) < chance).astype(int)
    filler = 100 - counts.sum(axis=1, keepdims=True)  # every cell has the told depth
    var = pd.DataFrame(index=[*(p.replace(":", "-") for p in places), "chr2-5000-6000"])
    measured = measured_as(np.hstack([counts, filler]), told, var)
    axes = mofm.pl.correlations(told, measured)
    values = axes.collections[-1].get_offsets()[:, 0]
    first = names_of(axes)[0]
    one = places.index(first)
    open_, closed_ = chance[counts[:, one] == 1, one], chance[counts[:, one] == 0, one]
    assert values[0] == pytest.approx(np.mean(open_[:, None] > closed_[None]), abs=1e-3)
    assert axes.get_xlabel().startswith("AUROC")
    assert ratio_of(mofm.pl.calibration(told, measured)) == pytest.approx(1, abs=0.05)
    axes = mofm.pl.translation(told, measured, first)
    medians = sorted(line.get_ydata()[0] for line in axes.lines if to_rgba(line.get_color()) == to_rgba(figures.ACCENT))
    assert medians == pytest.approx(sorted([np.median(open_), np.median(closed_)]), abs=1e-5)


def test_methylation_is_calibrated_by_reads():
    """Beta-binomial reads, few in some cells and none in others."""
    rng = np.random.default_rng(7)
    mean, concentration = rng.uniform(0.1, 0.9, (900, 10)), 6.0
    reads = rng.poisson(4, mean.shape)
    hits = rng.binomial(reads, rng.beta(mean * concentration, (1 - mean) * concentration))
    places = [f"chr1:{1_000_000 + 1000 * i}-{1_000_500 + 1000 * i}" for i in range(10)]
    sd = np.sqrt(mean * (1 - mean) / (concentration + 1))
    told = made_translation("methylation", places, [f"GRCh38_{p}" for p in places], mean, sd, 50.0)
    measured = measured_as(reads, told, pd.DataFrame(index=places), methylated=hits)
    assert ratio_of(mofm.pl.calibration(told, measured)) == pytest.approx(1, abs=0.05)
    place = np.asarray(mofm.pl.translation(told, measured, places[2]).collections[0].get_offsets())
    read = reads[:, 2] > 0
    np.testing.assert_allclose(place[read, 0], (hits[:, 2] / np.maximum(reads[:, 2], 1))[read], rtol=1e-6)


# A run


def test_history_is_the_losses_of_the_run(tmp_path):
    lines = [f'{{"step": {s}, "train/rna/token_nll": {3 / s}}}' for s in (10, 20, 30)]
    lines += [
        '{"step": 30, "heldout/rna/token_nll": 0.4, "heldout/rna/null_nll": 0.5, "heldout/rna_to_adt/cell_nll": 1.5}'
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    axes = mofm.pl.history(tmp_path)
    faint, smooth, heldout, null = axes.lines
    np.testing.assert_allclose(faint.get_data(), [[10, 20, 30], [0.3, 0.15, 0.1]])
    np.testing.assert_allclose(smooth.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(heldout.get_data(), [[30], [0.4]])
    assert null.get_ydata()[0] == 0.5
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "nats per hidden count")
    both = mofm.pl.history(tmp_path / "metrics.jsonl", ["rna/token_nll", "rna_to_adt/cell_nll"])
    np.testing.assert_allclose(both[1].lines[0].get_ydata(), [1.5])
    with pytest.raises(InputError, match=r"no loss 'rna/tokn_nll'; the run has rna/token_nll, rna_to_adt/cell_nll"):
        mofm.pl.history(tmp_path, "rna/tokn_nll")
    with pytest.raises(InputError, match="no such metrics file"):
        mofm.pl.history(tmp_path / "nowhere")


# What is missing


def of_other_cells(told):
    other = told.copy()
    other.obs_names = [f"other{i}" for i in range(other.n_obs)]
    return other


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda pl, a, t: pl.embedding("cells.h5ad"), "an AnnData is expected"),
        (lambda pl, a, t: pl.embedding(t), r"no 'X_mofm'; model\.embed\(adata\) or `mofm embed` makes it"),
        (lambda pl, a, t: pl.embedding(a, basis="X_umapp"), "obsm has no 'X_umapp'"),
        (lambda pl, a, t: pl.embedding(a, "knid"), r"neither a column of obs nor a feature .*Did you mean 'kind'"),
        (lambda pl, a, t: pl.embedding(a, "CD19", layer="cuonts"), "no layer 'cuonts'"),
        (lambda pl, a, t: pl.embedding(a, []), "nothing is asked for"),
        (lambda pl, a, t: pl.embedding(a, ["kind", "score"], ax=plt.gca()), "one ax cannot hold 2 plots"),
        (lambda pl, a, t: pl.confidence(a), r"no column 'mofm_label'; model\.annotate"),
        (lambda pl, a, t: pl.confusion(a, "kind"), r"no column 'mofm_label'; model\.annotate"),
        (lambda pl, a, t: pl.confusion(a, "kidn", key="kind"), "Did you mean 'kind'"),
        (lambda pl, a, t: pl.regulators(a), r"uns has no 'mofm_regulators': model\.regulators\(adata, groupby="),
        (lambda pl, a, t: pl.perturbation(a), r"uns has no 'mofm_perturbation': model\.perturb\(adata, knock_out="),
        (lambda pl, a, t: pl.correlations(a, a), "predicted is no translation"),
        (lambda pl, a, t: pl.calibration(t, of_other_cells(t)), "share 0 cells by name"),
        (lambda pl, a, t: pl.translation(t, t, "CD19"), "no feature 'CD19' was predicted and measured|no raw counts"),
        (lambda pl, a, t: pl.correlations(t, t[:, :0].copy()), "share no feature"),
        (lambda pl, a, t: pl.correlations(t, t), "X of measured holds no raw counts; name the layer"),
        (lambda pl, a, t: pl.correlations(t, t, layer="counts"), "measured has no layer 'counts'"),
    ],
)
def test_what_is_missing_is_told_with_what_makes_it(cells, rna, call, said):
    with pytest.raises(InputError, match=said) as error:
        call(mofm.pl, cells, rna[0])
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_told(regulated_cells, moved, rna):
    told, measured, _ = rna
    regulated_cells.obs["none"] = np.nan
    for call, said in (
        (lambda: mofm.pl.regulators(regulated_cells, groupby="knd"), "Did you mean 'kind'"),
        (lambda: mofm.pl.regulators(regulated_cells, n_tfs=0), "n_tfs 0"),
        (lambda: mofm.pl.regulators(regulated_cells, groupby="none"), "labels no cell"),
        (lambda: mofm.pl.perturbation(moved), "group=: name one of B, T"),
        (lambda: mofm.pl.perturbation(moved, group="NK"), "no group 'NK'; there are B, T"),
        (lambda: mofm.pl.perturbation(moved, group="B", by="rate"), "by 'rate'"),
        (lambda: mofm.pl.perturbation(moved, group="B", n_genes=0), "n_genes 0"),
        (lambda: mofm.pl.translation(told, measured, "GENE"), "no feature 'GENE' was predicted and measured"),
        (
            lambda: mofm.pl.calibration(ad.AnnData(told.X, told.obs, told.var, uns=told.uns), measured),
            r'no layers\["sd"\]',
        ),
        (lambda: mofm.pl.correlations(told, measured[:, :0].copy()), "share no feature|none of its"),
    ):
        with pytest.raises(InputError, match=said):
            call()
