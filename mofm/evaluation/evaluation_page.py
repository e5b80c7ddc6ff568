"""An evaluation as a page, its figures, and evaluation.json."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mofm.evaluation import figures
from mofm.evaluation.evaluate import Evaluation
from mofm.evaluation.report import Figure, Table, write_report
from mofm.evaluation.scores import Interval
from mofm.evaluation.tasks.score import KINDS, OURS, Score

FORMAT = "mofm-evaluation-1"
PAGE, RECORD = "report.html", "evaluation.json"
BETTER, WORSE, ALIKE = "better", "worse", "no clear difference"
MAP_CELLS = 5_000
INTERVALS = (
    "Intervals are percentiles of bootstrap draws: of cells, in regulation of TFs. They say how sure a score is on cells "
    "like these, not how another training run, donor or experiment would come out. Where nothing is better, one comparison in "
    "twenty still differs by chance."
)


class Row(NamedTuple):
    """A score, and how far the model's is above it. Fields are the keys of a row in evaluation.json.

    Attributes:
      low, high: ends of the 95% interval.
      difference, difference_low, difference_high: the model's score less this one, of the same draws; None of the model's.
      mofm_is: "better", "worse" or "no clear difference" by that interval; None of the model's.
    """

    task: str
    of: str
    metric: str
    method: str
    kind: str
    value: float
    low: float
    high: float
    lower_is_better: bool
    cells: int
    features: int | None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    mofm_is: str | None = None


def rows_of(found: Evaluation) -> list[Row]:
    """A row for every score."""
    return [row for task, judged in found.judged.items() for row in _rows(task, judged.scores)]


def _rows(task: str, scores: list[Score]) -> list[Row]:
    """The rows of a task, those of one metric together."""
    ours = {(score.of, score.metric): score.estimate for score in scores if score.method == OURS}
    order = list(dict.fromkeys((score.of, score.metric) for score in scores))
    rows = []
    for one in sorted(scores, key=lambda score: order.index((score.of, score.metric))):
        row = Row(
            task,
            one.of,
            one.metric,
            one.method,
            one.kind,
            *one.estimate.interval,
            one.lower_is_better,
            one.cells,
            one.features,
        )
        if one.method != OURS and (one.of, one.metric) in ours:
            difference = ours[one.of, one.metric].minus(one.estimate).interval
            row = row._replace(
                difference=difference.value,
                difference_low=difference.low,
                difference_high=difference.high,
                mofm_is=_verdict(difference, one.lower_is_better),
            )
        rows.append(row)
    return rows


def _verdict(difference: Interval, lower_is_better: bool) -> str | None:
    if not np.isfinite(difference).all():
        return None
    if not (difference.low > 0 or difference.high < 0):
        return ALIKE
    return BETTER if (difference.low > 0) != lower_is_better else WORSE


def record_of(found: Evaluation) -> dict[str, Any]:
    """What evaluation.json holds: plain values, no time and no place of output, so that a repetition gives the same bytes."""
    rows, judged = rows_of(found), found.subject.cells.fold_N >= 0
    return _finite(
        {
            "format": FORMAT,
            **found.about,
            "seen_in_training": {"said": found.seen.in_words(judged), "cells": found.seen.counts(judged)},
            "notes": found.notes,
            "tasks": {
                task: {
                    "notes": of_task.notes,
                    "rows": [
                        {k: v for k, v in row._asdict().items() if k != "task"} for row in rows if row.task == task
                    ],
                }
                for task, of_task in found.judged.items()
            },
            "skipped": found.skipped,
        }
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def headlines(found: Evaluation) -> list[str]:
    """A sentence for each task: how often the model is better than the linear baselines, and how often it is not."""
    lines = []
    rows = rows_of(found)
    for task in found.judged:
        linear = [row for row in rows if row.task == task and row.kind == "linear"]
        against = [row.mofm_is for row in linear if row.mofm_is]
        if not against:
            is_judged = any(math.isfinite(row.value) for row in linear)
            said = (
                "its figures have no intervals, and no difference is claimed by them"
                if is_judged
                else "nothing could be judged"
            )
            lines.append(f"{task}: {said}.")
            continue
        count = {word: against.count(word) for word in (BETTER, ALIKE, WORSE)}
        lines.append(
            f"{task}: of {len(against)} comparisons with linear baselines mofm is better in {count[BETTER]}, not clearly "
            f"different in {count[ALIKE]}, worse in {count[WORSE]}."
        )
    return lines


def write_evaluation(found: Evaluation, out: Path, command: str) -> Path:
    """Write report.html, evaluation.json and the figures into `out`; returns the path of the page.

    Raises:
      InputError: `out` cannot be written.
    """
    return write_report(
        out,
        title=f"{found.about['model']['name']} on {Path(found.about['data']['path']).name}",
        lead=" ".join(_capital(line) for line in headlines(found)),
        facts=_facts(found),
        figures=[*_score_figures(found), *_maps(found)],
        tables=[*_score_tables(found), _notes_table(found)],
        command=command,
        page=PAGE,
        record=(RECORD, record_of(found)),
    )


def _capital(line: str) -> str:
    return line[:1].upper() + line[1:]


def _facts(found: Evaluation) -> dict[str, object]:
    about, cells, settings = found.about, found.subject.cells, found.subject.settings
    judged = int(np.sum(cells.fold_N >= 0))
    facts = {
        "model": f"{about['model']['name']}, step {about['model']['step']:,}",
        "data": Path(about["data"]["path"]).name,
        "BLAKE3 of the data": (about["data"]["blake3"] or "-")[:16],
        "cells judged": judged,
        "modalities": ", ".join(found.subject.views),
        "split": f"{settings.split}, {len(cells.folds)} fold{'s' if len(cells.folds) > 1 else ''}",
        "bootstrap draws": settings.bootstrap,
        "seed": settings.seed,
    }
    for modality, view in found.subject.views.items():
        facts[f"{modality} counts that the model knows"] = f"{view.report['share_of_counts_known']:.1%}"
    counts = found.seen.counts(cells.fold_N >= 0)
    return facts | (
        {"cells seen in training": "not known"} if counts is None else {f"cells {k}": v for k, v in counts.items()}
    )


def _score_tables(found: Evaluation) -> list[Table]:
    tables = []
    for task, judged in found.judged.items():
        rows = _rows(task, judged.scores)
        frame = pd.DataFrame(
            {
                "of": [row.of for row in rows],
                "metric": [f"{row.metric}{' (lower is better)' if row.lower_is_better else ''}" for row in rows],
                "method": [row.method for row in rows],
                "what it is": [KINDS[row.kind] for row in rows],
                "value": [row.value for row in rows],
                "95% low": [row.low for row in rows],
                "95% high": [row.high for row in rows],
                "mofm less it": [row.difference for row in rows],
                "low": [row.difference_low for row in rows],
                "high": [row.difference_high for row in rows],
                "mofm is": [row.mofm_is for row in rows],
                "cells": [row.cells for row in rows],
                **({"features": [row.features for row in rows]} if any(row.features for row in rows) else {}),
            }
        )
        tables.append(
            Table(task, " ".join(judged.notes), frame.astype({"mofm less it": float, "low": float, "high": float}))
        )
    return tables


def _notes_table(found: Evaluation) -> Table:
    lines = [("what is known", line) for line in found.notes]
    lines += [(f"{task}: not judged", why) for task, why in found.skipped.items()]
    return Table("What else is to be known", INTERVALS, pd.DataFrame(lines, columns=["of", "said"]))


def _score_figures(found: Evaluation) -> list[Figure]:
    made = []
    for task, judged in found.judged.items():
        rows = [row for row in _rows(task, judged.scores) if math.isfinite(row.value)]
        for place, of in enumerate(dict.fromkeys(row.of for row in rows)):
            frame = pd.DataFrame([row._asdict() for row in rows if row.of == of])
            frame = frame.rename(columns={"method": "representation"})
            lower = sorted({row.metric for row in rows if row.of == of and row.lower_is_better})
            said = f" Lower is better in {', '.join(lower)}." if lower else ""
            made.append(
                Figure(
                    f"{task}_{place}",
                    f"{_capital(task)}, {of}: mofm beside its baselines.{said}",
                    figures.scores(frame),
                )
            )
    return made


def _maps(found: Evaluation) -> list[Figure]:
    """UMAPs of the embeddings by label and batch, where there are labels."""
    cells, settings, made = found.subject.cells, found.subject.settings, []
    keys = {"label": cells.labels, "batch": cells.batches}
    keys = {name: values for name, values in keys.items() if values is not None}
    if not keys or not settings.umap:
        return []
    for modality, view in found.subject.views.items():
        rows = np.flatnonzero(cells.fold_N[view.place_N] >= 0)
        if len(rows) < 4:
            continue
        if len(rows) > MAP_CELLS:
            rows = np.sort(np.random.default_rng([settings.seed, 3]).choice(rows, MAP_CELLS, replace=False))
        obs = pd.DataFrame({name: values[view.place_N[rows]] for name, values in keys.items()})
        drawn = figures.umap(figures.umap_coordinates(view.embedding_NE[rows], settings.seed), obs, list(keys))
        named = {"label": settings.label_key, "batch": settings.batch_key}
        said = " and ".join(f"{name} ({named[name]})" for name in keys)
        made.append(
            Figure(
                f"umap_{modality}",
                f"UMAP of the embedding of {modality}, {len(rows):,} judged cells, by {said}.",
                drawn,
            )
        )
    return made
