"""What several verbs share: their parsers, their options, and words for people."""

import argparse
from pathlib import Path

from mofm.axes import MODALITIES
from mofm.errors import InputError
from mofm.files import Location, location

INPUTS = (
    "h5ad, h5mu, AnnData zarr store, 10x HDF5 or matrix folder, Cell Ranger outs folder, fragments.tsv.gz, "
    "census://VERSION/ORGANISM, or a TileDB-SOMA experiment"
)

OF_READING = (
    "modality",
    "counts_from",
    "recover_counts",
    "peaks",
    "tile_width",
    "barcodes",
    "min_fragments",
    "obs_filter",
    "duplicates",
)
"""Options of `add_reading_options` and `add_counts_options`: fields of `omics.readers.Reading`."""
OF_CELLS = ("species", "orthologs", "build", "batch_size", "max_tokens")
"""Options of `add_names_options` and `add_model_options` that are fields of `inference.model.Options`."""


def add_verb(verbs, name: str, run, summary: str, details: str = "") -> argparse.ArgumentParser:
    """A verb's parser; `run(args)` returns its exit code."""
    verb = verbs.add_parser(
        name, help=summary, description=f"{summary}\n\n{details}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.set_defaults(run=run)
    return verb


def add_input_argument(verb: argparse.ArgumentParser, of: str = "", metavar: str = "IN") -> None:
    """The cells; `of` says which counts are looked at, where not all are."""
    verb.add_argument("input", type=location, metavar=metavar, help=f"{INPUTS}, with raw counts{of}")


def add_copy_argument(verb: argparse.ArgumentParser) -> None:
    """OUT: a copy of IN with what the verb adds."""
    verb.add_argument("output", type=Path, metavar="OUT", help="the file to write: h5mu of an h5mu, h5ad of others")


def add_counts_options(verb: argparse.ArgumentParser) -> None:
    """Where the counts are."""
    verb.add_argument(
        "--counts-from",
        metavar="WHERE",
        help='the matrix of raw counts: "X", "layers/NAME" or "raw/X" (default: found by looking)',
    )
    verb.add_argument(
        "--recover-counts",
        action="store_true",
        help="where only log1p-normalised values are left, turn them back into counts, if the arithmetic is exact",
    )


def add_species_option(verb: argparse.ArgumentParser, default: str) -> None:
    """Whose gene table; `default` says which without it."""
    verb.add_argument(
        "--species",
        help="whose gene table resolves the names: human, mouse, or a FILE.parquet that `python -m "
        f"mofm.omics.build_gene_table` made of a GTF (default: {default})",
    )


def add_names_options(verb: argparse.ArgumentParser, species: str) -> None:
    """Whose features they are, of which genome; `species` says the default."""
    add_species_option(verb, species)
    verb.add_argument(
        "--orthologs",
        type=Path,
        metavar="TABLE",
        help="read genes of another species as their one-to-one orthologs in this table: BioMart's export, or two "
        "columns, the file's genes and those of --species, as ids or symbols",
    )
    verb.add_argument(
        "--build",
        help="genome build of peaks and other regions: GRCh38, GRCh37, GRCm38, GRCm39 (default: found by their places)",
    )


def add_reading_options(verb: argparse.ArgumentParser) -> None:
    """What of a file is read, as the fields of `omics.readers.Reading`."""
    verb.add_argument(
        "--modality",
        choices=MODALITIES,
        help="read this modality alone; or, for an h5ad file that does not show it, what it is (default: found)",
    )
    verb.add_argument("--peaks", type=Path, metavar="BED", help="count fragments over these peaks")
    verb.add_argument("--tile-width", type=int, metavar="BP", help="count fragments over tiles (default: 500)")
    verb.add_argument("--barcodes", type=Path, metavar="TSV", help="the barcodes of fragments that are cells")
    verb.add_argument(
        "--min-fragments", type=int, metavar="N", help="or: barcodes of so many fragments are cells (default: 200)"
    )
    verb.add_argument(
        "--obs-filter",
        metavar="EXPRESSION",
        help="of a Census or SOMA experiment, the cells to read, as \"tissue_general == 'lung' and disease == 'normal'\"",
    )
    verb.add_argument(
        "--duplicates",
        action="store_true",
        help="of a Census, also the cells that it has elsewhere as well (is_primary_data is False)",
    )


def add_model_argument(verb: argparse.ArgumentParser) -> None:
    """The trained model that is asked."""
    verb.add_argument(
        "model",
        type=location,
        metavar="MODEL",
        help="the workdir of a `mofm train` run, or a bundle of `mofm export`: a folder, or hf://OWNER/NAME on the hub",
    )


def add_model_options(verb: argparse.ArgumentParser) -> None:
    """Which of its checkpoints is asked, and how cells are put through it; as the fields of `inference.model.Options`."""
    add_step_option(verb)
    verb.add_argument(
        "--batch-size",
        type=_batch_size,
        default="auto",
        metavar="N",
        help="cells at a time (default: as the device bears)",
    )
    verb.add_argument("--max-tokens", type=int, default=2048, help="most tokens of a cell (default: 2048)")


def add_step_option(verb: argparse.ArgumentParser) -> None:
    """Which of a run's checkpoints."""
    verb.add_argument(
        "--step",
        type=_step,
        metavar="N|best|latest",
        help="of a run, which checkpoint (default: best, by held-out loss)",
    )


def _step(text: str) -> int | str:
    return _number_or(text, "best", "latest")


def _batch_size(text: str) -> int | str:
    return _number_or(text, "auto")


def _number_or(text: str, *words: str) -> int | str:
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {' nor '.join(words)}") from None


def add_network_options(verb: argparse.ArgumentParser) -> None:
    """What the verbs that ask a model's networks about groups of cells share; OUT is a folder of theirs."""
    verb.add_argument(
        "--min-cells", type=int, default=10, metavar="N", help="leave out groups of fewer cells (default: 10)"
    )
    verb.add_argument("--network", metavar="NAME", help="ask this one of the model's networks (default: all)")
    add_model_options(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace the files in OUT if they exist")
    add_counts_options(verb)
    add_names_options(verb, "that of the model's corpus")


def add_cells_options(verb: argparse.ArgumentParser) -> None:
    """How a file of any modality is read and put through a model, and whether OUT is replaced."""
    add_model_options(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_reading_options(verb)
    add_counts_options(verb)
    add_names_options(verb, "that of the model's corpus")


def cells_arguments(args: argparse.Namespace) -> dict:
    """What was given by `add_cells_options`, as `inference.model` and `translate` take it."""
    from mofm.omics.readers import Reading

    reading = Reading(**{name: getattr(args, name) for name in OF_READING})
    return {"reading": reading, **{name: getattr(args, name) for name in OF_CELLS}}


def network_arguments(args: argparse.Namespace) -> dict:
    """What was given by `add_network_options`, as `inference.regulators.regulators` and `perturb` take it."""
    from mofm.omics.readers import Reading

    names = ("network", "min_cells", *OF_CELLS)
    reading = Reading("rna", counts_from=args.counts_from, recover_counts=args.recover_counts)
    return {"reading": reading, **{name: getattr(args, name) for name in names}}


def check_free(out: Path, overwrite: bool) -> None:
    """An InputError where `out` would be overwritten unasked."""
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: give another OUT, or --overwrite")


def copy_name(source: Location) -> str:
    """The file in an OUT folder that a copy of `source` is written to: h5mu of an h5mu, h5ad of others."""
    return "cells.h5mu" if Path(source).suffix == ".h5mu" else "cells.h5ad"
