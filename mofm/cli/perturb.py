"""`mofm perturb`: TFs knocked out or overexpressed in a file's cells, in silico."""

from pathlib import Path

from mofm.cli.options import (
    add_input_argument,
    add_model_argument,
    add_network_options,
    add_verb,
    check_free,
    copy_name,
    network_arguments,
)
from mofm.errors import InputError

PRINTED = 5


def add(verbs) -> None:
    """Adds `mofm perturb`."""
    verb = add_verb(
        verbs,
        "perturb",
        run,
        "Knock out or overexpress TFs in your cells, in silico: which genes follow, and where the cells go.",
        "MODEL is a run with a network (--config.network.tables). OUT is a folder of\n"
        "  genes.parquet  a line a gene and group: `network`, the change of the TF's activity passed on along the edges that\n"
        "                 are known or likely, in units of a sure edge; `model`, the shift of the log rate when the cell\n"
        "                 without the TF is embedded and decoded again, nats; known and sign of the TF's edge to it.\n"
        "                 A masked model knows what goes along, not what follows: go by `network` (see\n"
        "                 mofm/inference/perturb.py for what was measured)\n"
        "  groups.tsv     how far each group moves (1: the file's typical distance), and toward which other group\n"
        '  cells.h5ad     a copy of IN with obs["mofm_shift"] and obsm["X_mofm_perturbed"] beside obsm["X_mofm"]',
    )
    add_model_argument(verb)
    add_input_argument(verb, " of RNA")
    verb.add_argument("output", type=Path, metavar="OUT", help="the folder to write")
    verb.add_argument(
        "--knock-out", nargs="+", default=[], metavar="TF", help="counts 0, and its edges out of the graph"
    )
    verb.add_argument(
        "--overexpress", nargs="+", default=[], metavar="TF[=FOLD]", help="counts times FOLD (default: 10)"
    )
    verb.add_argument(
        "--groupby", metavar="COLUMN", help="the column of obs that says each cell's group (default: none)"
    )
    add_network_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.inference.model import load
    from mofm.inference.perturb import Change, perturb
    from mofm.inference.regulator_output import write_perturbed, write_table

    names = ("genes.parquet", "groups.tsv", copy_name(args.input))
    genes, groups, cells = (args.output / name for name in names)
    for path in (genes, groups, cells):
        check_free(path, args.overwrite)
    changes = [Change(name) for name in args.knock_out] + [_overexpressed(word) for word in args.overexpress]
    if not changes:
        raise InputError("nothing to do: name TFs with --knock-out or --overexpress")
    found = perturb(
        load(args.model, step=args.step),
        args.input,
        changes,
        args.groupby,
        **network_arguments(args),
    )
    write_table(found.genes, genes)
    write_table(found.groups, groups)
    write_perturbed(args.input, cells, found)
    _print(found)
    print(f"{genes}: {len(found.genes):,} lines, a gene and group each")
    print(f'{cells}: obs["mofm_shift"], obsm["X_mofm"] and obsm["X_mofm_perturbed"], {len(found.shift_N):,} cells')
    return 0


def _overexpressed(word: str):
    from mofm.inference.perturb import FOLD, Change

    name, mark, fold = word.partition("=")
    try:
        return Change(name, float(fold) if mark else FOLD)
    except ValueError:
        raise InputError(f"--overexpress {word}: write TF or TF=FOLD, FOLD a number above 1") from None


def _print(found) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns = (
        ("group", "left"),
        ("cells", "right"),
        ("moved", "right"),
        ("toward", "left"),
        ("genes, by the network", "left"),
    )
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")
    for row in found.groups.itertuples():
        first = found.genes[found.genes["group"] == row.group].head(PRINTED)
        said = "  ".join(f"{gene.gene} {gene.network:+.2f}" for gene in first.itertuples())
        toward = f"{row.toward} ({row.cosine:+.2f})" if row.toward else ""
        table.add_row(row.group, f"{row.cells:,}", f"{row.shift:.3f}", toward, said)
    Console(highlight=False, markup=False).print(table)
    for note in found.notes:
        print(f"  {note}")
