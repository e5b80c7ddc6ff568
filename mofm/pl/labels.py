"""Labels that a model gave to cells: how sure it was, and where it was right."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mofm.errors import InputError
from mofm.evaluation.figures import ACCENT, FAINT, INK, MUTED, SECOND, dress
from mofm.omics.held import Held
from mofm.pl.paper import axes_for, checked, column, name_axes, name_rows

MAKES = "model.annotate(adata, ...) or `mofm annotate`"
UNKNOWN = "unknown"
"""What a cell of too low a confidence is called."""


def confidence(adata: Held, key: str = "mofm_label", *, ax: Axes | None = None) -> Axes:
    """The confidence of each label's cells, the label of most cells first: quartiles as a box, the median in it, whiskers
    from the 5th to the 95th percentile. A line shows the confidence below which cells are "unknown". It is the chance that
    the label is right, but that of a small reference is the share of its voters (see `inference/vote.py`).

    Args:
      key: of obs, as `key_added` of `model.annotate`.

    Raises:
      InputError: obs has no such labels, or none of a cell.
    """
    labels = column(checked(adata), key, MAKES)
    sure = pd.DataFrame({"label": labels, "confidence": column(adata, f"{key}_confidence", MAKES)}).dropna()
    if sure.empty:
        raise InputError(f"obs[{key!r}] labels no cell")
    counts = sure["label"].astype(str).value_counts()
    names = sorted(counts.index, key=lambda name: (name == UNKNOWN, -counts[name], name))
    axes = axes_for(ax, 5.6, 1.3 + 0.3 * len(names))
    parts = [sure["confidence"][sure["label"].astype(str) == name].to_numpy(float) for name in names]
    boxes = axes.boxplot(
        parts, positions=range(len(names)), orientation="horizontal", whis=(5, 95), widths=0.6, showfliers=False,
        patch_artist=True, medianprops={"color": INK, "linewidth": 1.6}, whiskerprops={"color": MUTED}, showcaps=False,
        boxprops={"linewidth": 0, "alpha": 0.55},
    )  # fmt: skip
    for box, name in zip(boxes["boxes"], names, strict=True):
        box.set_facecolor(MUTED if name == UNKNOWN else ACCENT)
    naming = adata.uns.get("mofm_annotation", {})
    if "threshold" in naming:
        axes.axvline(float(naming["threshold"]), color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
    dress(axes, "How sure each label is")
    name_rows(axes, [f"{name}  {counts[name]:,}" for name in names])
    axes.set_xlim(0, 1.02)
    share = f"share of the {int(naming.get('voters', 0))} nearest reference cells"
    name_axes(axes, f"confidence: {'chance' if naming.get('calibrated', 'voters' not in naming) else share}")
    return axes


def confusion(adata: Held, truth: str, key: str = "mofm_label", *, ax: Axes | None = None) -> Axes:
    """Of the cells of each true label, the share that was given each label; a row adds up to 1.

    Args:
      truth: a column of obs. Cells without a truth, or without a label, are left out and counted in the title.

    Raises:
      InputError: no such columns, or no cell has both.
    """
    given, true = column(checked(adata), key, MAKES), column(adata, truth)
    both = pd.DataFrame({"truth": true, "given": given}).dropna().astype(str)
    if both.empty:
        raise InputError(f"no cell has both obs[{truth!r}] and obs[{key!r}]")
    table = pd.crosstab(both["truth"], both["given"])
    rows = list(table.index)
    columns = [name for name in rows if name in table] + [name for name in table if name not in rows]
    share = (table[columns].div(table.sum(axis=1), axis=0)).to_numpy()
    axes = axes_for(ax, 2.8 + 0.34 * len(columns), 2.0 + 0.34 * len(rows))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if share.size <= 400:
        for row, place in np.argwhere(share >= 0.005):
            value = share[row, place]
            ink = "white" if value > 0.6 else INK
            axes.text(place, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=ink)
    right = float((both["truth"] == both["given"]).mean())
    left_out = f", {adata.n_obs - len(both):,} without" if len(both) < adata.n_obs else ""
    dress(axes, f"{right:.1%} of {len(both):,} cells are right{left_out}")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{name}  {count:,}" for name, count in table.sum(axis=1).items()], fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    name_axes(axes, key, truth)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("share of the row's cells", fontsize=8, color=MUTED)
    bar.outline.set_edgecolor(FAINT)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    return axes
