"""A translation beside what was measured, on the scale that `mofm evaluate` judges on, and on that of the errors.

    RNA          log1p of counts per 10,000          Pearson correlation over cells
    ADT          centred log ratio, of the features that both have     Pearson
    ATAC         open or not, and the chance of it   AUROC
    methylation  fraction of reads; where there are none, a cell is left out     Pearson

Errors are judged on counts at the depth that each cell has, for which the predicted mean m and deviation s, at the depth that
obs["mofm_depth"] says, are moved as the likelihoods move them: with r times that depth a count has the mean r m and the
variance r m + r^2 (s^2 - m), a region the log odds + log r, and n reads of a region the variance (m (1 - m) + (n - 1) s^2) / n.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.special import expit, logit

from mofm.axes import Modality
from mofm.errors import InputError, nearest_name
from mofm.evaluation.figures import ACCENT, FAINT, INK, MUTED, SECOND, dress
from mofm.evaluation.translation import BLOCK_ENTRIES, per_feature_auroc, per_feature_correlation
from mofm.evaluation.translation_baselines import Measured, measured_of, target_columns, values_at_depth
from mofm.omics.builds import PREFIX
from mofm.omics.genome import bundled_species, gene_table
from mofm.omics.held import Held
from mofm.omics.identity import resolve_features
from mofm.pl.paper import axes_for, axes_for_each, checked, name_axes, name_rows, one_or_all
from mofm.sampling import evenly

NAMED = 40
"""The most features that are drawn by name."""
MOST = 2_000
"""The most features whose errors are looked at."""
BINS = 10
SCALE = {
    "rna": "log1p of counts per 10,000",
    "adt": "centred log ratio",
    "atac": "open",
    "methylation": "fraction of reads methylated",
}


class Pairs(NamedTuple):
    """Cells and features that were predicted and measured.

    Attributes:
      modality: of the features.
      names: of the features, as predicted.
      predicted: their AnnData, cells and features in the order of `measured`.
      measured: all features of the measured cells, as `target_columns` takes them.
      columns: of `measured`, those of the features.
    """

    modality: Modality
    names: list[str]
    predicted: anndata.AnnData
    measured: Measured
    columns: np.ndarray

    def values(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(truth_NF, predicted_NF) of some features, on the scale that is judged."""
        depth_N, predicted_NF = self.predicted.obs["mofm_depth"].to_numpy(), np.asarray(self.predicted.X)
        if self.modality == "adt":  # relative to all that both have
            beside = Measured(self.measured.counts[:, self.columns])
            return target_columns("adt", beside, features), values_at_depth("adt", predicted_NF, depth_N)[:, features]
        truth_NF = target_columns(self.modality, self.measured, self.columns[features])
        return truth_NF, values_at_depth(self.modality, predicted_NF[:, features], depth_N)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """How well each of some features is predicted across cells; NaN where the truth has one value."""
        score = per_feature_auroc if self.modality == "atac" else per_feature_correlation
        step = max(1, BLOCK_ENTRIES // self.predicted.n_obs)
        blocks = [features[start : start + step] for start in range(0, len(features), step)]
        return np.concatenate([score(*self.values(block)).score_F for block in blocks])

    @property
    def score_name(self) -> str:
        """What the scores are."""
        return "AUROC" if self.modality == "atac" else "Pearson r"


def correlations(
    predicted: anndata.AnnData, measured: Held, *, layer: str | None = None, ax: Axes | None = None
) -> Axes:
    """How well each feature is predicted across cells: Pearson's r, of regions AUROC. Up to 40 features by name, the best
    first; more as a histogram. A line shows their mean; the faint one what a mean predictor reaches.

    Args:
      predicted: what `model.translate` gave, or `mofm translate` wrote.
      measured: raw counts of the same cells, by name: an AnnData of that omics type, or a MuData that has it. A feature that
        it names twice counts by the first.
      layer: layers[layer] of `measured` holds the counts; None for X.

    Raises:
      InputError: `predicted` is no translation; cells or features that do not meet; or no feature that varies.
    """
    pairs = _pairs(predicted, measured, layer)
    score_F = pairs.scores(np.arange(len(pairs.names)))
    known = np.flatnonzero(~np.isnan(score_F))
    if not len(known):
        raise InputError("no feature varies among the measured cells: nothing can be compared")
    mean, chance = float(score_F[known].mean()), 0.5 if pairs.modality == "atac" else 0.0
    order = known[np.argsort(-score_F[known], kind="stable")]
    if len(known) <= NAMED:
        axes = axes_for(ax, 4.6, 1.3 + 0.2 * len(known))
        axes.hlines(range(len(known)), chance, score_F[order], color=FAINT, linewidth=1.2, zorder=0)
        axes.scatter(score_F[order], range(len(known)), s=26, color=ACCENT, linewidths=0)
        name_rows(axes, [pairs.names[one] for one in order])
    else:
        axes = axes_for(ax, 4.6, 3.2)
        axes.hist(score_F[known], bins=40, color=ACCENT)
        name_axes(axes, y="features")
    axes.axvline(chance, color=MUTED, linewidth=0.8)
    axes.axvline(mean, color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
    alike = len(score_F) - len(known)
    dress(axes, f"Mean {mean:.2f} of {len(known):,} features{f', {alike:,} do not vary' if alike else ''}")
    name_axes(axes, f"{pairs.score_name} across {pairs.predicted.n_obs:,} cells")
    return axes


def translation(
    predicted: anndata.AnnData,
    measured: Held,
    feature: str | Sequence[str],
    *,
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes]:
    """Cells by what was measured of a feature and what was predicted, with the correlation; of a region, predicted chances
    beside whether it is open.

    Args:
      predicted, measured, layer: as `correlations`.
      feature: as `predicted` names it; several give a list of Axes.

    Raises:
      InputError: as `correlations`; or no such feature.
    """
    names = [feature] if isinstance(feature, str) else list(feature)
    pairs = _pairs(predicted, measured, layer)
    for name in names:
        if name not in pairs.names:
            raise InputError(f"no feature {name!r} was predicted and measured.{nearest_name(name, pairs.names)}")
    wanted = np.array([pairs.names.index(name) for name in names], np.int64)
    truth_NF, predicted_NF = pairs.values(wanted)
    drawn = axes_for_each(names, ax, 4.2, 3.9)
    for axes, name, truth_N, predicted_N, score in zip(
        drawn, names, truth_NF.T, predicted_NF.T, pairs.scores(wanted), strict=True
    ):
        if pairs.modality == "atac":
            predicted_of = [predicted_N[truth_N == value] for value in (0, 1)]
            axes.boxplot(predicted_of, positions=(0, 1), whis=(5, 95), showfliers=False, widths=0.5,
                         medianprops={"color": ACCENT})  # fmt: skip
            words = zip(("closed", "open"), predicted_of, strict=True)
            axes.set_xticks((0, 1), [f"{word}\n{len(part):,} cells" for word, part in words])
            name_axes(axes, "measured", "predicted chance to be open")
        else:
            axes.scatter(
                truth_N,
                predicted_N,
                s=max(2.0, min(14.0, 6000 / len(predicted_N))),
                color=ACCENT,
                alpha=0.5,
                linewidths=0,
            )
            name_axes(axes, f"measured: {SCALE[pairs.modality]}", "predicted")
        dress(axes, f"{name}: {pairs.score_name} {score:.2f}")
    return one_or_all(drawn, feature)


def calibration(
    predicted: anndata.AnnData, measured: Held, *, layer: str | None = None, ax: Axes | None = None
) -> Axes:
    """Whether errors are as large as layers["sd"] says: values of cells in ten parts by the deviation that was predicted, from
    the least to the largest, and in each the root mean square of error and of deviation. On the line they are alike.

    Both are counts at each cell's own depth (see above). Of more than 2,000 features so many are looked at, evenly spread.

    Raises:
      InputError: as `correlations`; or `predicted` has no layers["sd"].
    """
    pairs = _pairs(predicted, measured, layer)
    if "sd" not in predicted.layers:
        raise InputError('predicted has no layers["sd"]: give what model.translate gave, or `mofm translate` wrote')
    features = evenly(len(pairs.names), MOST)
    error_X, deviation_X = _errors(pairs, features)
    parts = np.array_split(np.argsort(deviation_X, kind="stable"), min(BINS, len(deviation_X)))
    said, found = (np.array([np.sqrt(np.mean(x[part] ** 2)) for part in parts]) for x in (deviation_X, error_X))
    axes = axes_for(ax, 4.4, 4.0)
    ends = np.array([min(said.min(), found[found > 0].min(initial=np.inf)), max(said.max(), found.max())])
    ends = ends * (0.8, 1.25)
    axes.plot(ends, ends, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    axes.plot(said, found, color=ACCENT, marker="o", markersize=5, markeredgewidth=0, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] < 50 * ends[0] else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ratio = float(np.sqrt(np.mean((error_X / deviation_X) ** 2)))
    dress(axes, f"Errors are {ratio:.2f} of the predicted deviation")
    what = "chance" if pairs.modality == "atac" else "fraction" if pairs.modality == "methylation" else "counts"
    name_axes(axes, f"predicted deviation, {what}", f"error (root mean square), {what}")
    axes.annotate(f"{len(features):,} of {len(pairs.names):,} features", (0.98, 0.02), xycoords="axes fraction", ha="right",
                  fontsize=8, color=INK if len(features) < len(pairs.names) else MUTED)  # fmt: skip
    return axes


def _errors(pairs: Pairs, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors and deviations of all measured values of some features, at the depth of each cell."""
    counts = pairs.measured.counts
    mean_NF = np.asarray(pairs.predicted.X)[:, features].astype(np.float64)
    variance_NF = np.asarray(pairs.predicted.layers["sd"])[:, features].astype(np.float64) ** 2
    total_NF = counts[:, pairs.columns[features]].toarray().astype(np.float64)
    if pairs.modality == "methylation":
        hits_NF = pairs.measured.methylated[:, pairs.columns[features]].toarray()
        read = total_NF > 0
        reads_X, mean_X = total_NF[read], mean_NF[read]
        variance_X = (mean_X * (1 - mean_X) + (reads_X - 1) * variance_NF[read]) / reads_X
        return hits_NF[read] / reads_X - mean_X, np.sqrt(np.maximum(variance_X, 1e-12))
    depth_N = np.asarray(counts.sum(axis=1), np.float64).ravel()
    ratio_N1 = (np.where(depth_N > 0, depth_N, 1) / pairs.predicted.obs["mofm_depth"].to_numpy())[:, None]
    if pairs.modality == "atac":
        chance_NF = expit(logit(np.clip(mean_NF, 1e-7, 1 - 1e-7)) + np.log(ratio_N1))
        error_NF, moved_NF = (total_NF > 0) - chance_NF, chance_NF * (1 - chance_NF)
    else:
        error_NF = total_NF - ratio_N1 * mean_NF
        moved_NF = ratio_N1 * mean_NF + ratio_N1**2 * (variance_NF - mean_NF)
    kept = depth_N > 0
    return error_NF[kept].ravel(), np.sqrt(np.maximum(moved_NF[kept], 1e-12)).ravel()


def _pairs(predicted: anndata.AnnData, measured: Held, layer: str | None) -> Pairs:
    """The cells and features that both have."""
    report = checked(predicted).uns.get("mofm", {})
    if "target" not in report:
        raise InputError("predicted is no translation (uns['mofm'] names no target): give what model.translate gave")
    modality = str(report["target"])
    if hasattr(checked(measured), "mod"):
        if modality not in measured.mod:
            raise InputError(
                f"measured has no modality {modality!r}; it has {', '.join(measured.mod)}: give its AnnData"
            )
        measured = measured.mod[modality]
    for name, data in (("predicted", predicted), ("measured", measured)):
        if not data.obs_names.is_unique:
            raise InputError(f"{name} has several cells of one name: adata.obs_names_make_unique() makes them differ")
    cells = predicted.obs_names.intersection(measured.obs_names, sort=False)
    if len(cells) < 3:
        raise InputError(
            f"predicted and measured share {len(cells)} cells by name; 3 are needed: are their names alike?"
        )
    measured, predicted = (x[cells].to_memory() if x.isbacked else x[cells] for x in (measured, predicted))
    predicted_F, column_F = _shared_features(predicted, measured, modality)
    predicted = predicted[:, predicted_F]
    return Pairs(modality, predicted.var_names.tolist(), predicted, _counts(measured, layer), column_F)


def _counts(measured: anndata.AnnData, layer: str | None) -> Measured:
    """Its raw counts."""
    if layer is not None and layer not in measured.layers:
        raise InputError(f"measured has no layer {layer!r}.{nearest_name(layer, measured.layers)}")
    found = measured_of(measured)
    found = found if layer is None else found._replace(counts=sp.csr_matrix(measured.layers[layer]))
    counts = found.counts.data
    if (counts < 0).any() or (counts != np.round(counts)).any():
        where = "X" if layer is None else f"layers[{layer!r}]"
        raise InputError(f"{where} of measured holds no raw counts; name the layer that does, as layer='counts'")
    return found


def _shared_features(
    predicted: anndata.AnnData, measured: anndata.AnnData, modality: Modality
) -> tuple[np.ndarray, np.ndarray]:
    """Columns of `predicted` and of `measured` that are one feature, by identity; names that say it twice, by the first."""
    ids = pd.Index(predicted.var.get("feature_id", predicted.var_names)).astype(str)
    builds = (
        {re.match(PREFIX, name)["build"] for name in ids} - {None} if modality in ("atac", "methylation") else set()
    )
    species, build = str(predicted.uns["mofm"].get("species", "")), builds.pop() if len(builds) == 1 else None
    names = measured.var_names.astype(str).tolist()
    if species in bundled_species():
        names = resolve_features(measured.var, modality, gene_table(species), build, "measured").ids
    column_of = {name: place for place, name in reversed(list(enumerate(names)))}
    shared = [place for place, name in enumerate(ids) if name in column_of]
    if not shared:
        raise InputError(
            f"predicted and measured share no feature: {', '.join(ids[:2])}, ... and {', '.join(measured.var_names[:2])}, ..."
        )
    return np.array(shared, np.int64), np.array([column_of[ids[place]] for place in shared], np.int64)
