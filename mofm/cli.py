"""The `mofm` command: one verb for each thing a person does with cells and models.

Verbs import what they need when they run, so that `mofm --help` answers at once. An `InputError` is one line on stderr
and exit code 2; anything else that goes wrong is ours, and keeps its traceback.
"""

import argparse
import errno
import logging
import os
import sys
from pathlib import Path

import mofm
from mofm.axes import MODALITIES
from mofm.errors import InputError
from mofm.files import output_file

INPUTS = "h5ad, h5mu, 10x HDF5 or matrix folder, Cell Ranger outs folder, or fragments.tsv.gz"

EPILOG = """\
a first run, on your own file:
  mofm inspect cells.h5ad
  mofm ingest cells.h5ad corpus/
  mofm train --config configs/small.py --config.data.corpus=corpus/ --workdir runs/mine
  mofm embed runs/mine cells.h5ad cells_embedded.h5ad
"""


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    args, rest = parser.parse_known_args(argv)
    if rest and (args.verb != "train" or not all(word.startswith("--config.") for word in rest)):
        parser.error(f"unknown argument {rest[0]!r}; see `mofm {args.verb} --help`")
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # what Orbax logs as an error, with a traceback, it also raises
    args.overrides = [word.removeprefix("--config.") for word in rest]
    try:
        return args.run(args) or 0
    except InputError as error:
        print(f"mofm {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mofm {args.verb}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_disk_full(error):
            raise
        place = args.workdir if "workdir" in args else args.out
        print(f"mofm {args.verb}: {place}: the disk is full; free space, and the same command goes on", file=sys.stderr)
        return 2


def _is_disk_full(error: BaseException | None) -> bool:
    """TensorStore and Orbax tell it in the text of other errors."""
    full = (errno.ENOSPC, errno.EDQUOT)
    seen = []
    while error is not None and error not in seen:
        if getattr(error, "errno", None) in full or any(os.strerror(number) in str(error) for number in full):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mofm",
        description="Foundation models of single-cell multi-omics data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mofm {mofm.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (_add_inspect, _add_ingest, _add_train, _add_embed, _add_simulate, _add_demo):
        add(verbs)
    return parser


def _verb(verbs, name: str, run, summary: str, details: str = "") -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name, help=summary, description=f"{summary}\n\n{details}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.set_defaults(run=run)
    return verb


def _add_counts_options(verb: argparse.ArgumentParser) -> None:
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
    verb.add_argument("--species", default="human", help="whose gene table resolves the names (default: human)")


def _add_reading_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--modality",
        choices=MODALITIES,
        help="read this modality alone; of an h5ad file that does not tell, what it is (default: found)",
    )
    verb.add_argument("--peaks", type=Path, metavar="BED", help="count fragments over these peaks")
    verb.add_argument("--tile-width", type=int, metavar="BP", help="count fragments over tiles (default: 500)")
    verb.add_argument("--barcodes", type=Path, metavar="TSV", help="the barcodes of fragments that are cells")
    verb.add_argument(
        "--min-fragments", type=int, metavar="N", help="or: barcodes of so many fragments are cells (default: 200)"
    )


def _add_inspect(verbs) -> None:
    verb = _verb(verbs, "inspect", _inspect, "Say what a file or a corpus holds, and whether mofm can use it.")
    verb.add_argument("path", type=Path, help=f"{INPUTS}, or a corpus directory")
    verb.add_argument("--json", action="store_true", help="for programs")
    _add_reading_options(verb)


def _inspect(args) -> int:
    from mofm.inspection import inspect, render
    from mofm.omics.readers import Reading

    names = ("modality", "peaks", "tile_width", "barcodes", "min_fragments")
    report = inspect(args.path, Reading(**{name: getattr(args, name) for name in names}))
    render(report, as_json=args.json)
    return 0 if report["usable"] else 2


def _add_ingest(verbs) -> None:
    verb = _verb(
        verbs,
        "ingest",
        _ingest,
        "Read count matrices of any omics type into a corpus that training streams from.",
        "A corpus is a directory of AnnData zarr stores and a manifest.json; anndata.io.read_zarr opens each store.\n"
        "Cells of one file that share a name are paired. What is not modelled (hashtags, guides) is left out and said.\n"
        "Files already in it are left alone, so an interrupted ingest is repeated as it was given.",
    )
    verb.add_argument("inputs", nargs="+", type=Path, metavar="IN", help=f"{INPUTS}, with raw counts")
    verb.add_argument("out", type=Path, metavar="OUT", help="the corpus directory, made or added to")
    verb.add_argument("--names", nargs="+", metavar="NAME", help="names of the datasets (default: the files' names)")
    _add_counts_options(verb)
    _add_reading_options(verb)
    verb.add_argument("--build", help="genome build of peaks and other regions (default: found by their places)")
    verb.add_argument(
        "--unpaired", action="store_true", help="modalities that share no cell names are of different cells"
    )
    verb.add_argument("--jobs", type=int, help="files to read at once (default: the cores, where it is worth it)")


def _ingest(args) -> int:
    from mofm.corpus.ingest import ingest, jobs_for
    from mofm.inspection import render_ingest
    from mofm.progress import files_progress

    options = (
        "counts_from", "recover_counts", "species", "names", "modality", "build", "unpaired", "peaks", "tile_width",
        "barcodes", "min_fragments",
    )  # fmt: skip
    jobs = jobs_for(args.inputs) if args.jobs is None else args.jobs
    with files_progress("ingesting") as on_progress:
        results = ingest(
            args.inputs,
            args.out,
            **{name: getattr(args, name) for name in options},
            jobs=jobs,
            on_progress=on_progress,
        )
    render_ingest(results, args.out)
    print(
        f"next: mofm train --config configs/small.py --config.data.corpus={args.out} --workdir runs/mine",
        file=sys.stderr,
    )
    return 0


def _add_train(verbs) -> None:
    verb = _verb(
        verbs,
        "train",
        _train,
        "Pretrain a model on a corpus; the same command resumes a stopped run.",
        "Any key of the config is set as --config.GROUP.KEY=VALUE, such as --config.encoder.width=512.\n"
        "SIGTERM and Ctrl-C save and leave; metrics go to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.",
    )
    verb.add_argument("--config", required=True, type=Path, help="a config file, such as configs/small.py")
    verb.add_argument("--workdir", required=True, type=Path, help="the run's directory")
    verb.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _train(args) -> int:
    from mofm.training.config import load_config
    from mofm.training.loop import DivergedError, train

    config = load_config(args.config, args.overrides)
    try:
        step = train(config, args.workdir, quiet=args.quiet)
    except DivergedError as error:
        print(f"mofm train: {error}", file=sys.stderr)
        return 3
    if step < config.run.steps:
        print(f"stopped at step {step} of {config.run.steps} and saved; the same command goes on", file=sys.stderr)
    else:
        print(f"trained {step} steps; next: mofm embed {args.workdir} IN.h5ad OUT.h5ad", file=sys.stderr)
    return 0


def _add_embed(verbs) -> None:
    verb = _verb(
        verbs,
        "embed",
        _embed,
        'Write each cell\'s embedding to obsm["X_mofm"] of a copy of the file.',
        "Of a file of several modalities each is embedded, and the mean of a cell's embeddings besides.\n"
        'uns["mofm"] says which model it was and what share of the file\'s features and counts the model knows.',
    )
    verb.add_argument("model", type=Path, metavar="MODEL", help="the workdir of a `mofm train` run")
    verb.add_argument("input", type=Path, metavar="IN", help=f"{INPUTS}, with raw counts")
    verb.add_argument("output", type=Path, metavar="OUT", help="the file to write: h5mu of an h5mu, h5ad of others")
    verb.add_argument("--step", type=int, help="which checkpoint (default: the best by held-out loss)")
    verb.add_argument("--batch-size", type=int, default=64, help="cells at a time (default: 64)")
    verb.add_argument("--max-tokens", type=int, default=2048, help="most tokens of a cell (default: 2048)")
    verb.add_argument("--key-added", default="X_mofm", help="the key in obsm (default: X_mofm)")
    verb.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    verb.add_argument("--build", help="genome build of peaks and other regions (default: found by their places)")
    _add_reading_options(verb)
    _add_counts_options(verb)


def _embed(args) -> int:
    from mofm.inference.model import load
    from mofm.inference.output import write_embedding
    from mofm.omics.readers import Reading

    _check_free(args.output, args.overwrite)
    names = ("modality", "counts_from", "recover_counts", "peaks", "tile_width", "barcodes", "min_fragments")
    embeddings = load(args.model, step=args.step).embed_all(
        args.input,
        Reading(**{name: getattr(args, name) for name in names}),
        **{name: getattr(args, name) for name in ("species", "build", "batch_size", "max_tokens")},
    )
    write_embedding(args.input, args.output, embeddings, args.key_added)
    for modality, embedding in embeddings.items():
        report, (cells, width) = embedding.report, embedding.embedding_NE.shape
        key = args.key_added if len(embeddings) == 1 else f"{args.key_added}_{modality}"
        what = _FEATURES[modality]
        known, features = report["features_matched"], report["features_matched"] + report["features_unmatched"]
        print(f'{args.output}: obsm["{key}"], {cells:,} cells x {width}, model {report["model"]} step {report["step"]}')
        print(
            f"  the model knows {known:,} of {features:,} {what} ({report['share_of_features_known']:.1%}), "
            f"which hold {report['share_of_counts_known']:.1%} of the counts"
        )
        if report["share_of_counts_known"] < 0.5:
            print(f"  warning: less than half of the counts are in {what} that the model knows; it says little of them")
    if len(embeddings) > 1:
        print(f'{args.output}: obsm["{args.key_added}"], the mean of each cell\'s embeddings')
    return 0


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


_FEATURES = {"rna": "genes", "atac": "peaks", "adt": "antibodies", "methylation": "regions"}


def _add_simulate(verbs) -> None:
    verb = _verb(
        verbs,
        "simulate",
        _simulate,
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


def _simulate(args) -> int:
    from mofm.omics.simulate import SimulationConfig, to_mudata, write_mudata

    several, as_mudata = len(set(args.modalities)) > 1, args.out.suffix == ".h5mu"
    if several and not as_mudata:
        raise InputError(f"{args.out}: several modalities need an OUT that ends in .h5mu")
    if args.unpaired and not several:
        raise InputError("--unpaired splits the cells between modalities: name several with --modalities")
    _check_free(args.out, args.overwrite)
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
        print(f"{args.out}: {cells:,} cells x {features:,} {_FEATURES[modality]}, {config.cell_types} types{edges}")
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


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: give another OUT, or --overwrite")


def _add_demo(verbs) -> None:
    verb = _verb(
        verbs,
        "demo",
        _demo,
        "The main job, end to end, on data that comes with the package: simulate, ingest, pretrain, embed, report.",
        "About five minutes on two CPU cores. Run it again after a kill: it goes on where it was.",
    )
    verb.add_argument(
        "--workdir", type=Path, default=Path("runs/demo"), help="where data, run and report go (default: runs/demo)"
    )
    verb.add_argument("--steps", type=int, help="training steps (default: what configs/demo.py says)")


def _demo(args) -> int:
    from mofm.demo import demo

    page = demo(args.workdir, args.steps)
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
