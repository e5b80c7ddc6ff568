"""`mofm regulators`: a model and a file to the TFs and the edges that distinguish the file's groups of cells."""

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

PRINTED = 5


def add(verbs) -> None:
    """Adds `mofm regulators`."""
    verb = add_verb(
        verbs,
        "regulators",
        run,
        "Find the regulators of your cells: which TFs are active in which group, and which genes they act on there.",
        "MODEL is a run with a network (--config.network.tables). OUT is a folder of\n"
        "  edges.parquet   a line an edge of a group, the strongest first: tf, target, score (above 0: the TF raises the\n"
        "                  target there), confidence (P(edge) by the model), sign, and known: what training was shown,\n"
        "                  what was held out, or nothing for a new prediction, which is a hypothesis to test\n"
        '  cells.h5ad      a copy of IN with obsm["mofm_tf_activity"], cells x TFs, z-scored; uns["mofm_regulators"]\n'
        "                  names the TFs\n"
        "  regulators.png  the most active TFs of each group\n"
        "Activities and scores are beside the average cell of IN: give a file of all the cells to be compared.",
    )
    add_model_argument(verb)
    add_input_argument(verb, " of RNA")
    verb.add_argument(
        "output", type=Path, nargs="?", metavar="OUT", help="the folder to write (default: IN's name + _regulators)"
    )
    verb.add_argument(
        "--groupby", required=True, metavar="COLUMN", help="the column of obs that says each cell's group, as cell_type"
    )
    verb.add_argument("--top", type=int, default=10_000, metavar="N", help="edges kept of each group (default: 10000)")
    add_network_options(verb)


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.inference.model import load
    from mofm.inference.regulator_output import write_cells, write_table
    from mofm.inference.regulators import regulators
    from mofm.pl.regulation import write_figure

    folder = default_folder(args.input) if args.output is None else args.output
    names = ("edges.parquet", copy_name(args.input), "regulators.png")
    edges, cells, figure = (folder / name for name in names)
    for path in (edges, cells, figure):
        check_free(path, args.overwrite)
    found = regulators(
        load(args.model, step=args.step),
        args.input,
        args.groupby,
        top=args.top,
        **network_arguments(args),
    )
    write_table(found.edges, edges)
    write_cells(args.input, cells, found)
    write_figure(found.top, figure)
    _print(found, args.groupby)
    new = int((found.edges["known"] == "").sum())
    print(f"{edges}: {len(found.edges):,} edges, {new:,} of them new predictions")
    print(f'{cells}: obsm["mofm_tf_activity"], {found.activity_NT.shape[0]:,} cells x {len(found.tfs):,} TFs')
    print(f"{figure}: the most active TFs of each group")
    return 0


def default_folder(source: Path | str) -> Path:
    """IN's name without its suffix, and _regulators, beside it; of a URL, here."""
    path = source if isinstance(source, Path) else Path(source.rstrip("/").rsplit("/", 1)[-1])
    return path.with_name(f"{path.stem}_regulators")


def _print(found, groupby: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left")
    for name, justify in ((groupby, "left"), ("cells", "right"), ("most active TFs (mean z-score)", "left")):
        table.add_column(name, justify=justify, overflow="fold")
    for name, size in zip(found.groups.names, found.groups.sizes, strict=True):
        first = found.top[(found.top["group"] == name) & (found.top["rank"] <= PRINTED)]
        said = "  ".join(f"{row.tf} {row.activity:+.1f}" for row in first.itertuples())
        table.add_row(name, f"{size:,}", said)
    Console(highlight=False, markup=False).print(table)
    for note in found.notes:
        print(f"  {note}")
