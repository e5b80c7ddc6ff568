"""The figures of a report: small multiples, labels on the lines themselves, colours that colour-blind eyes distinguish.

Every function returns a `matplotlib.figure.Figure` made without pyplot: no global state, no window, nothing to close,
safe in threads and on machines without a display. They are drawn at `DPI` on white.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mofm.errors import InputError

DPI = 160
INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"
ACCENT, SECOND = "#0072B2", "#D55E00"
PALETTE = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Ten colours by Petroff (2021, arXiv 2107.02270), chosen by colour-vision models; beyond ten, scanpy's palettes."""
LOSSES = {"token_nll": "Hidden counts from their tokens", "cell_nll": "Hidden counts from the cell embedding"}
PACE = {"cells_per_s": "Cells per second", "learning_rate": "Learning rate"}


def loss_curves(metrics: pd.DataFrame) -> Figure:
    """Training and held-out negative log-likelihood against the mean predictor, and the pace below.

    Args:
      metrics: as `report.read_metrics` gives it: "step", and any of "train/X", "heldout/X" for the losses X of `LOSSES`
        (or "train/rna/X": a panel a modality), "heldout/null_nll", "cells_per_s", "learning_rate" (with or without
        "train/"). What is absent is not drawn. Training is drawn as logged, faint, and as its running mean.

    Raises:
      InputError: there is no loss to draw.
    """
    panels = loss_panels(metrics)
    paces = [(name, title) for name, title in PACE.items() if _column(metrics, name) is not None]
    width = max(len(panels), len(paces))
    figure = _blank(4.6 * width, 3.3 + (1.6 if paces else 0))
    grid = figure.add_gridspec(2 if paces else 1, width * 2, height_ratios=(3.2, 1.3) if paces else None)
    for position, panel in enumerate(panels):
        draw_loss(figure.add_subplot(grid[0, _span(position, len(panels), width)]), metrics, panel)
    for position, (name, title) in enumerate(paces):
        axes = figure.add_subplot(grid[1, _span(position, len(paces), width)])
        steps, values = _series(metrics, _column(metrics, name))
        axes.plot(steps, values, color=MUTED, linewidth=1.2)
        axes.set_ylim(0, max(np.max(values) * 1.1, 1e-12))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        dress(axes, title)
        axes.set_xlabel("step", fontsize=9, color=MUTED)
    return figure


def umap(coords_N2: np.ndarray, obs: pd.DataFrame, keys: Sequence[str], seed: int = 0) -> Figure:
    """The same points once for each key: categories with a legend outside that counts cells, numbers with a colour bar.

    Args:
      coords_N2: coordinates, a row a row of `obs`.
      obs: the cells' annotations. Cells whose value is missing are drawn grey, beneath, and counted in the legend.
      keys: columns of `obs`, a panel each, two side by side.
      seed: of the order in which points are drawn, so that no category always lies on top.

    Raises:
      InputError: a key that `obs` lacks, or coordinates that do not fit.
    """
    coords_N2 = np.asarray(coords_N2)
    if coords_N2.shape != (len(obs), 2):
        raise InputError(f"coordinates of shape {coords_N2.shape} do not fit {len(obs)} cells: give two a cell")
    if missing := [key for key in keys if key not in obs]:
        raise InputError(f"obs has no column {missing[0]!r}; it has {', '.join(map(str, obs.columns))}")
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure = _blank(5.6 * columns, 3.7 * rows)
    order_N = np.random.default_rng(seed).permutation(len(obs))
    for axes, key in zip(figure.subplots(rows, columns, squeeze=False).flat, keys, strict=False):
        draw_points(axes, coords_N2[order_N], obs[key].iloc[order_N], key)
    for axes in figure.axes[len(keys) : rows * columns]:
        axes.remove()
    return figure


def scores(table: pd.DataFrame, highlight: str = "mofm", whiskers: str = "95% bootstrap interval") -> Figure:
    """A dot plot: a panel a metric, a row a representation, its value written above the dot, whiskers its interval.

    Args:
      table: columns representation, metric, value, low, high, as `Readout.rows` gives them; a (representation, metric)
        once. Rows and panels keep the order of first appearance. low and high may be NaN: no whiskers.
      highlight: representations whose name starts with this are drawn in colour.
      whiskers: what low and high are, said below.
    """
    names, metrics = (list(dict.fromkeys(table[column])) for column in ("representation", "metric"))
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = _blank(4.4 * columns + 0.8, (0.95 + 0.36 * len(names)) * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for position, (axes, metric) in enumerate(zip(grid, metrics, strict=False)):
        _score_panel(axes, table[table["metric"] == metric].set_index("representation"), names, highlight)
        dress(axes, metric)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.set_yticks(range(len(names)), names if position % columns == 0 else [""] * len(names))
        for label in axes.get_yticklabels():
            label.set_color(ACCENT if label.get_text().startswith(highlight) else INK)
    for axes in figure.axes[len(metrics) :]:
        axes.remove()
    said = f"dots: score; whiskers: {whiskers}" if table["low"].notna().any() else "dots: score"
    figure.supxlabel(said, fontsize=8, color=MUTED)
    return figure


def umap_coordinates(X_ND: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP of the embedding through scanpy (15 neighbours, Euclidean): float32, N x 2, the same for the same seed.

    Distances between far groups and the sizes of groups mean little in it: a figure to look at, not to measure on.
    """
    X_ND = np.ascontiguousarray(X_ND, dtype=np.float32)
    if X_ND.ndim != 2 or len(X_ND) < 4:
        raise InputError(f"UMAP needs at least 4 cells x columns; the embedding has shape {X_ND.shape}")
    cells = ad.AnnData(X_ND)
    sc.pp.neighbors(cells, n_neighbors=min(15, len(X_ND) - 1), use_rep="X", random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], np.float32)


def _blank(width: float, height: float) -> Figure:
    """An empty figure of this many inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
    return figure


def dress(axes: Axes, title: str) -> None:
    """The house's look: a title at the left, two spines, quiet ticks."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=8, length=3)


def _span(position: int, panels: int, width: int) -> slice:
    """Columns of a grid of 2 x width that a panel fills: a lone panel beside a fuller row takes the whole row."""
    share = 2 * width // panels
    return slice(position * share, (position + 1) * share)


def _column(metrics: pd.DataFrame, name: str) -> str | None:
    return next((column for column in (name, f"train/{name}") if column in metrics), None)


def _series(metrics: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    kept = metrics[["step", column]].dropna()
    return kept["step"].to_numpy(), kept[column].to_numpy(float)


class LossPanel(NamedTuple):
    """One loss of one modality, or of one translation.

    Attributes:
      name: of its columns behind "train/" and "heldout/", as "rna/cell_nll".
      title: for people.
      train, heldout, null: columns of the metrics; None where absent.
    """

    name: str
    title: str
    train: str | None
    heldout: str | None
    null: str | None


def loss_panels(metrics: pd.DataFrame) -> list[LossPanel]:
    """The losses that metrics hold.

    Raises:
      InputError: there is none.
    """
    panels = []
    for ending, title in LOSSES.items():
        sides = {column.removesuffix(ending).split("/", 1)[-1] for column in metrics if column.endswith(f"/{ending}")}
        for modality in sorted(sides):
            wanted = (f"train/{modality}{ending}", f"heldout/{modality}{ending}", f"heldout/{modality}null_nll")
            present = (column if column in metrics else None for column in wanted)
            named = f"{title} ({modality[:-1]})" if modality else title
            panels.append(LossPanel(f"{modality}{ending}", named, *present))
    if not panels:
        raise InputError("the metrics hold no token_nll and no cell_nll: there is no loss to draw")
    return panels


def draw_loss(axes: Axes, metrics: pd.DataFrame, panel: LossPanel) -> None:
    """Training as logged, faint, and its running mean; held-out cells; the level of the mean predictor."""
    labels = []
    if panel.train is not None:
        steps, values = _series(metrics, panel.train)
        window = max(1, len(values) // 25) | 1
        smooth = pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()
        axes.plot(steps, values, color=ACCENT, alpha=0.22, linewidth=0.8)
        axes.plot(steps, smooth, color=ACCENT, linewidth=1.6)
        labels.append((smooth[-1], "training", ACCENT))
    if panel.heldout is not None:
        steps, values = _series(metrics, panel.heldout)
        axes.plot(steps, values, color=SECOND, linewidth=1.6, marker="o", markersize=3.5, markeredgewidth=0)
        labels.append((values[-1], f"held out {values[-1]:.3f}", SECOND))
    if panel.null is not None:
        level = float(_series(metrics, panel.null)[1][-1])
        axes.axhline(level, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        labels.append((level, f"mean predictor {level:.3f}", MUTED))
    axes.margins(x=0.02, y=0.08)
    _label_ends(axes, labels)
    dress(axes, panel.title)
    axes.set_ylabel("nats per hidden count", fontsize=9, color=MUTED)


def _label_ends(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Names at the right end of their lines, pushed apart where the lines end together."""
    low, high = axes.get_ylim()
    gap, placed = 0.075, -np.inf
    for value, text, colour in sorted(labels):
        placed = max((value - low) / (high - low), placed + gap)
        axes.annotate(
            text,
            (1.01, placed),
            xycoords="axes fraction",
            color=colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )


def draw_points(
    axes: Axes, coords_N2: np.ndarray, values: pd.Series, key: str, palette: Mapping[str, str] | None = None
) -> None:
    """Cells by a category, with a legend that counts them, or by a number, with a colour bar; see `umap`.

    Args:
      palette: the colour of each category; None for our own.
    """
    size = float(np.clip(9000 / max(len(values), 1), 0.4, 12))
    known = values.notna().to_numpy()
    style = {"s": size, "linewidths": 0, "rasterized": True}
    axes.scatter(*coords_N2[~known].T, color=FAINT, **style)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric:
        points = axes.scatter(*coords_N2[known].T, c=values[known].to_numpy(float), cmap="viridis", **style)
        bar = axes.figure.colorbar(points, cax=axes.inset_axes((1.04, 0.25, 0.035, 0.5)))
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=MUTED, length=2)
    else:
        names = values[known].astype(str).to_numpy()
        kinds, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
        colours = np.asarray(_colours(len(kinds)) if palette is None else [palette[kind] for kind in kinds])
        axes.scatter(*coords_N2[known].T, color=colours[codes] if len(codes) else None, **style)
        entries = [(f"{kind}  {count:,}", colour) for kind, count, colour in zip(kinds, counts, colours, strict=True)]
        entries += [(f"unlabelled  {np.sum(~known):,}", FAINT)] if not known.all() else []
        _legend(axes, entries)
    dress(axes, str(key))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xticks=[], yticks=[], box_aspect=0.9)


def _colours(count: int) -> Sequence[str]:
    if count <= len(PALETTE):
        return PALETTE[:count]
    larger = next((p for p in (sc.pl.palettes.default_20, sc.pl.palettes.default_28) if count <= len(p)), None)
    larger = larger or sc.pl.palettes.default_102
    return [larger[position % len(larger)] for position in range(count)]


def _legend(axes: Axes, entries: list[tuple[str, str]]) -> None:
    marks = [
        Line2D([], [], linestyle="", marker="o", markersize=5, color=colour, markeredgewidth=0) for _, colour in entries
    ]
    axes.legend(
        marks,
        [name for name, _ in entries],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=-(-len(entries) // 18),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handletextpad=0.2,
        labelspacing=0.45,
        columnspacing=1.0,
    )


def _score_panel(axes: Axes, table: pd.DataFrame, names: list[str], highlight: str) -> None:
    for row, name in enumerate(names):
        axes.axhline(row, color=FAINT, linewidth=0.7, zorder=0)
        if name not in table.index:
            continue
        value, low, high = (float(table.at[name, column]) for column in ("value", "low", "high"))
        colour = ACCENT if name.startswith(highlight) else MUTED
        axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="round", alpha=0.55)
        axes.plot(value, row, marker="o", markersize=6.5, color=colour, markeredgecolor="white", markeredgewidth=0.8)
        axes.annotate(
            f"{value:.3f}", (value, row), (0, 6), textcoords="offset points", ha="center", fontsize=7.5, color=colour
        )
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
