"""`mofm embed`: a model and a file to the file's cells embedded."""

from mofm.axes import FEATURES
from mofm.cli.options import (
    add_cells_options,
    add_copy_argument,
    add_input_argument,
    add_model_argument,
    add_verb,
    cells_arguments,
    check_free,
)


def add(verbs) -> None:
    """Adds `mofm embed`."""
    verb = add_verb(
        verbs,
        "embed",
        run,
        'Write each cell\'s embedding to obsm["X_mofm"] of a copy of the file.',
        'Of a file of several modalities each is embedded (obsm["X_mofm_rna"] and so on), and each cell by all of them\n'
        '(obsm["X_mofm"]): by a model with --config.fusion.blocks its views see each other, and the columns are those that\n'
        "modalities share; by any other it is the mean of the cell's embeddings.\n"
        'uns["mofm"] says which model it was and what share of the file\'s features and counts the model knows.\n'
        "Of a zarr store OUT is an h5ad of its obs and the embeddings, without the counts.\n"
        "Files are of the model's species, in any of its genome builds; --orthologs reads RNA of another species.",
    )
    add_model_argument(verb)
    add_input_argument(verb)
    add_copy_argument(verb)
    verb.add_argument("--key-added", default="X_mofm", help="the key in obsm (default: X_mofm)")
    add_cells_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.inference.model import load
    from mofm.inference.output import write_embedding

    check_free(args.output, args.overwrite)
    found = load(args.model, step=args.step).embed_cells(args.input, **cells_arguments(args))
    write_embedding(args.input, args.output, found, args.key_added)
    embeddings, joint = found.views, found.joint
    for modality, embedding in embeddings.items():
        report, (cells, width) = embedding.report, embedding.embedding_NE.shape
        key = args.key_added if len(embeddings) == 1 else f"{args.key_added}_{modality}"
        what = FEATURES[modality]
        known, features = report["features_matched"], report["features_matched"] + report["features_unmatched"]
        print(f'{args.output}: obsm["{key}"], {cells:,} cells x {width}, model {report["model"]} step {report["step"]}')
        print(
            f"  the model knows {known:,} of {features:,} {what} ({report['share_of_features_known']:.1%}), "
            f"which hold {report['share_of_counts_known']:.1%} of the counts"
        )
        for note in report["notes"]:
            print(f"  {modality} {note}")
        if report["share_of_counts_known"] < 0.5:
            print(f"  warning: less than half of the counts are in {what} that the model knows; it says little of them")
    if len(embeddings) > 1:
        how = "the mean of each cell's embeddings"
        if joint.fused is not None:
            how = f"{joint.embedding_NE.shape[1]} shared columns, {joint.fused:,} cells of several views fused"
        print(f'{args.output}: obsm["{args.key_added}"], {how}')
    return 0
