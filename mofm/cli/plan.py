"""`mofm plan`: what a config takes on hardware that one does not have."""

import json
import sys
from pathlib import Path

from mofm.cli.options import add_verb
from mofm.errors import InputError


def add(verbs) -> None:
    """Adds `mofm plan`."""
    verb = add_verb(
        verbs,
        "plan",
        run,
        "Say whether a config fits on TPUs or GPUs that are not there, and how long it would take.",
        "For TPUs the train step is compiled by XLA:TPU itself (extra `tpu`; no TPU is needed): minutes for a large model.\n"
        "For GPUs it is an estimate by arithmetic, and says so. Neither runs anything. Exit code 1: it does not fit.\n"
        "Any key of the config is set as --config.GROUP.KEY=VALUE. The corpus need not be there.",
    )
    verb.add_argument(
        "--config", required=True, type=Path, help="a config file, or the name of one that comes with mofm, such as pod"
    )
    verb.add_argument("--topology", required=True, help='"v5e:16x16", "v5p:2x2x4", "v6e:4x4", "h100:8", "a100:16", ...')
    verb.add_argument(
        "--slices",
        type=_count,
        default=1,
        metavar="N",
        help="so many such TPU slices, joined by the data axis (default: 1)",
    )
    verb.add_argument(
        "--cells", type=_count, metavar="N", help="estimate the days for so many cells (default: run.steps)"
    )
    verb.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="MODALITY=N",
        help="without the corpus: what it has, as rna=20000 atac=200000 (default: rna=20000)",
    )
    verb.add_argument(
        "--edges", type=_count, metavar="N", help="edges of all regulatory networks (default: 40,000 each)"
    )
    verb.add_argument(
        "--no-search", action="store_true", help="where it does not fit, do not look for the nearest that does"
    )
    verb.add_argument("--json", action="store_true", help="for programs")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    import jax

    from mofm.planning.chips import parse_topology
    from mofm.planning.nearest import as_options, nearest_fit
    from mofm.planning.plan import Planner
    from mofm.planning.report import as_json, as_text
    from mofm.planning.shapes import NO_CORPUS
    from mofm.training.config import load_config

    topology = parse_topology(args.topology, args.slices)
    config = load_config(args.config, args.overrides, corpus=NO_CORPUS)
    jax.config.update("jax_platforms", "cpu")  # a TPU or GPU that is here is left to who uses it
    planner = Planner(topology, _features(args.features), args.edges)
    if topology.chip.maker == "tpu":
        print(f"compiling the train step for {topology.devices:,} x {topology.chip.title}; minutes", file=sys.stderr)
    plan = planner.plan(config)
    nearest = None
    if not plan.fits and not args.no_search:
        print(f"it does not fit {topology.title}; trying less", file=sys.stderr)
        nearest = nearest_fit(planner, config, plan, say=lambda line: print(f"  {line}", file=sys.stderr))
    if args.json:
        print(json.dumps(as_json(plan, nearest), indent=2))
        return 0 if plan.fits else 1
    print(as_text(plan, topology.chip, config.run.steps, args.cells))
    if nearest:
        print(f"\nthe nearest that fits: {as_options(nearest.changes)}\n")
        print(as_text(nearest.plan, topology.chip, config.run.steps, args.cells))
    elif not plan.fits and not args.no_search:
        print("\nno config near it was found to fit: take a smaller encoder, fewer tokens, or a larger topology")
    return 0 if plan.fits else 1


def _count(text: str) -> int:
    count = int(text.replace("_", "").replace(",", ""))
    if count < 1:
        raise ValueError(text)
    return count


def _features(words: list[str]) -> dict[str, int]:
    """modality -> features."""
    found = {}
    for word in words:
        name, equals, count = word.partition("=")
        if not equals or not count.replace("_", "").isdigit():
            raise InputError(f"--features {word}: write MODALITY=N, such as atac=200000")
        found[name] = int(count)
    return found
