"""How a run went: its losses against the mean predictor."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from mofm.errors import InputError, nearest_name
from mofm.evaluation.figures import draw_loss, loss_panels
from mofm.evaluation.report import read_metrics
from mofm.pl.paper import axes_for_each, is_path, name_axes, one_or_all


def history(
    run: str | Path | pd.DataFrame, loss: str | Sequence[str] | None = None, *, ax: Axes | None = None
) -> Axes | list[Axes]:
    """Negative log-likelihood of hidden counts over a run's steps: training, faint as it was logged and as a running mean;
    held-out cells; and the mean predictor, which knows each feature's rate and nothing of the cell.

    Args:
      run: a run's folder, its metrics.jsonl, or the table of that.
      loss: as "rna/token_nll" (predicted from their tokens) or "rna_to_adt/cell_nll" (one omics type predicted from the cell
        embedding of another); several give a list of Axes; None for the first.

    Raises:
      InputError: no metrics there, or no such loss.
    """
    if is_path(run):
        run = Path(run)
        run = read_metrics(run / "metrics.jsonl" if run.is_dir() else run)
    panels = {panel.name: panel for panel in loss_panels(run)}
    asked = next(iter(panels)) if loss is None else loss
    names = [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in panels:
            raise InputError(f"no loss {name!r}; the run has {', '.join(panels)}.{nearest_name(name, panels)}")
    drawn = axes_for_each(names, ax, 6.2, 3.4)
    for axes, name in zip(drawn, names, strict=True):
        draw_loss(axes, run, panels[name])
        name_axes(axes, "step")
    return one_or_all(drawn, asked)
