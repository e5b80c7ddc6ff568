"""mofm beside the published methods, in one command and one table: the same cells, the same splits, the same time.

    MOFM_DATA=FOLDER python tests/benchmarks/peers.py [--data simulated citeseq a549] [--file FILE.h5mu --build GRCh38]
        [--tasks translation alignment integration] [--folds 1] [--steps 200] [--seconds N] [--environment DIR] [--json FILE]

An environment of their own is made in --environment where there is none (pip; it takes minutes and some GB). Then, of
cells that no method learned labels, pairs or counts from:

    translation   per feature across cells, where all training cells are paired: mean, ridge, 15-NN, totalVI, MultiVI
    alignment     FOSCTTM and the matching score, where no pairing is known: gene activity, scglue
    integration   batches mixed and types kept apart (simulated alone): PCA, Harmony, scVI

What each is shown stands in `translation_peers.py` and `batches.py`, and how it is called in `peer_methods.py`. The same
time: scvi-tools' models and scglue may train for as long as mofm took in the same task on this machine (--seconds: so long), on
as many threads; Harmony, which has no such limit, takes its own. Who took what is in the JSON, the last line.
"""

import argparse
import json
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import batches
import mudata
import numpy as np
import pandas as pd
import translation
from common import Rows, machine, parser, schedule, show
from translation_models import Models
from translation_peers import Peers
from translation_tasks import METRICS, NAMES, Direction, Embeddings, Task, judge, of_mudata, split, task

PACKAGES = ("scvi-tools==1.4.2", "scglue==0.4.1", "harmonypy==2.1.0", "mudata", "scikit-misc")
LEAST_SECONDS = 60.0
LOWER_IS_BETTER = {"FOSCTTM"}
TASKS = ("translation", "alignment", "integration")
INTEGRATION = ("mixing within types", "types, 15-NN", "types, probe")


class Budget(NamedTuple):
    """Attributes: python, of the peers' environment; steps of mofm; seconds of the peers, None for what mofm took; threads."""

    python: str
    steps: int
    seconds: float | None
    threads: int

    def peers(self, mofm_took: float) -> Peers:
        """The peers, who may train for as long as mofm took."""
        return Peers(self.python, {}, self.threads, self.seconds or max(mofm_took, LEAST_SECONDS))


def main() -> None:
    """Make the environment, run all, and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="*", choices=NAMES, default=list(NAMES))
    arguments.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="of the three above")
    arguments.add_argument("--file", type=Path, nargs="*", default=[], help="h5mu files of paired cells, of your own")
    arguments.add_argument("--build", help="genome build of their regions")
    arguments.add_argument("--folds", type=int, default=1, help="of five; one of the simulated cells")
    arguments.add_argument("--cells", type=int, default=2_000, help="simulated")
    arguments.add_argument("--genes", type=int, default=600, help="simulated")
    arguments.add_argument("--steps", type=int, default=200, help="of mofm")
    arguments.add_argument("--seconds", type=float, help="of a peer's training (default: what mofm took)")
    arguments.add_argument("--threads", type=int, default=2, help="of a peer")
    arguments.add_argument("--environment", type=Path, default=Path("runs/peers"), help="where theirs is, or is made")
    arguments.add_argument("--json", type=Path, help="append each figure to this file, a line each")
    args = arguments.parse_args()
    tasks = [task(name, args.cells, args.genes) for name in args.data]
    tasks += [of_mudata(path.stem, mudata.read_h5mu(path), build=args.build) for path in args.file]
    print(machine(), flush=True)
    budget = Budget(environment(args.environment), args.steps, args.seconds, args.threads)
    rows = Rows(args.json)
    for of in tasks:
        for row in figures_of(of, args, budget):
            rows.keep({"data": of.name} | row)
    show(f"mofm after {args.steps} steps, and others; the best of a row in bold", table(rows))
    print(json.dumps({"benchmark": "peers", "rows": rows}))


def environment(folder: Path) -> str:
    """Its interpreter; made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} for {', '.join(PACKAGES)}", flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return str(python.absolute())


def figures_of(of: Task, args: argparse.Namespace, budget: Budget) -> Iterable[dict]:
    """Every figure of a data set: task, metric, method, value and the seconds that the method took."""
    models = Models(tuple(schedule(args.steps)))
    for fold in range(min(args.folds, of.folds)):
        with tempfile.TemporaryDirectory() as name:
            if "translation" in args.tasks:
                yield from translated(of, fold, models, budget, Path(name))
            if "alignment" in args.tasks:
                yield from aligned(of, fold, models, budget, Path(name))
    if of.name == "simulated" and "integration" in args.tasks:
        with tempfile.TemporaryDirectory() as name:
            yield from integrated(args.steps, budget, Path(name))


def translated(of: Task, fold: int, models: Models, budget: Budget, folder: Path) -> Iterable[dict]:
    """Translation in every direction, all training cells paired."""
    one = split(of, "paired", fold)

    def scores(direction: Direction, predicted_NF: np.ndarray) -> tuple[str, dict[str, float]]:
        source, target = direction
        return f"{source} to {target}", {METRICS[target]: judge(of, one, target, predicted_NF).mean}

    def rows(translate: Callable) -> Iterable[dict]:
        return scored(lambda: translate(of, one, folder), scores)

    yield from in_turn(rows, translation.baseline, models.translate, lambda took: budget.peers(took).translate)


def aligned(of: Task, fold: int, models: Models, budget: Budget, folder: Path) -> Iterable[dict]:
    """Alignment of RNA with chromatin or proteins, no pairing known."""
    if not {"atac", "adt"} & set(of.omics):
        return
    one = split(of, "unpaired", fold)

    def scores(embeddings: Embeddings) -> tuple[str, dict[str, float]]:
        found = translation.alignment(of, one, embeddings)
        return " and ".join(embeddings), {metric: found[metric] for metric in ("FOSCTTM", "matching score")}

    def rows(align: Callable) -> Iterable[dict]:
        return scored(lambda: align(of, one, folder), scores)

    yield from in_turn(rows, translation.gene_activity, models.align, lambda took: budget.peers(took).align)


def in_turn(rows: Callable, simple: Callable, ours: Callable, peers: Callable) -> Iterable[dict]:
    """Rows of what is simple, of mofm, and of the peers, who are given the seconds that mofm took."""
    yield from rows(simple)
    found = list(rows(ours))
    yield from found
    yield from rows(peers(found[0]["seconds"]))


def scored(work: Callable, scores: Callable) -> Iterable[dict]:
    """A row a metric of all that `work` finds: method and what `scores` takes, which gives the task and its metrics."""
    found, seconds = timed(lambda: list(work()))
    for method, *told in found:
        name, values = scores(*told)
        for metric, value in values.items():
            yield {"task": name, "metric": metric, "method": method, "value": value, "seconds": seconds}


def integrated(steps: int, budget: Budget, folder: Path) -> Iterable[dict]:
    """Two batches of simulated RNA."""
    of = batches.task(*batches.simulated())
    (pca,), seconds = timed(lambda: list(batches.components(of)))
    yield from _integrated(of, "PCA", pca[1], seconds)
    run, took = timed(lambda: batches.trained(of, folder, ["data.batch_key=batch"], steps))
    embedding_NE, embedding_took = timed(lambda: batches.embedded(folder, run))
    yield from _integrated(of, "mofm", embedding_NE, took + embedding_took)
    options = {"scvi": ("--seconds", f"{budget.seconds or max(took, LEAST_SECONDS):.0f}")}
    last = time.perf_counter()
    for method, embedding_NE in batches.peers(of, folder, budget.python, options):
        yield from _integrated(of, method, embedding_NE, time.perf_counter() - last)
        last = time.perf_counter()


def _integrated(of: batches.Task, method: str, embedding_NE: np.ndarray, seconds: float) -> Iterable[dict]:
    scores = batches.judge(of, embedding_NE)
    for metric in INTEGRATION:
        yield {"task": "batches", "metric": metric, "method": method, "value": scores[metric], "seconds": seconds}


def timed(work: Callable) -> tuple[object, float]:
    """What it gives, and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def table(rows: list[dict]) -> list[dict[str, str]]:
    """A row a figure and a column a method: means over folds, ± their deviation where there are several."""
    frame, shown = pd.DataFrame(rows), []
    methods = list(dict.fromkeys(frame["method"]))
    for (data, name, metric), some in frame.groupby(["data", "task", "metric"], sort=False):
        values = {method: list(values) for method, values in some.groupby("method")["value"]}
        order = sorted(values, key=lambda method: np.mean(values[method]))
        best = order[0] if metric in LOWER_IS_BETTER else order[-1]
        cells = {method: translation.spread(values.get(method, [])) for method in methods}
        cells[best] = f"**{cells[best]}**"
        shown.append({"data": data, "task": name, "metric": metric} | cells)
    return shown


if __name__ == "__main__":
    main()
