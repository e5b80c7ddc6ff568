"""`mofm train`: a corpus to a model."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mofm.cli.options import add_verb

GROUPS = {
    "data": "mofm/batches/config.py",
    "encoder": "mofm/nn/spec.py",
    "translator": "mofm/nn/translator.py",
    "fusion": "mofm/nn/fusion.py",
    "network": "mofm/training/network.py",
    "grn": "mofm/nn/grn.py",
    "objectives": "mofm/objectives/total.py",
    "adapters": "mofm/training/adapters.py",
    "optimizer": "mofm/training/optimizer.py",
    "run": "mofm/training/config.py",
    "mesh": "mofm/parallel/mesh.py",
}
"""Of the config, and where each has its dataclass; here as text, so that --help need not import JAX."""


def add(verbs) -> None:
    """Adds `mofm train`."""
    verb = add_verb(
        verbs,
        "train",
        run,
        "Pretrain a model on a corpus; the same command resumes a stopped run.",
        "Configs that come with mofm: base, demo, finetune, grn, mosaic, multiome, paper, pod, small, unpaired.\n"
        "Any key is set as --config.GROUP.KEY=VALUE, such as --config.encoder.width=512 (and --config.seed=1). What\n"
        "keys a group has, what they mean and their defaults, is in the file of the group:\n"
        + "".join(f"  {group:<12}{file}\n" for group, file in GROUPS.items())
        + "A key that is not there is refused, with the nearest that is. All keys of a run are in WORKDIR/config.json.\n"
        "SIGTERM and Ctrl-C save and leave; metrics go to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.\n"
        "Exit codes: 0 done, or asked to stop (see --stopped-code); 2 what was given cannot be used; 3 the loss was not\n"
        "finite, or a spike, more often than run.rollbacks; 4 another process of the run was lost; 134 (SIGABRT) the same,\n"
        "where JAX heard it first, from heartbeats that stopped; 5 it hung (run.watchdog_minutes). After 4, 134 and 5 the\n"
        "same command goes on from the last checkpoint.",
    )
    add_run_options(verb, "a config file, or the name of one that comes with mofm, such as small")


def add_run_options(verb, config: str) -> None:
    """What a run is started with; `config` says which config file is meant."""
    verb.add_argument("--config", required=True, type=Path, help=config)
    verb.add_argument("--workdir", required=True, type=Path, help="the run's directory")
    verb.add_argument("--quiet", action="store_true", help="no progress on stderr")
    several = verb.add_argument_group("several processes, each over its own devices, on one host or many")
    several.add_argument(
        "--distributed",
        action="store_true",
        help="find the other processes of the run by what SLURM, Open MPI, the hosts of a TPU or GKE provide",
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="or by this: where the first process listens")
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="which this one is, from 0")
    verb.add_argument(
        "--stopped-code",
        type=int,
        default=0,
        metavar="N",
        help="exit code where it was asked to stop before its last step; schedulers that start failed jobs again want one "
        "above 0 (default: 0)",
    )


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.training.config import load_config

    config = load_config(args.config, args.overrides)
    return run_to_its_end(args, lambda: (config, None))


def run_to_its_end(
    args,
    begin: Callable,
    then: Callable = lambda config: None,
    *,
    frozen: bool = False,
    heads: Callable | None = None,
    batch_axes: Callable | None = None,
) -> int:
    """Joins the processes of a run, and trains; returns the exit code.

    Args:
      begin: gives the config, and the model that the run begins from or None; called once the processes are joined.
      then: called with the config where the run has ended, and was not stopped.
      frozen: take no step (see `training.loop.train`).
      heads: called with the config, makes the heads that a run begins from whose labels move the encoder.
      batch_axes: called with the config, finds the directions of the embedding that a run begins without.
    """
    import jax

    from mofm.parallel.processes import Processes, lost_another, start
    from mofm.training.loop import DivergedError, train
    from mofm.training.patience import HELDOUT, deciding, is_spent, read_losses

    start(Processes(args.distributed, args.coordinator, args.processes, args.process))
    config, origin = begin()
    try:
        heads, batch_axes = (make and partial(make, config) for make in (heads, batch_axes))
        options = {"quiet": args.quiet, "origin": origin, "frozen": frozen}
        step = train(config, args.workdir, **options, heads=heads, batch_axes=batch_axes)
    except DivergedError as error:
        print(f"mofm {args.verb}: {error}", file=sys.stderr)
        return 3
    except jax.errors.JaxRuntimeError as error:
        if not lost_another(error):
            raise
        print(
            f"mofm {args.verb}: another process of the run was lost ({str(error).splitlines()[0]}); the same command on all "
            "of them goes on from the last checkpoint",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(4)  # the usual way out would wait for the lost process to leave too
    reached = f"trained {step} steps"
    figure = deciding(config.objectives)
    if is_spent(losses := read_losses(args.workdir, step, figure), config.run.patience):
        best = min(losses, key=lambda one: (losses[one], one))
        of_what = "the held-out loss" if figure == HELDOUT else "that of held-out labels"
        reached += f", {of_what} was lowest at step {best}, which verbs take"
    elif step < config.run.steps and not frozen:
        print(f"stopped at step {step} of {config.run.steps} and saved; the same command goes on", file=sys.stderr)
        return args.stopped_code
    then(config)
    print(f"{reached}; next: mofm embed {args.workdir} IN.h5ad OUT.h5ad", file=sys.stderr)
    return 0
