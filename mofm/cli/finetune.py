"""`mofm finetune`: a trained model and a corpus to a model of that corpus."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
        "With --task it ends with a head that predicts a column of obs (cell types, disease states, any other); --tune says\n"
        "what that may move. Labels of new donors are predicted as well as the held-out ones were, if donors were held out:\n"
        "  mofm finetune blood-v1 ... --task annotation:disease --tune lora --config.data.holdout_fraction=0 \\\n"
        "    --config.data.holdout_groups=\"{'donor': ['d3', 'd7']}\"\n"
        "--task integration:COLUMN begins without the directions of MODEL's embedding in which batches differ, and --tune\n"
        "probe leaves it at that:\n"
        "  mofm finetune blood-v1 ... --task integration:lane --tune probe\n"
        "--task perturbation:COLUMN ends with what treatments did to each group of cells, for `mofm perturb --response`:\n"
        "  mofm finetune blood-v1 ... --task perturbation:condition --control ctrl --groups cell_type",
    )
    add_model_argument(verb)
    add_step_option(verb)
    verb.add_argument(
        "--task",
        type=_task,
        metavar="annotation:COLUMN|integration:COLUMN|perturbation:COLUMN",
        help="integration: the column of obs says of which technical batch a cell is; begin without the directions of the "
        "embedding in which cells of one kind differ from batch to batch. The others fit a head on the embeddings of the best "
        "step. annotation: that predicts this column of the corpus's obs, as "
        "cell_type or disease; calibrated on the held-out cells, for `mofm annotate`. perturbation: the column says what was "
        "done to a cell; for `mofm perturb --response` (default: no head)",
    )
    verb.add_argument(
        "--control", metavar="VALUE", help="with --task perturbation, the column's value for untreated cells"
    )
    verb.add_argument(
        "--groups",
        metavar="COLUMN",
        help="with --task perturbation, the column of obs that says of which group a cell is, such as cell_type: new cells "
        "respond as the groups that they are like",
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


ANNOTATION, INTEGRATION, PERTURBATION = TASKS = ("annotation", "integration", "perturbation")


class Task(NamedTuple):
    """Attributes: kind, of TASKS; column, of obs."""

    kind: str
    column: str


def _task(text: str) -> Task:
    """KIND:COLUMN."""
    kind, colon, column = text.partition(":")
    if kind not in TASKS or not colon or not column:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no task; annotation:COLUMN, integration:COLUMN or perturbation:COLUMN is expected, such as "
            "annotation:cell_type"
        )
    return Task(kind, column)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    import jax

    from mofm.errors import InputError
    from mofm.export.parts import is_bundle, read_parts
    from mofm.training.config import read_values
    from mofm.training.origin import RANK, finetune_config

    responses = _responses_asked(args)
    labels, batches = _column(args, ANNOTATION), _column(args, INTEGRATION)
    if args.task is None and args.tune != UNSUPERVISED:
        raise InputError(f"--tune {args.tune}: which labels? give --task annotation:COLUMN")
    by_labels = args.tune in (LORA, FULL)
    if by_labels and labels is None:
        what = "batches" if batches is not None else "responses"
        raise InputError(f"--tune {args.tune}: {what} do not move the encoder; choose probe or unsupervised")
    values = read_values(args.config)
    tune = (labels if by_labels else None, RANK if args.tune == LORA else 0)

    def begin():
        if jax.process_count() > 1 and not str(args.model).startswith("hf:") and not is_bundle(Path(args.model)):
            raise InputError(
                f"{args.model}: is a run, which several processes cannot read at once; `mofm export` it, and give the bundle"
            )
        origin = read_parts(args.model, args.step).origin()
        config = finetune_config(values, args.overrides, origin, *tune, batches)
        if labels is not None:
            _check_labels(args, config)
        if responses is not None:
            _check_responses(config, responses)
        if not args.quiet:
            print(f"from {origin.name}, step {origin.step}", file=sys.stderr)
        return config, origin

    def then(config):
        if labels is not None and jax.process_index() == 0:
            _fit_heads(args, config)
        if responses is not None and jax.process_index() == 0:
            _fit_responses(args, config, responses)

    heads = partial(_first_heads, args) if by_labels else None
    axes = None if batches is None else partial(_batch_axes, args)
    return run_to_its_end(args, begin, then, frozen=args.tune == PROBE, heads=heads, batch_axes=axes)


def _column(args, kind: str) -> str | None:
    """The column of a task of a kind; None where another is asked for, or none."""
    return args.task.column if args.task is not None and args.task.kind == kind else None


def _batch_axes(args, config):
    """The directions of MODEL's embedding that the run is to begin without."""
    from mofm.batches.stream import Stream
    from mofm.corpus.store import open_corpus
    from mofm.inference.integration import batch_axes
    from mofm.inference.model import load

    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged)
    heldout = Stream(corpus, config.data, config.seed).heldout_cells()
    axes_RE = batch_axes(load(args.model, step=args.step), corpus, args.task.column, heldout, args.quiet)
    if not args.quiet:
        found = "no direction in which batches differ was found; the embedding begins as MODEL's"
        if len(axes_RE):
            found = f"the embedding begins without {len(axes_RE)} of its {axes_RE.shape[1]} directions, in which batches differ"
        print(f"{args.task.column}: {found}", file=sys.stderr)
    return axes_RE


def _responses_asked(args):
    """What `--task perturbation` is asked for; None of other tasks."""
    from mofm.errors import InputError
    from mofm.inference.response_head import Asked

    if args.task is None or args.task.kind != PERTURBATION:
        for option, value in (("--control", args.control), ("--groups", args.groups)):
            if value is not None:
                raise InputError(f"{option} {value} belongs to --task perturbation:COLUMN")
        return None
    if args.control is None or args.groups is None:
        raise InputError(
            "--task perturbation needs --control, the column's value for untreated cells, and --groups, the column that says "
            "of which group a cell is, such as cell_type"
        )
    return Asked(args.task.column, args.control, args.groups)


def _check_responses(config, asked) -> None:
    """Responses that cannot be learned are refused before anything is trained."""
    from mofm.corpus.store import open_corpus
    from mofm.inference.response_head import read_conditions

    read_conditions(open_corpus(config.data.corpus, damaged=config.data.damaged), asked)


def _fit_responses(args, config, asked) -> None:
    """Fits the responses of the run's best step, and writes them beside it."""
    from mofm.corpus.store import open_corpus
    from mofm.export.responses import save_responses
    from mofm.inference.model import load
    from mofm.inference.response_head import fit_responses, mean_figures

    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged)
    head = fit_responses(load(args.workdir), corpus, asked, args.quiet)
    save_responses(args.workdir, head)
    for treatment, response in head.of.items():
        said = mean_figures(response)
        lines = [
            f"response to {treatment}, step {head.step}: {len(response.groups)} groups, {len(head.genes):,} genes",
            f"each predicted from the others: Pearson of the change {said['pearson']:.3f}, skill on the genes that change most "
            f"{said['skill']:.3f}",
            f"the mean change of the others: {said['pearson_of_mean_change']:.3f} and {said['skill_of_mean_change']:.3f}",
        ]
        print(*lines, sep="\n  ", file=sys.stderr)


def _check_labels(args, config) -> None:
    """Labels that cannot be learned are refused before anything is trained."""
    import numpy as np

    from mofm.corpus.store import open_corpus
    from mofm.inference.head import check_labels, read_labels

    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged)
    numbers, heldout = read_labels(corpus, args.task.column), _judges(args, config, corpus)
    check_labels(numbers.number_N, None if heldout is None else np.isin(np.arange(corpus.n_cells), heldout))


def _judges(args, config, corpus):
    """Global indices of the cells that a head is judged by; None for all, each by what the others teach it."""
    from mofm.batches.stream import Stream

    if args.tune == PROBE and not (config.data.holdout_datasets or config.data.holdout_groups):
        return None
    return Stream(corpus, config.data, config.seed).heldout_cells()


def _heads_of(model, args, config, *, unseen: bool = False):
    """Heads that predict the task's labels from a model's embeddings; `unseen` as `fit_heads` has it."""
    from mofm.corpus.store import open_corpus
    from mofm.inference.head import fit_heads

    corpus = open_corpus(config.data.corpus, damaged=config.data.damaged)
    return fit_heads(model, corpus, args.task.column, _judges(args, config, corpus), args.quiet, unseen=unseen)


def _first_heads(args, config) -> dict:
    """What labels begin to move the encoder from: heads of MODEL as it is, which know nothing of the cells held out."""
    from mofm.inference.model import load
    from mofm.training.tuning import KnownHead

    heads = _heads_of(load(args.model, step=args.step), args, config, unseen=True)
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
            f"{args.task.column} from {modality}, step {heads.step}: {len(head.labels)} labels",
            f"{said['heldout_cells']:,} cells, each named by what the others teach"
            if said["crossed"]
            else f"{said['heldout_cells']:,} cells held out",
            f"{said['accuracy']:.1%} right, mean recall {said['mean_recall']:.1%}, calibration error "
            f"{said['calibration_error']:.3f}",
            f"{1 - said['kept']:.1%} unknown, of the others {said['accuracy_of_kept']:.1%} right",
        ]
        print(*lines, sep="\n  ", file=sys.stderr)
        if left_out := said["left_out"]:
            print(f"  too few cells to learn: {', '.join(left_out)}", file=sys.stderr)
