"""`mofm translate`: a file of one modality to a file of another."""

from pathlib import Path

from mofm.axes import FEATURES, MODALITIES
from mofm.cli.options import (
    add_cells_options,
    add_input_argument,
    add_model_argument,
    add_verb,
    cells_arguments,
    check_free,
)


def add(verbs) -> None:
    """Adds `mofm translate`."""
    verb = add_verb(
        verbs,
        "translate",
        run,
        "Predict one modality of your cells from another: RNA to chromatin, to protein, to methylation, and back.",
        "MODEL is a run with --config.translator.blocks of 1 or more. OUT is an h5ad of IN's cells and the features asked\n"
        "for: X the expected measurement in a cell of median depth (RNA, ADT: counts; ATAC: chance to be open;\n"
        'methylation: fraction of reads), layers["sd"] its standard deviation, obs["mofm_depth"] that depth (counts; of ADT\n'
        "those that 100 proteins would have, each at the geometric mean of the cell's).\n"
        "  mofm translate runs/mosaic rna.h5ad atac.h5ad --to atac --features peaks.bed\n"
        "Any features can be asked for, peaks that no training data had too; without --features, those of training.",
    )
    add_model_argument(verb)
    add_input_argument(verb)
    verb.add_argument("output", type=Path, metavar="OUT", help="the h5ad file to write")
    verb.add_argument("--to", required=True, choices=MODALITIES, help="what to predict")
    verb.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="the features to predict: a BED file of regions, or a name a line (default: those of the training data)",
    )
    verb.add_argument(
        "--features-build", metavar="BUILD", help="genome build of --features (default: found by their places)"
    )
    verb.add_argument(
        "--depth",
        choices=("median", "predicted"),
        default="median",
        help="predict all cells at the median depth of training, so that they can be compared, or each at the depth that IN "
        "predicts, as it would be measured; that takes a model trained on cells with both (default: median)",
    )
    add_cells_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.inference.model import load
    from mofm.inference.targets import find_targets, read_names
    from mofm.inference.translate import translate_file

    check_free(args.output, args.overwrite)
    names = None if args.features is None else read_names(args.features, args.to)
    model = load(args.model, step=args.step)
    targets = find_targets(model, args.to, names, args.features_build, str(args.features), args.depth)
    written = translate_file(model, args.input, args.output, targets, **cells_arguments(args))
    what = FEATURES[args.to]
    print(
        f"{args.output}: {written.cells:,} cells x {written.features:,} {what}, predicted from {written.source} by {model.name}"
    )
    print(f"  the model knows {written.share_of_counts_known:.1%} of the counts that it was shown")
    if new := int((~targets.var["trained"]).sum()):
        print(
            f"  {new:,} of the {what} were in no training data: they are known by their genes, and their level only roughly"
        )
    if unknown := targets.unknown:
        print(f"  left out: {len(unknown):,} {what} that speak of no gene of the model ({', '.join(unknown[:3])}, ...)")
    if written.share_of_counts_known < 0.5:
        print("  warning: less than half of the counts are in features that the model knows; it says little of them")
    return 0
