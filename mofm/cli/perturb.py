"""`mofm perturb`: TFs knocked out or overexpressed in a file's cells, in silico; or cells treated, as others were."""

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
        "Knock out or overexpress TFs in your cells, or treat them, in silico: which genes follow, and where the cells go.",
        "For TFs MODEL is a run with a network (--config.network.tables). OUT is a folder of\n"
        "  genes.parquet  a line a gene and group: `network`, the change of the TF's activity passed on along the edges that\n"
        "                 are known or likely, in units of a sure edge; `model`, the shift of the log rate when the cell\n"
        "                 without the TF is embedded and decoded again, nats; known and sign of the TF's edge to it.\n"
        "                 A masked model knows what goes along, not what follows: go by `network` (see\n"
        "                 mofm/inference/perturb.py for what was measured)\n"
        "  groups.tsv     how far each group moves (1: the file's typical distance), and toward which other group\n"
        '  cells.h5ad     a copy of IN with obs["mofm_shift"] and obsm["X_mofm_perturbed"] beside obsm["X_mofm"]\n'
        "With --response MODEL knows what a treatment did to other groups of cells, by `mofm finetune --task\n"
        "perturbation:COLUMN`. IN are untreated cells. OUT then has\n"
        '  cells.h5ad     log1p of counts per 10,000 of each cell in X, and after the treatment in layers["response"];\n'
        '                 obsm["X_mofm_response"]; uns["mofm_response"] says how well held-out groups were predicted\n'
        "  genes.parquet  a line a gene and group: control, response, change\n"
        "  groups.tsv     which known group each is likened to most\n"
        "  mofm perturb runs/mine cells.h5ad treated/ --response stim --groupby cell_type",
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
    verb.add_argument("--response", metavar="TREATMENT", help="what this treatment does, as the model's head knows it")
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
    if args.response is not None:
        if changes or args.network is not None:
            raise InputError(
                "--response goes without --knock-out, --overexpress and --network: it asks another head of MODEL"
            )
        return _respond(args, genes, groups, cells)
    if not changes:
        raise InputError("nothing to do: name TFs with --knock-out or --overexpress, or a treatment with --response")
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


def _respond(args, genes: Path, groups: Path, cells: Path) -> int:
    from mofm.inference.model import load
    from mofm.inference.regulator_output import write_table
    from mofm.inference.respond import respond

    arguments = network_arguments(args)
    arguments.pop("network")
    cells = cells.with_suffix(".h5ad")
    check_free(cells, args.overwrite)
    cells.parent.mkdir(parents=True, exist_ok=True)
    model = load(args.model, step=args.step)
    found = respond(model, args.input, args.response, args.groupby, output=cells, **arguments)
    write_table(found.genes, genes)
    write_table(found.groups, groups)
    for row in found.groups.itertuples():
        first = found.genes[found.genes["group"] == row.group].head(PRINTED)
        said = "  ".join(f"{gene.gene} {gene.change:+.2f}" for gene in first.itertuples())
        print(f"{row.group}: {row.cells:,} cells, likest {row.likest} ({row.weight:.2f}): {said}")
    for note in found.notes:
        print(f"  {note}")
    said = found.report["held_out_mean"]
    print(
        f"held-out groups of training: Pearson of the change {said['pearson']:.3f} (the mean change of the others "
        f"{said['pearson_of_mean_change']:.3f}), skill {said['skill']:.3f} ({said['skill_of_mean_change']:.3f})"
    )
    print(f'{cells}: layers["response"] and obsm["X_mofm_response"] beside X and obsm["X_mofm"]')
    print(f"{genes}: {len(found.genes):,} lines, a gene and group each")
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
