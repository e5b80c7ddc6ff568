"""What regulates each group of cells, and what a perturbation moves."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mofm.errors import InputError, nearest_name
from mofm.evaluation.figures import ACCENT, FAINT, INK, MUTED, SECOND, dress
from mofm.files import output_file
from mofm.omics.held import Held
from mofm.pl.paper import axes_for, checked, column, name_axes, name_rows, noted

SHOWN = 4
"""TFs of each group, where nobody says."""
FIGURES = (".png", ".pdf", ".svg")
KNOWN = {"training": ACCENT, "held out": "#009E73", "": SECOND}
"""Whether the networks have the edge, and its colour."""
SAID = {"training": "known edge", "held out": "known edge,\nheld out of training", "": "no known edge"}
SCALES = {"network": "shift through the network, sure edges", "model": "shift of the log rate, nats"}


def regulators(adata: Held, *, groupby: str | None = None, n_tfs: int = SHOWN, ax: Axes | None = None) -> Axes:
    """Mean activity of the most active TFs of each group: red above the mean of all cells, blue below. A dot's area is the
    TF's edges among the strongest of the group, where that was counted.

    Args:
      groupby: a column of obs; None for that of `model.regulators`. By another column, edges are not counted.
      n_tfs: of each group; a TF that one group names is drawn in all.

    Raises:
      InputError: no regulators were found yet, or no such column; or `n_tfs` is below 1.
    """
    found = noted(checked(adata), "mofm_regulators", "model.regulators(adata, groupby=...) or `mofm regulators`")
    if n_tfs < 1:
        raise InputError(f"n_tfs {n_tfs}: must be at least 1")
    if groupby is None and "top" not in found:
        raise InputError(
            "uns['mofm_regulators'] has no table 'top', as of an older mofm: say groupby=, or find them again"
        )
    if groupby is None or (groupby == found.get("groupby") and "top" in found):
        top = pd.DataFrame(found["top"])
    else:
        top = _mean_activities(adata, list(map(str, found["tfs"])), column(adata, groupby))
    dots = Dots.of(top, n_tfs)
    return dots.draw(axes_for(ax, *dots.size))


class Dots(NamedTuple):
    """What is drawn of regulators.

    Attributes:
      shown: a row a dot: columns group, tf, activity and maybe targets.
      groups, tfs: rows and columns, in their order.
    """

    shown: pd.DataFrame
    groups: list[str]
    tfs: list[str]

    @classmethod
    def of(cls, top: pd.DataFrame, n_tfs: int) -> "Dots":
        """Of `Regulators.top`, the TFs that are among the first of any group."""
        tfs = list(dict.fromkeys(top["tf"][top["rank"] <= n_tfs]))
        return cls(top[top["tf"].isin(tfs)], list(dict.fromkeys(top["group"])), tfs)

    @property
    def size(self) -> tuple[float, float]:
        """Inches that the dots need."""
        return 2.6 + 0.24 * len(self.tfs), 1.8 + 0.26 * len(self.groups)

    def draw(self, axes: Axes) -> Axes:
        """The dots, and the bar of their colours."""
        shown, limit, area = self.shown, max(float(self.shown["activity"].abs().max()), 1e-6), 60.0
        if "targets" in shown:
            area = 8 + 90 * shown["targets"] / max(shown["targets"].max(), 1)
            name_axes(axes, "dot size: the TF's edges among the group's strongest")
        dots = axes.scatter(
            shown["tf"].map(self.tfs.index), shown["group"].map(self.groups.index), c=shown["activity"], s=area,
            cmap="RdBu_r", vmin=-limit, vmax=limit, edgecolors=FAINT, linewidths=0.4,
        )  # fmt: skip
        dress(axes, "Regulators: the most active of each group")
        name_rows(axes, self.groups)
        axes.set_xticks(range(len(self.tfs)), self.tfs, rotation=90, fontsize=8)
        axes.set_xlim(-0.7, len(self.tfs) - 0.3)
        bar = axes.figure.colorbar(dots, ax=axes, shrink=0.7)
        bar.set_label("mean TF activity, z-score", fontsize=8, color=MUTED)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=MUTED)
        return axes


def write_figure(top: pd.DataFrame, path: str | Path) -> None:
    """Draw the most active TFs of each group, as .png, .pdf or .svg.

    Args:
      top: as `inference.regulators.Regulators.top`.

    Raises:
      InputError: another suffix, or `path` cannot be written.
    """
    path = Path(path)
    if path.suffix not in FIGURES:
        raise InputError(f"{path}: a figure is written as {', '.join(FIGURES)}; give one of these suffixes")
    dots = Dots.of(top, SHOWN)
    figure = Figure(figsize=dots.size, layout="constrained", facecolor="white")
    dots.draw(figure.subplots())
    with output_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=160)


def _mean_activities(adata: Held, tfs: list[str], labels: pd.Series) -> pd.DataFrame:
    """`Regulators.top` of other groups, without edges. Cells without a label or an activity are in none."""
    activity_NT = np.asarray(adata.obsm["mofm_tf_activity"])
    is_scored = np.isfinite(activity_NT).all(axis=1) & labels.notna().to_numpy()
    if not is_scored.any():
        raise InputError(f"obs[{str(labels.name)!r}] labels no cell that has TF activities; give another column")
    groups = labels[is_scored].astype("category").to_numpy()
    means = pd.DataFrame(activity_NT[is_scored], columns=tfs).groupby(groups, observed=True).mean()
    parts = []
    for name, row in means.iterrows():
        ranked = row.sort_values(ascending=False, kind="stable")
        part = {"tf": ranked.index, "activity": ranked.to_numpy(), "rank": np.arange(1, len(tfs) + 1)}
        parts.append(pd.DataFrame(part).assign(group=str(name)))
    return pd.concat(parts, ignore_index=True)


def perturbation(
    data: Held | pd.DataFrame,
    *,
    group: str | None = None,
    n_genes: int = 20,
    by: str = "network",
    ax: Axes | None = None,
) -> Axes:
    """The genes that a perturbation is estimated to move most, in one group of cells, by whether the networks know why.

    Args:
      data: an AnnData after `model.perturb`, or the table genes.parquet of `mofm perturb`.
      group: of the column that was grouped by; None where there is one.
      by: "network", what passes along known and likely edges (go by it), or "model", what embedding the cells again gives.

    Raises:
      InputError: nothing was perturbed yet, several groups and none named, or no such group or `by`.
    """
    done = ""
    if not isinstance(data, pd.DataFrame):
        found = noted(checked(data), "mofm_perturbation", "model.perturb(adata, knock_out=...)")
        data, done = pd.DataFrame(found["genes"]), ", ".join(map(str, found.get("changes", [])))
    if by not in SCALES:
        raise InputError(f"by {by!r}: must be one of {', '.join(SCALES)}")
    if n_genes < 1:
        raise InputError(f"n_genes {n_genes}: must be at least 1")
    groups = list(map(str, dict.fromkeys(data["group"])))
    if group is None and len(groups) > 1:
        raise InputError(f"group=: name one of {', '.join(groups)}")
    if group is not None and group not in groups:
        raise InputError(f"no group {group!r}; there are {', '.join(groups)}.{nearest_name(group, groups)}")
    part = data[data["group"].astype(str) == (group or groups[0])]
    shown = part.iloc[np.argsort(-part[by].abs(), kind="stable")[:n_genes]]
    axes = axes_for(ax, 6.4, 1.3 + 0.2 * len(shown))
    known = shown["known"].fillna("").astype(str)
    axes.barh(range(len(shown)), shown[by], color=known.map(KNOWN), height=0.7)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    dress(axes, f"{done or 'Perturbation'}: the genes that move most{'' if group is None else f', {group}'}")
    name_rows(axes, shown["gene"].astype(str).tolist())
    name_axes(axes, SCALES[by])
    present = [Patch(color=colour, label=SAID[name]) for name, colour in KNOWN.items() if (known == name).any()]
    axes.legend(handles=present, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=INK)
    return axes
