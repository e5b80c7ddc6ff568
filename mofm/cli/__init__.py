"""The `mofm` command: one verb for each thing a person does with cells and models, a file for each verb.

Verbs import what they need when they run, so that `mofm --help` answers at once. An `InputError` is one line on stderr
and exit code 2; anything else that goes wrong is ours, and keeps its traceback.
"""

import argparse
import errno
import logging
import os
import sys

import mofm
from mofm.cli import (
    annotate,
    demo,
    embed,
    evaluate,
    export,
    finetune,
    ingest,
    inspect,
    perturb,
    plan,
    regulators,
    serve,
    simulate,
    train,
    translate,
)
from mofm.errors import InputError

EPILOG = """\
a first run, on your own file:
  mofm inspect cells.h5ad
  mofm ingest cells.h5ad corpus/
  mofm train --config small --config.data.corpus=corpus/ --workdir runs/mine
  mofm embed runs/mine cells.h5ad cells_embedded.h5ad
"""


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    args, rest = parser.parse_known_args(argv)
    takes_config = args.verb in ("train", "finetune", "plan")
    for before, word in zip(["", *rest], rest, strict=False):
        if takes_config and word.startswith("--config."):
            continue
        if takes_config and before.startswith("--config.") and "=" not in before:
            parser.error(f"{before} {word}: write {before}={word}, in one word")
        parser.error(f"unknown argument {word!r}; see `mofm {args.verb} --help`")
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # what Orbax logs as an error, with a traceback, it also raises
    args.overrides = [word.removeprefix("--config.") for word in rest]
    try:
        return args.run(args) or 0
    except InputError as error:
        print(f"mofm {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mofm {args.verb}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_disk_full(error):
            raise
        place = next((f"{getattr(args, name)}: " for name in ("workdir", "out", "output") if name in args), "")
        print(f"mofm {args.verb}: {place}the disk is full; free space, and the same command goes on", file=sys.stderr)
        return 2


def _is_disk_full(error: BaseException | None) -> bool:
    """TensorStore and Orbax say it in the text of other errors."""
    full = (errno.ENOSPC, errno.EDQUOT)
    seen = []
    while error is not None and error not in seen:
        if getattr(error, "errno", None) in full or any(os.strerror(number) in str(error) for number in full):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mofm",
        description="Foundation models of single-cell multi-omics data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mofm {mofm.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (
        inspect,
        ingest,
        plan,
        train,
        finetune,
        embed,
        annotate,
        translate,
        regulators,
        perturb,
        evaluate,
        export,
        serve,
        simulate,
        demo,
    ):
        module.add(verbs)
    return parser
