"""`mofm annotate`: a model, a file and perhaps a labelled reference to the file's cells labelled."""

from mofm.cli.options import (
    add_cells_options,
    add_copy_argument,
    add_input_argument,
    add_model_argument,
    add_verb,
    cells_arguments,
    check_free,
)
from mofm.files import location

PRINTED = 12


def add(verbs) -> None:
    """Adds `mofm annotate`."""
    verb = add_verb(
        verbs,
        "annotate",
        run,
        "Label cells by their nearest neighbours among the labelled cells of a reference, or by the model's annotation head.",
        "Both files are embedded by the model. OUT is a copy of IN with obs columns mofm_label, mofm_label_confidence (the\n"
        "share of the neighbours that say so; not a calibrated probability) and mofm_label_nearest (the nearest of them).\n"
        "A type that the reference lacks gets the name of the likest that it has; take a reference of the same technique.\n"
        "Without a reference the head of `mofm finetune --task annotation:COLUMN` tells them: the confidence is calibrated on\n"
        'held-out cells, mofm_label is "unknown" where it is low, and mofm_label_likeliest says the label all the same.\n'
        "  mofm annotate MODEL IN OUT --reference LABELLED.h5ad --label cell_type\n"
        "  mofm annotate MODEL IN OUT",
    )
    add_model_argument(verb)
    add_input_argument(verb)
    add_copy_argument(verb)
    verb.add_argument(
        "--reference", type=location, metavar="FILE", help="cells with labels in obs, read as IN is; needs --label"
    )
    verb.add_argument("--label", metavar="COLUMN", help="the column of the reference's obs, such as cell_type")
    verb.add_argument("--voters", type=int, default=15, metavar="N", help="neighbours that vote (default: 15)")
    verb.add_argument("--key-added", default="mofm_label", help="the column of obs (default: mofm_label)")
    add_cells_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from dataclasses import replace

    import pandas as pd

    from mofm.errors import InputError
    from mofm.inference.annotate import label_by_head, label_cells
    from mofm.inference.model import load
    from mofm.inference.output import write_copy

    check_free(args.output, args.overwrite)
    if (args.reference is None) != (args.label is None):
        raise InputError("--reference and --label belong together: give both, or neither for the model's own head")
    arguments = cells_arguments(args)
    reading = arguments.pop("reading")
    reading = replace(reading, modality=reading.modality or "rna")
    model = load(args.model, step=args.step)
    if args.reference is None:
        found = label_by_head(model, args.input, reading, key_added=args.key_added, **arguments)
        by, said = "the model's head", "mean confidence {:.2f}"
    else:
        told = {"voters": args.voters, "key_added": args.key_added}
        found = label_cells(model, args.input, args.reference, args.label, reading, **told, **arguments)
        by, said = f"{found.report['reference_cells']:,} of the reference", "{:.0%} of the neighbours say so"
    write_copy(args.input, args.output, {found.embedding.modality: found.embedding}, found.added)
    labels, confidence_N = found.columns[args.key_added], found.columns[f"{args.key_added}_confidence"]
    print(f"{args.output}: obs[{args.key_added!r}], {len(labels):,} cells by {by}")
    counts = pd.Series(labels).value_counts()
    for name, count in counts.head(PRINTED).items():
        print(f"  {count:>9,}  {name}  ({said.format(confidence_N[labels == name].mean())})")
    if len(counts) > PRINTED:
        print(f"  and {len(counts) - PRINTED} more labels")
    return 0
