"""`mofm annotate`: a model, a file and perhaps a labelled reference to the file's cells labelled."""

from pathlib import Path

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
        "chance that it is right, by how the reference's own cells are named by the others), mofm_label_likeliest (the label\n"
        'also where mofm_label is "unknown"), mofm_label_voices (the share of the neighbours that have it) and\n'
        'mofm_label_nearest. "unknown" are cells below --confidence, and cells farther from the reference than 99 of 100 of\n'
        "its own are. That is promised of cells like the reference's: take one of the same technique. With fewer than 50\n"
        "labelled cells it cannot be judged: the confidence is the share of the neighbours then, and none is far.\n"
        "Without a reference the head of `mofm finetune --task annotation:COLUMN` names them. Its threshold and the distance\n"
        "from all its types beyond which a cell is unknown together keep 95% of the cells that it names rightly;\n"
        "mofm_label_distance is that distance, 1 being the farthest.\n"
        "--ontology gives a broader term where no label is sure enough: CD4 T .45 and CD8 T .45 are a T cell of .90;\n"
        "mofm_label_term is the term's id.\n"
        "  mofm annotate MODEL IN OUT --reference LABELLED.h5ad --label cell_type\n"
        "  mofm annotate MODEL IN OUT --ontology cl-basic.obo --confidence 0.8",
    )
    add_model_argument(verb)
    add_input_argument(verb)
    add_copy_argument(verb)
    verb.add_argument(
        "--reference", type=location, metavar="FILE", help="cells with labels in obs, read as IN is; needs --label"
    )
    verb.add_argument("--label", metavar="COLUMN", help="the column of the reference's obs, such as cell_type")
    verb.add_argument("--voters", type=int, default=15, metavar="N", help="neighbours that vote (default: 15)")
    verb.add_argument(
        "--ontology",
        type=Path,
        metavar="OBO",
        help="for cells without a label that is sure enough, give the most specific term of this ontology that is, such as the "
        "Cell Ontology's cl-basic.obo (default: they are unknown)",
    )
    verb.add_argument(
        "--confidence",
        type=float,
        metavar="SHARE",
        help="a name must be as sure as this (default: as 95%% of the rightly named cells are, among those that the "
        "head, or the reference, is judged by)",
    )
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
    naming = {"key_added": args.key_added, "ontology": args.ontology, "confidence": args.confidence}
    if args.reference is None:
        found = label_by_head(model, args.input, reading, **naming, **arguments)
        by = "the model's head"
    else:
        chosen = naming | {"voters": args.voters}
        found = label_cells(model, args.input, args.reference, args.label, reading, **chosen, **arguments)
        by = f"{found.report['reference_cells']:,} of the reference"
    write_copy(args.input, args.output, {found.embedding.modality: found.embedding}, found.added)
    labels, confidence_N = found.columns[args.key_added], found.columns[f"{args.key_added}_confidence"]
    print(f"{args.output}: obs[{args.key_added!r}], {len(labels):,} cells by {by}")
    said = "mean confidence {:.2f}" if found.report.get("calibrated", True) else "{:.0%} of the neighbours say so"
    counts = pd.Series(labels).value_counts()
    for name, count in counts.head(PRINTED).items():
        print(f"  {count:>9,}  {name}  ({said.format(confidence_N[labels == name].mean())})")
    if len(counts) > PRINTED:
        print(f"  and {len(counts) - PRINTED} more labels")
    for line in found.lines():
        print(f"  {line}")
    return 0
