"""`mofm ingest`: files to a corpus."""

import sys

from mofm.cli.options import INPUTS, add_counts_options, add_names_options, add_reading_options, add_verb
from mofm.files import location


def add(verbs) -> None:
    """Adds `mofm ingest`."""
    verb = add_verb(
        verbs,
        "ingest",
        run,
        "Read count matrices of any omics type into a corpus that training streams from.",
        "A corpus is a directory of AnnData zarr stores and a manifest.json; anndata.io.read_zarr opens each store.\n"
        "Cells of one file that share a name are paired. What is not modelled (hashtags, guides) is left out and said.\n"
        "Files already in it are left alone, so an interrupted ingest is repeated as it was given.\n"
        "A corpus is of one species, in any of its genome builds; --orthologs brings in RNA of another species.\n"
        "Of CELLxGENE Census (census://2025-01-30/homo_sapiens), each dataset_id becomes a dataset with the genes it\n"
        "measures, and only primary data is read.",
    )
    verb.add_argument("inputs", nargs="+", type=location, metavar="IN", help=f"{INPUTS}, with raw counts")
    verb.add_argument(
        "out", type=location, metavar="OUT", help="the corpus, made or added to: a directory, or s3:// or gs://"
    )
    verb.add_argument("--names", nargs="+", metavar="NAME", help="names of the datasets (default: the files' names)")
    add_counts_options(verb)
    add_reading_options(verb)
    add_names_options(verb, "the corpus's; human for a new one")
    verb.add_argument(
        "--unpaired", action="store_true", help="modalities that share no cell names are of different cells"
    )
    verb.add_argument("--jobs", type=int, help="files to read at once (default: the cores, where it is worth it)")
    verb.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="have the workers of this Dask scheduler (tcp://HOST:8786) read the files; all machines must see files and "
        "corpus under the same path",
    )


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.corpus.ingest import ingest, jobs_for
    from mofm.printed import render_ingest
    from mofm.progress import files_progress

    options = (
        "counts_from", "recover_counts", "species", "orthologs", "names", "modality", "build", "unpaired", "peaks",
        "tile_width", "barcodes", "min_fragments", "obs_filter", "duplicates",
    )  # fmt: skip
    jobs = jobs_for(args.inputs) if args.jobs is None else args.jobs
    with files_progress("ingesting") as on_progress:
        results = ingest(
            args.inputs,
            args.out,
            **{name: getattr(args, name) for name in options},
            jobs=jobs,
            scheduler=args.scheduler,
            on_progress=on_progress,
        )
    render_ingest(results, args.out)
    print(
        f"next: mofm train --config small --config.data.corpus={args.out} --workdir runs/mine",
        file=sys.stderr,
    )
    return 0
