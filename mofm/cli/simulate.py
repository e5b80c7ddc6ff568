"""`mofm simulate`: cells from a known regulatory network."""

from pathlib import Path

from mofm.axes import FEATURES, MODALITIES
from mofm.cli.options import add_verb, check_free
from mofm.errors import InputError
from mofm.files import output_file

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
        "is given; several omics stand on real genes and their places.",
    )
    verb.add_argument("out", type=Path, metavar="OUT", help="the .h5ad or .h5mu file to write")
    verb.add_argument(
        "--modalities",
        nargs="+",
        choices=MODALITIES,
        default=["rna"],
        metavar="OMICS",
        help=f"of {', '.join(MODALITIES)} (default: rna); behind OUT",
    )
    verb.add_argument("--unpaired", action="store_true", help="each cell in one modality only")
    verb.add_argument("--species", help="whose genes the simulated ones are named after (default: human)")
    for name, (default, what) in _SIMULATED.items():
        flag = f"--{name.replace('_', '-')}"
        verb.add_argument(flag, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    verb.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    from mofm.omics.simulate import SimulationConfig, to_mudata, write_mudata

    several, as_mudata = len(set(args.modalities)) > 1, args.out.suffix == ".h5mu"
    if several and not as_mudata:
        raise InputError(f"{args.out}: several modalities need an OUT that ends in .h5mu")
    if args.unpaired and not several:
        raise InputError("--unpaired splits the cells between modalities: name several with --modalities")
    check_free(args.out, args.overwrite)
    config = SimulationConfig(**{name: getattr(args, name) for name in _SIMULATED})
    omics = _simulated(args, config)
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


def _simulated(args, config) -> dict:
    """Each modality's AnnData."""
    from mofm.omics.genome import gene_table
    from mofm.omics.simulate import AdtConfig, MultiomicsConfig, simulate, simulate_multiomics, split_unpaired

    if args.modalities == ["rna"] and args.species is None:
        return {"rna": simulate(config)}
    adt = AdtConfig(antibodies=min(AdtConfig.antibodies, config.genes - config.tfs))
    table = gene_table(args.species or "human")
    omics = simulate_multiomics(MultiomicsConfig(cells=config, adt=adt), args.modalities, table)
    return split_unpaired(omics, config.seed) if args.unpaired else omics
