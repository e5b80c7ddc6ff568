"""ATAC fragments (`fragments.tsv.gz`) counted over peaks that are given, or over tiles of the genome.

SnapATAC2 does the counting (`pip install 'mofm[atac]'`): it is the well-kept library that counts fragments out of core, in
Rust, whatever the size of the file. A fragment counts once in a region that holds one of its two insertions or both:
paired insertion counts (Miao and Kim 2024), which are what a Poisson or Bernoulli likelihood assumes. Choices and their cost:

- The text is read once before (`survey.py`): SnapATAC2 takes a file that was cut short, or is out of order, as it is.
- Cells are the barcodes that are given, else those of at least `min_fragments` fragments (200, as in SnapATAC2).
- Tiles are numbered from 0 on every chromosome, so that two files share the names of their tiles. Those with fragments
  in less than 1 cell of 200 are left out and counted: six million tiles of noise would be most of a feature table.
- Mitochondrial fragments are left out: they are no chromatin.
- The counts of SnapATAC2 lie in a temporary folder (TMPDIR), a few bytes a fragment, until the table is closed.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.checks import Look
from mofm.omics.choice import Candidate, Wanted, make_candidate
from mofm.omics.matrices import StoredMatrix, StoredRows
from mofm.omics.mtx import open_text
from mofm.omics.survey import FragmentSurvey, survey
from mofm.omics.table import CountSource, CountTable

TILE_WIDTH = 500
MIN_FRAGMENTS = 200
MIN_CELL_SHARE = 0.005

_MITOCHONDRION = re.compile(r"(chr)?MT?", re.IGNORECASE)
_CELLS_AT_A_TIME = 500


def open_fragments(
    path: Path,
    *,
    given_as: Path | None = None,
    peaks: Path | None = None,
    tile_width: int | None = None,
    barcodes: pd.Index | None = None,
    min_fragments: int | None = None,
) -> CountTable:
    """The fragments of cells, counted over peaks or tiles: a table whose matrix is made before this returns.

    Args:
      path: the fragment file.
      given_as: the file or folder that the user named; `path` where None.
      peaks: a BED file of the regions to count over; tiles where None.
      tile_width: width of the tiles in bp (500 where None).
      barcodes: the cells; where None, barcodes of at least `min_fragments` (200 where None).

    Raises:
      InputError: SnapATAC2 is not installed, the fragments or peaks cannot be used, or no barcode is a cell.
    """
    library = _snapatac2()
    found = survey(path)
    cells, notes = _cells(path, found, barcodes, MIN_FRAGMENTS if min_fragments is None else min_fragments)
    width = TILE_WIDTH if tile_width is None else tile_width
    nuclear, more = _chromosomes(path, found, width)
    notes += more
    with ExitStack() as resources:
        folder = Path(tempfile.mkdtemp(prefix="mofm-fragments-"))
        resources.callback(shutil.rmtree, folder, ignore_errors=True)
        counted = library.pp.import_fragments(
            path, nuclear, file=folder / "fragments.h5ad", min_num_fragments=0, sorted_by_barcode=False,
            whitelist=cells.tolist(), tempdir=folder,
        )  # fmt: skip
        resources.callback(counted.close)
        if peaks is None:
            library.pp.add_tile_matrix(counted, bin_size=width, exclude_chroms=None)
        else:
            counted = library.pp.make_peak_matrix(counted, peak_file=_bed(peaks, folder), file=folder / "peaks.h5ad")
            resources.callback(counted.close)
        matrix = FragmentMatrix(str(path), "fragments", counted)
        obs = pd.DataFrame(
            {"fragments": found.per_barcode.reindex(counted.obs_names).to_numpy(np.int64)},
            index=pd.Index(list(counted.obs_names), dtype=object),
        )
        if peaks is None:
            candidate, left_out = _common_tiles(matrix, nuclear, width)
            notes += (f"fragments are counted in tiles of {width} bp",)
        else:
            var = pd.DataFrame(index=pd.Index(list(counted.var_names), dtype=object))
            candidate, left_out = make_candidate(str(path), matrix, var, Wanted("atac")), {}
            notes += (f"fragments are counted in the {len(var):,} peaks of {peaks.name}",)
        return CountTable(
            given_as or path, "fragments", str(path), "atac", "fragments", "fragments", obs, candidate.var,
            CountSource(candidate), left_out=left_out, notes=notes, resources=resources.pop_all(),
        )  # fmt: skip


class FragmentMatrix(StoredMatrix):
    """Cells x regions, as SnapATAC2 keeps them in its own file (whose compression h5py does not have)."""

    layout = "fragments"

    def __init__(self, path: str, name: str, counted):
        super().__init__(path, name, tuple(counted.shape), np.dtype(np.uint32), 0)
        self._counted = counted

    def rows(self, block_entries: int) -> Iterator[StoredRows]:
        """Blocks of some hundred cells, whatever their entries: a cell has tens of thousands."""
        for chunk, _, _ in self._counted.chunked_X(_CELLS_AT_A_TIME):
            yield StoredRows(chunk.indptr.astype(np.int64), chunk.indices, chunk.data)

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The first cells."""
        rows = next(self.rows(1))
        return rows.indices, rows.values


def check_installed() -> None:
    """Raises `InputError` where SnapATAC2 is not installed."""
    _snapatac2()


def read_barcodes(path: Path) -> pd.Index:
    """The names in a barcodes.tsv (gzipped or not): the first column, each once. Raises `InputError`."""
    try:
        with open_text(path) as text:
            first = [line.split(b"\t")[0].strip().decode() for line in text.read().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of barcodes ({error}); check the path") from error
    return pd.Index(dict.fromkeys(name for name in first if name), dtype=object)


def _cells(
    path: Path, found: FragmentSurvey, barcodes: pd.Index | None, min_fragments: int
) -> tuple[pd.Index, tuple[str, ...]]:
    """The barcodes that are cells, and what is to be said of them."""
    per_barcode = found.per_barcode
    if barcodes is None:
        cells = per_barcode.index[per_barcode >= min_fragments]
        what = f"of at least {min_fragments} fragments"
        remedy = "lower --min-fragments, or name the cells with --barcodes"
    else:
        cells, what = per_barcode.index[per_barcode.index.isin(barcodes)], "named as cells"
        remedy = f"are they of this sample (first: {barcodes[0] if len(barcodes) else 'none'!r})?"
    if not len(cells):
        raise InputError(
            f"{path}: none of its {len(per_barcode):,} barcodes (such as {per_barcode.index[0]!r}) is {what}; {remedy}"
        )
    share = per_barcode[cells].sum() / found.fragments
    return cells, (f"{len(cells):,} of {len(per_barcode):,} barcodes are {what}, with {share:.1%} of the fragments",)


def _chromosomes(path: Path, found: FragmentSurvey, width: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Lengths of all chromosomes but the mitochondrial, in whole tiles; and what is to be said of those left out."""
    lengths = {name: -(-length // width) * width for name, length in found.lengths.items()}
    left_out = [name for name in lengths if _MITOCHONDRION.fullmatch(name)]
    nuclear = {name: length for name, length in lengths.items() if name not in left_out}
    if not nuclear:
        raise InputError(f"{path}: all fragments are mitochondrial; give those of the whole genome")
    return nuclear, tuple(f"{found.per_chromosome[name]:,} fragments on {name} are left out" for name in left_out)


def _common_tiles(matrix: FragmentMatrix, lengths: dict[str, int], width: int) -> tuple[Candidate, dict[str, int]]:
    """The tiles that enough cells have, and the number of the others that any cell has.

    Args:
      lengths: of the chromosomes, in the order of the tiles; multiples of `width`.
    """
    n_cells, n_tiles = matrix.shape
    cells_of = np.zeros(n_tiles, np.int32)
    for rows in matrix.rows(1):
        cells_of += np.bincount(rows.indices, minlength=n_tiles).astype(np.int32)
    least = max(1, int(np.ceil(MIN_CELL_SHARE * n_cells)))
    kept = cells_of >= least
    if not kept.any():
        raise InputError(f"{matrix.path}: no tile has fragments in {least:,} cells; give --peaks or wider tiles")
    # Named here, and not looked at by `make_candidate`: to name six million tiles takes longer than to count fragments.
    first = np.concatenate([[0], np.cumsum([length // width for length in lengths.values()])])
    chroms, places = list(lengths), np.flatnonzero(kept)
    chrom = np.searchsorted(first, places, side="right") - 1
    start = (places - first[chrom]) * width
    names = [f"{chroms[c]}:{s}-{s + width}" for c, s in zip(chrom.tolist(), start.tolist(), strict=True)]
    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    new_column = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    candidate = Candidate(matrix, var, new_column, {}, Look("counts", "fragments"))
    rare = int(np.count_nonzero((cells_of > 0) & ~kept))
    return candidate, {f"tiles in fewer than {least:,} cells": rare} if rare else {}


def _snapatac2() -> ModuleType:
    try:
        import snapatac2
    except ImportError as error:
        raise InputError(
            "fragments are counted by SnapATAC2, which is not installed; install it with pip install 'mofm[atac]'"
        ) from error
    return snapatac2


def _bed(peaks: Path, folder: Path) -> Path:
    """The peaks, each once, as a plain BED file of three columns. Raises `InputError` where they are none."""
    try:
        with open_text(peaks) as text:
            table = pd.read_csv(text, sep="\t", header=None, comment="#", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise InputError(f"{peaks}: cannot be read as BED ({cause}); check the path") from error
    digits = table.shape[1] >= 3 and (table[1].str.fullmatch(r"\d+") & table[2].str.fullmatch(r"\d+"))
    if table.shape[1] < 3 or not digits.all():
        raise InputError(f"{peaks}: peaks without coordinates; BED has chromosome, start and end by tabs in each line")
    table[[0, 1, 2]].drop_duplicates().to_csv(folder / "peaks.bed", sep="\t", header=False, index=False)
    return folder / "peaks.bed"
