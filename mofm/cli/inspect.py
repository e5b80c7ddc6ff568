"""`mofm inspect`: what a file or a corpus holds."""

from mofm.cli.options import INPUTS, add_names_options, add_reading_options, add_verb
from mofm.files import location


def add(verbs) -> None:
    """Adds `mofm inspect`."""
    verb = add_verb(verbs, "inspect", run, "Say what a file or a corpus holds, and whether mofm can use it.")
    verb.add_argument(
        "path",
        type=location,
        help=f"{INPUTS}, a table of a gene regulatory network, or a corpus (a directory, or a URL: s3://, gs://, https://)",
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    add_names_options(verb, "that of most genes, human or mouse; human with --orthologs")
    add_reading_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.inspection import inspect
    from mofm.omics.readers import Reading
    from mofm.printed import render

    names = ("modality", "peaks", "tile_width", "barcodes", "min_fragments", "obs_filter", "duplicates")
    reading = Reading(**{name: getattr(args, name) for name in names})
    report = inspect(args.path, reading, args.species, args.build, args.orthologs)
    render(report, as_json=args.json)
    return 0 if report["usable"] else 2
