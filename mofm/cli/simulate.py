"""`mofm simulate`: cells from a known regulatory network."""

from mofm.axes import FEATURES, MODALITIES
from mofm.cli.options import add_verb, check_free
from mofm.errors import InputError
from mofm.files import location, output_file

_SIMULATED = {
    "cells": (3000, "rows of the file"),
    "genes": (1000, "the transcription factors among them"),
    "tfs": (50, "transcription factors"),
    "cell_types": (8, "attractors of the network"),
    "batches": (2, "with an effect on every feature each"),
    "donors": (1, "people, with a shift of every gene each where there are several"),
    "path_types": (0, "the first N cell types are stations of one differentiation path; 0 for none"),
    "seed": (0, "the same seed gives the same file"),
}


def add(verbs) -> None:
    """Adds `mofm simulate`."""
    verb = add_verb(
        verbs,
        "simulate",
        run,
        "Simulate cells driven by a known gene regulatory network: RNA, or several omics of each cell.",
        'Cell types are attractors of the network\'s dynamics; the true network is in varp["grn"] of the RNA, TF activities\n'
        'in obsm["tf_activity"], peak-gene links in varm["links"] of the ATAC, everything else in uns["simulation"].\n'
        "One modality is written as OUT.h5ad, several as OUT.h5mu. RNA alone has made-up genes (SIMG00001) unless --species\n"
        "is given; several omics stand on real genes and their places.\n"
        "An OUT without suffix is a corpus, of any size: data sets of one network, which a file of the same options has too,\n"
        "each with batches of its own. Repeated, the command goes on where it was.",
    )
    verb.add_argument(
        "out", type=location, metavar="OUT", help="the .h5ad or .h5mu file to write, or the corpus folder"
    )
    verb.add_argument(
        "--modalities",
        nargs="+",
        choices=MODALITIES,
        default=["rna"],
        metavar="OMICS",
        help=f"of {', '.join(MODALITIES)} (default: rna); behind OUT",
    )
    verb.add_argument("--unpaired", action="store_true", help="each cell in one modality only")
    verb.add_argument(
        "--species",
        help="whose genes the simulated ones are named after (default: made-up genes for RNA alone, else human)",
    )
    for name, (default, what) in _SIMULATED.items():
        flag = f"--{name.replace('_', '-')}"
        verb.add_argument(flag, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    verb.add_argument(
        "--dataset-cells", type=int, metavar="N", help="cells of each data set of a corpus (default: 100000)"
    )
    verb.add_argument("--jobs", type=int, metavar="N", help="data sets of a corpus made at once (default: the cores)")
    verb.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.omics.simulate import SimulationConfig, simulate_any, to_mudata, write_mudata

    several, as_mudata = len(set(args.modalities)) > 1, args.out.suffix == ".h5mu"
    if args.unpaired and not several:
        raise InputError("--unpaired splits the cells between modalities: name several with --modalities")
    config = SimulationConfig(**{name: getattr(args, name) for name in _SIMULATED})
    if isinstance(args.out, str) or not args.out.suffix:
        return _run_corpus(args, config)
    if several and not as_mudata:
        raise InputError(
            f"{args.out}: several modalities need an OUT that ends in .h5mu, or a corpus: an OUT without suffix"
        )
    if args.jobs is not None or args.dataset_cells is not None:
        raise InputError("--jobs and --dataset-cells are for a corpus: an OUT without suffix")
    check_free(args.out, args.overwrite)
    omics = simulate_any(config, args.modalities, args.species, args.unpaired)
    with output_file(args.out) as temporary:
        if as_mudata:
            write_mudata(to_mudata(omics), temporary)
        else:
            omics[args.modalities[0]].write_h5ad(temporary)
    for modality, adata in omics.items():
        cells, features = adata.shape
        edges = f", {adata.varp['grn'].nnz:,} TF -> target edges" if modality == "rna" else ""
        print(f"{args.out}: {cells:,} cells x {features:,} {FEATURES[modality]}, {config.cell_types} types{edges}")
    return 0


def _run_corpus(args, config) -> int:
    """Writes a corpus in place of a file."""
    from mofm.corpus.simulated import simulate_corpus
    from mofm.progress import cells_progress

    if args.overwrite:
        raise InputError(
            f"{args.out}: a corpus is added to, never overwritten; leave --overwrite out, or delete it first"
        )
    size = {} if args.dataset_cells is None else {"dataset_cells": args.dataset_cells}
    what = (args.modalities, args.species, args.unpaired)
    with cells_progress("simulating", config.cells) as advance:
        results = simulate_corpus(config, args.out, *what, **size, jobs=args.jobs, on_cells=advance)
    cells = sum(result.entry.cells for result in results)
    entries = sum(entry.entries for result in results for entry in result.entries)
    print(
        f"{args.out}: {cells:,} new cells in {len(results)} data sets, {entries:,} counts; {config.cells:,} cells in all"
    )
    return 0
