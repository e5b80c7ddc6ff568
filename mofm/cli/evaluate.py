"""`mofm evaluate`: a model and a file to what the model is worth on it."""

import argparse
import math
import os
import shlex
import sys
from pathlib import Path

from mofm.cli.options import (
    add_cells_options,
    add_input_argument,
    add_model_argument,
    add_verb,
    cells_arguments,
    check_free,
)
from mofm.errors import InputError

DETAILS = """\
Every score stands beside trivial and linear baselines that are fitted to DATA, on the same cells, with 95% bootstrap
intervals of it and of the difference (but those of scib). OUT is a folder: report.html, one page that needs nothing beside it;
evaluation.json with every number, the versions, the settings and the checksum of DATA; and the figures. The same command gives
the same numbers. The report says which of the cells the model's training saw, where its corpus is still there.

  integration   are cells of a label together, and batches mixed among them?   beside PCA and noise; needs --label-key
  scib          the same by scIB's measures, without intervals: what papers compare; needs --label-key, pip install 'mofm[scib]'
  annotation    do labels read off cells that the reader never saw?   beside PCA and the majority; needs --label-key
  translation   is one omics type predicted from another, feature by feature across cells?   beside ridge, 15-NN and the mean
  matching      do the two views of a cell find each other, do modalities mix?   beside gene activity, ridge on pairs, chance
  regulation    are edges found that training was not shown?   beside degrees, correlation and regulons; needs --network
  perturbation  is a held-out label's (or group's of --split) response predicted from the others'?   beside no change, the mean
                change and ridge; needs --condition-key, --control, and --label-key or a --split of groups

examples:
  mofm evaluate runs/mine cells.h5ad --label-key cell_type --out report/
  mofm evaluate runs/mine cells.h5ad --label-key cell_type --batch-key donor --split donor --out report/
  mofm evaluate runs/mine cells.h5ad --label-key cell_type --compare scVI=X_scVI Harmony=X_pca_harmony --out report/
  mofm evaluate runs/mosaic multiome.h5mu --tasks translation,matching --split unseen --out report/
  mofm evaluate runs/grn cells.h5ad --tasks regulation --network collectri.tsv --out report/
  mofm evaluate runs/mine cells.h5ad --label-key cell_type --condition-key condition --control ctrl --out report/
"""


def add(verbs) -> None:
    """Adds `mofm evaluate`."""
    summary = "Measure a model on your cells, beside trivial and linear baselines, with confidence intervals."
    verb = add_verb(verbs, "evaluate", run, summary, DETAILS)
    add_model_argument(verb)
    add_input_argument(verb, metavar="DATA")
    verb.add_argument("--out", type=Path, required=True, metavar="OUT", help="the folder to write")
    verb.add_argument(
        "--tasks", metavar="A,B", help="the tasks, with commas between (default: all that DATA and MODEL allow)"
    )
    verb.add_argument("--label-key", metavar="COLUMN", help="the column of obs that says what a cell is, as cell_type")
    verb.add_argument("--batch-key", metavar="COLUMN", help="the column of obs with a cell's technical batch")
    verb.add_argument(
        "--split",
        default="cell",
        metavar="cell|unseen|COLUMN",
        help="what is kept apart from what readers and baselines learn from: cells of each label; the cells that the "
        "model's training never saw; or the groups of an obs column, as donor (default: cell)",
    )
    verb.add_argument("--folds", type=int, default=5, metavar="N", help="folds of cells or groups (default: 5)")
    verb.add_argument("--seed", type=int, default=0, help="of folds, lots and draws (default: 0)")
    verb.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="draws of an interval (default: 1000)")
    verb.add_argument(
        "--compare",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=KEY",
        help="judge obsm[KEY] of DATA, another model's embedding, beside mofm's and call it NAME; in matching, where "
        "each modality has one of its own",
    )
    verb.add_argument("--network", type=Path, metavar="TABLE", help="TF -> target edges that regulation is judged by")
    verb.add_argument(
        "--condition-key", metavar="COLUMN", help="the column of obs that says what was done to a cell, as condition"
    )
    verb.add_argument("--control", metavar="VALUE", help="its value for untreated cells; each other is a treatment")
    verb.add_argument(
        "--corpus", type=Path, metavar="DIR", help="where the model's training corpus lies now (default: where it lay)"
    )
    verb.add_argument(
        "--max-cells", type=int, default=20_000, metavar="N", help="judge at most so many (default: 20000)"
    )
    verb.add_argument(
        "--max-features",
        type=int,
        default=2_000,
        metavar="N",
        help="of a translation or a response, judge the N features measured in most cells, regions nearest to open in half of "
        "them (default: 2000)",
    )
    verb.add_argument("--no-umap", action="store_true", help="leave out the maps, which take long of many cells")
    verb.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_cells_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.evaluation.evaluate import evaluate
    from mofm.evaluation.evaluation_page import PAGE, RECORD, headlines, write_evaluation
    from mofm.evaluation.subject import Settings
    from mofm.inference.model import load

    for name in (PAGE, RECORD):
        check_free(args.out / name, args.overwrite)
    _check_writable(args.out)
    asked = {name: getattr(args, name) for name in (
        "label_key", "batch_key", "split", "folds", "seed", "bootstrap", "network", "condition_key", "control", "corpus",
        "max_cells", "max_features",
    )}  # fmt: skip
    settings = Settings(tasks=_tasks(args.tasks), compare=_compared(args.compare), umap=not args.no_umap, **asked)

    def say(line: str) -> None:
        if not args.quiet:
            print(f"== {line}", file=sys.stderr, flush=True)

    model = load(args.model, step=args.step)
    found = evaluate(model, args.input, settings, say=say, quiet=args.quiet, **cells_arguments(args))
    say("drawing the report")
    page = write_evaluation(found, args.out, _command(args))
    _print(found)
    for line in headlines(found):
        print(line)
    for task, judged in found.judged.items():
        if not judged.scores:
            print("\n".join(f"  {task}: {note}" for note in judged.notes))
    for task, why in found.skipped.items():
        if settings.tasks is None:
            print(f"{task}: not judged: {why}")
    for note in found.notes:
        print(f"  {note}")
    print(f"report: {page}")
    return 0


def _tasks(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))


def _compared(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in given:
        name, equals, key = word.partition("=")
        if not (name and equals and key):
            raise InputError(f"--compare {word}: write NAME=KEY, as scVI=X_scVI, where obsm has the KEY")
        if name in found:
            raise InputError(f"--compare: {name!r} is there twice; give each embedding a name of its own")
        found[name] = key
    return found


def _check_writable(out: Path) -> None:
    """Raises `InputError`, before anything is done, where the report could not be written in the end."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder for the report")
    there = next(place for place in (out, *out.resolve().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{out}: {there} cannot be written to; give another --out")


def _command(args: argparse.Namespace) -> str:
    words = (
        sys.argv[1:]
        if "evaluate" in sys.argv[1:2]
        else ["evaluate", str(args.model), str(args.input), "--out", str(args.out)]
    )
    return shlex.join(["mofm", *words])


def _print(found) -> None:
    from itertools import groupby

    from rich.console import Console
    from rich.table import Table

    from mofm.evaluation.evaluation_page import rows_of
    from mofm.evaluation.report import shown

    console = Console(highlight=False, markup=False)
    for (task, of), rows in groupby(rows_of(found), key=lambda row: (row.task, row.of)):
        table = Table(box=None, pad_edge=False, title=f"{task}, {of}", title_justify="left", title_style="bold")
        for name, justify in (("metric", "left"), ("method", "left"), ("value", "right"), ("95% interval", "left"),
                              ("mofm is", "left")):  # fmt: skip
            table.add_column(name, justify=justify, overflow="fold")
        before = None
        for row in rows:
            metric = row.metric + (" (lower is better)" if row.lower_is_better else "")
            interval = f"{shown(row.low)} to {shown(row.high)}" if math.isfinite(row.low) else ""
            said = "" if metric == before else metric
            table.add_row(said, row.method, shown(row.value), interval, row.mofm_is or "")
            before = metric
        console.print(table)
        console.print()
