"""`mofm export`: a run to a bundle, which goes anywhere."""

from pathlib import Path

from mofm.cli.options import add_model_argument, add_step_option, add_verb


def add(verbs) -> None:
    """Adds `mofm export`."""
    verb = add_verb(
        verbs,
        "export",
        run,
        "Write a trained model as a folder that can be given away: arrays, tables, a model card, checksums.",
        "OUT takes the place of MODEL in every other verb, on CPU, GPU and TPU, and in `mofm.load(OUT)`. Loading it runs no\n"
        "code. README.md is the model card: data sets and their cells, held-out figures, limits; edit it as you like.\n"
        "  mofm export runs/mine blood-v1 --licence cc-by-4.0",
    )
    add_model_argument(verb)
    verb.add_argument("output", type=Path, metavar="OUT", help="the folder to write")
    add_step_option(verb)
    verb.add_argument("--name", help="what the model calls itself from then on (default: the run's name)")
    verb.add_argument(
        "--licence",
        metavar="ID|FILE",
        help="of the model: an identifier such as apache-2.0 or cc-by-4.0, or a text (default: none stated)",
    )
    verb.add_argument(
        "--compiled",
        action="store_true",
        help="also the encoder of each modality as StableHLO, which JAX runs without mofm",
    )
    verb.add_argument(
        "--shard-gb", type=float, default=5.0, metavar="GB", help="most of a file of parameters (default: 5)"
    )
    verb.add_argument("--push-to", metavar="OWNER/NAME", help="then put it on the Hugging Face hub (extra `hub`)")
    verb.add_argument("--private", action="store_true", help="where --push-to makes a repository, for your eyes alone")
    verb.add_argument("--overwrite", action="store_true", help="replace OUT if it is a bundle")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.export.bundle import write_bundle
    from mofm.export.parts import read_parts

    parts = read_parts(args.model, args.step)
    files = write_bundle(
        parts,
        args.output,
        name=args.name,
        licence=args.licence,
        compiled=args.compiled,
        shard_bytes=int(args.shard_gb * 1e9),
        overwrite=args.overwrite,
    )
    print(f"{args.output}: step {parts.step} of {parts.name}, {len(files)} files, {sum(files.values()) / 1e6:,.1f} MB")
    if args.licence is None:
        print("  no licence is stated in its card: give --licence, or nobody may know what they may do with it")
    if args.push_to is not None:
        from mofm.export.hub import push

        print(f"  on the hub: {push(args.output, args.push_to, private=args.private)}")
    print(f"  next: mofm embed {args.output} IN.h5ad OUT.h5ad, or mofm.load({str(args.output)!r}) in Python")
    return 0
