"""`mofm finetune`: a trained model and a corpus to a model of that corpus."""

import argparse
import sys
from functools import partial
from pathlib import Path

from mofm.cli.options import add_model_argument, add_step_option, add_verb
from mofm.cli.train import add_run_options, run_to_its_end


def add(verbs) -> None:
    """Adds `mofm finetune`."""
    verb = add_verb(
        verbs,
        "finetune",
        run,
        "Train a pretrained model further on a corpus of one's own; the same command resumes a stopped run.",
        "The encoder, translator and network are MODEL's. Genes are matched by their ids; those that MODEL does not know\n"
        "begin as average genes. WORKDIR is then a run as any other: its step 0 is MODEL, and verbs take the step of lowest\n"
        "held-out loss. The corpus may be paired or not; it can lack modalities of MODEL, and have none that MODEL never saw.\n"
        "  mofm finetune blood-v1 --config finetune --config.data.corpus=corpus/ --workdir runs/mine\n"
        "With --task it ends with a head that tells a column of obs, cell types, disease states or any other, and --tune says\n"
        "what that may move. Labels of new donors are told as well as the held-out ones were, if donors were held out:\n"
        "  mofm finetune blood-v1 ... --task annotation:disease --tune lora --config.data.holdout_fraction=0 \\\n"
        "    --config.data.holdout_groups=\"{'donor': ['d3', 'd7']}\"",
    )
    add_model_argument(verb)
    add_step_option(verb)
    verb.add_argument(
        "--task",
        type=_task,
        metavar="annotation:COLUMN",
        help="then fit a head that tells this column of the corpus's obs, such as cell_type or disease, from the embeddings of "
        "the best step; calibrated on the held-out cells, for `mofm annotate` (default: no head)",
    )
    verb.add_argument(
        "--tune",
        choices=TUNE,
        default=UNSUPERVISED,
        help="with --task, what moves the encoder. probe: nothing, the head is fitted on MODEL as it is. unsupervised: its own "
        "objectives, as without --task. lora: labels too, through adapters of low rank (adapters.rank) beside the frozen "
        "matrices. full: labels too, all parameters. objectives.supervised_weight is what labels weigh beside the others "
        "(default: %(default)s)",
    )
    add_run_options(verb, "a config file, or the name of one that comes with mofm, such as finetune")


PROBE, UNSUPERVISED, LORA, FULL = TUNE = ("probe", "unsupervised", "lora", "full")


def _task(text: str) -> str:
    """The column that an annotation task names."""
    kind, colon, column = text.partition(":")
    if kind != "annotation" or not colon or not column:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no task; annotation:COLUMN is expected, such as annotation:cell_type"
        )
    return column


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    import jax

    from mofm.errors import InputError
    from mofm.export.parts import is_bundle, read_parts
    from mofm.training.config import read_values
    from mofm.training.origin import RANK, finetune_config

    if args.task is None and args.tune != UNSUPERVISED:
        raise InputError(f"--tune {args.tune}: which labels? give --task annotation:COLUMN")
    values = read_values(args.config)
    by_labels = args.tune in (LORA, FULL)
    tune = (args.task if by_labels else None, RANK if args.tune == LORA else 0)

    def begin():
        if jax.process_count() > 1 and not str(args.model).startswith("hf:") and not is_bundle(Path(args.model)):
            raise InputError(
                f"{args.model}: is a run, which several processes cannot read at once; `mofm export` it, and give the bundle"
            )
        origin = read_parts(args.model, args.step).origin()
        config = finetune_config(values, args.overrides, origin, *tune)
        if args.task is not None:
            _check_labels(config, args.task)
        if not args.quiet:
            print(f"from {origin.name}, step {origin.step}", file=sys.stderr)
        return config, origin

    def then(config):
        if args.task is not None and jax.process_index() == 0:
            _fit_heads(args, config)

    heads = partial(_first_heads, args) if by_labels else None
    return run_to_its_end(args, begin, then, frozen=args.tune == PROBE, heads=heads)


def _check_labels(config, column: str) -> None:
    """Labels that cannot be learned are told before anything is trained."""
    import numpy as np

    from mofm.batches.stream import Stream
    from mofm.corpus.store import open_corpus
    from mofm.inference.head import check_labels, read_labels

    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged)
    numbers = read_labels(corpus, column)
    is_heldout = np.isin(np.arange(corpus.n_cells), Stream(corpus, config.data, config.seed).heldout_cells())
    check_labels(numbers.number_N, is_heldout)


def _heads_of(model, args, config):
    """Heads that tell the task from a model's embeddings."""
    from mofm.batches.stream import Stream
    from mofm.corpus.store import open_corpus
    from mofm.inference.head import fit_heads

    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged)
    heldout = Stream(corpus, config.data, config.seed).heldout_cells()
    return fit_heads(model, corpus, args.task, heldout, args.quiet)


def _first_heads(args, config) -> dict:
    """What labels begin to move the encoder from: the heads of MODEL as it is."""
    from mofm.inference.model import load
    from mofm.training.tuning import KnownHead

    heads = _heads_of(load(args.model, step=args.step), args, config)
    return {name: KnownHead(head.labels, head.weight_EC, head.bias_C) for name, head in heads.of.items()}


def _fit_heads(args, config) -> None:
    """Fits the heads of the run's best step, and writes them beside it."""
    from mofm.export.heads import save_heads
    from mofm.inference.model import load

    heads = _heads_of(load(args.workdir), args, config)
    save_heads(args.workdir, heads)
    for modality, head in heads.of.items():
        said = head.figures
        lines = [
            f"{args.task} from {modality}, step {heads.step}: {len(head.labels)} labels",
            f"{said['heldout_cells']:,} cells held out",
            f"{said['accuracy']:.1%} right, mean recall {said['mean_recall']:.1%}, calibration error "
            f"{said['calibration_error']:.3f}",
            f"{1 - said['kept']:.1%} unknown, of the others {said['accuracy_of_kept']:.1%} right",
        ]
        print(*lines, sep="\n  ", file=sys.stderr)
        if left_out := said["left_out"]:
            print(f"  too few cells to learn: {', '.join(left_out)}", file=sys.stderr)
