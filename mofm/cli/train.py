"""`mofm train`: a corpus to a model."""

import sys
from pathlib import Path

from mofm.cli.options import add_verb


def add(verbs) -> None:
    """Adds `mofm train`."""
    verb = add_verb(
        verbs,
        "train",
        run,
        "Pretrain a model on a corpus; the same command resumes a stopped run.",
        "Any key of the config is set as --config.GROUP.KEY=VALUE, such as --config.encoder.width=512.\n"
        "SIGTERM and Ctrl-C save and leave; metrics go to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.",
    )
    verb.add_argument("--config", required=True, type=Path, help="a config file, such as configs/small.py")
    verb.add_argument("--workdir", required=True, type=Path, help="the run's directory")
    verb.add_argument("--quiet", action="store_true", help="no progress on stderr")
    verb.add_argument(
        "--stopped-code",
        type=int,
        default=0,
        metavar="N",
        help="exit code where it was told to stop before its last step; schedulers that start failed jobs again want one "
        "above 0 (default: 0)",
    )


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.training.config import load_config
    from mofm.training.loop import DivergedError, train

    config = load_config(args.config, args.overrides)
    try:
        step = train(config, args.workdir, quiet=args.quiet)
    except DivergedError as error:
        print(f"mofm train: {error}", file=sys.stderr)
        return 3
    if step < config.run.steps:
        print(f"stopped at step {step} of {config.run.steps} and saved; the same command goes on", file=sys.stderr)
        return args.stopped_code
    print(f"trained {step} steps; next: mofm embed {args.workdir} IN.h5ad OUT.h5ad", file=sys.stderr)
    return 0
