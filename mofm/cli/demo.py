"""`mofm demo`: the main job on data that comes with the package."""

from pathlib import Path

from mofm.cli.options import add_verb


def add(verbs) -> None:
    """Adds `mofm demo`."""
    verb = add_verb(
        verbs,
        "demo",
        run,
        "The main job, end to end, on data that comes with the package: simulate, ingest, pretrain, embed, report.",
        "About five minutes on two CPU cores. Run it again after a kill: it goes on where it was.",
    )
    verb.add_argument(
        "--workdir", type=Path, default=Path("runs/demo"), help="where data, run and report go (default: runs/demo)"
    )
    verb.add_argument("--steps", type=int, help="training steps (default: what configs/demo.py says)")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.demo import demo

    page = demo(args.workdir, args.steps)
    print(f"report: {page}")
    return 0
