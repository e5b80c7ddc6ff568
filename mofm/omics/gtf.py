"""Genes from an annotation in GTF, as GENCODE, Ensembl and Cell Ranger's references have it, gzipped or not.

Only lines of feature "gene" are read, one at a time: memory does not grow with the transcripts and exons. GENCODE says
`gene_type` and puts the version into the id, Ensembl says `gene_biotype` and keeps it apart; both are read. The copies
of pseudoautosomal genes on Y that are named after those on X ("ENSG00000182378.15_PAR_Y") are left out.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mofm.errors import InputError

_ATTRIBUTE = re.compile(r'(gene_id|gene_name|gene_type|gene_biotype) "?([^";]*)"?')
_VERSION = re.compile(r"(ENS[A-Z]{0,6}G\d{11})\.\d+")
_COLUMNS = ("gene_id", "symbol", "biotype", "chrom", "start", "end", "strand")


def is_gtf(path: Path) -> bool:
    """Whether a file's name says that it is GTF."""
    return path.name.lower().endswith((".gtf", ".gtf.gz"))


def read_gtf(path: Path) -> pd.DataFrame:
    """The genes of a GTF file: columns gene_id, symbol, biotype, chrom, start, end, strand.

    Ids have no version; a gene without a name has its id as symbol, and one without a biotype "unknown". Places count
    from 0 with the end exclusive; chromosomes are named as in the file.

    Raises:
      InputError: the file cannot be read, a gene line is malformed, or there is none.
    """
    try:
        rows = list(_genes(path))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as GTF ({str(error).splitlines()[0]})") from error
    if not rows:
        raise InputError(f"{path}: no line of feature 'gene'; give the annotation as GENCODE or Ensembl publish it")
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _genes(path: Path) -> Iterator[tuple[str, str, str, str, int, int, str]]:
    with gzip.open(path, "rt") if path.name.lower().endswith(".gz") else path.open() as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith("#") or "\tgene\t" not in line:
                continue
            fields = line.rstrip("\n").split("\t")
            attributes = dict(_ATTRIBUTE.findall(fields[-1])) if len(fields) == 9 else {}
            whole = len(fields) == 9 and fields[3].isdigit() and fields[4].isdigit()
            if not whole or not attributes.get("gene_id"):
                raise InputError(f"{path}: line {number:,} is no gene of a GTF file; nine columns and gene_id expected")
            gene_id = attributes["gene_id"]
            if gene_id.endswith("_PAR_Y"):
                continue
            match = _VERSION.fullmatch(gene_id)
            gene_id = match[1] if match else gene_id
            biotype = attributes.get("gene_type") or attributes.get("gene_biotype") or "unknown"
            symbol = attributes.get("gene_name") or gene_id
            yield gene_id, symbol, biotype, fields[0], int(fields[3]) - 1, int(fields[4]), fields[6]
