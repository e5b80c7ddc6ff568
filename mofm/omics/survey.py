"""A fragment file read through once, in bounded memory (Arrow, 100 MB/s), and checked: whole, and sorted.

The pass finds what counting needs to know before: how far each chromosome reaches, and how many fragments each barcode
has.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from mofm.errors import InputError
from mofm.omics.mtx import open_text

_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_TEXT_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class FragmentSurvey:
    """What a pass over a fragment file finds.

    Attributes:
      fragments: number of lines.
      per_chromosome: number of them on each chromosome.
      lengths: the largest end on each chromosome, in the order of the file.
      per_barcode: number of fragments of each barcode.
    """

    fragments: int
    per_chromosome: dict[str, int]
    lengths: dict[str, int]
    per_barcode: pd.Series


def survey(path: Path) -> FragmentSurvey:
    """Reads a whole fragment file and checks it.

    Raises:
      InputError: it is cut short, a line is no fragment, or it is not sorted by chromosome and start.
    """
    _check_end(path)
    lengths: dict[str, int] = {}
    on: dict[str, int] = {}
    counts: list[pd.Series] = []
    number, last = 0, ("", 0)
    for chroms, starts, ends, barcodes in _batches(path):
        names, codes = chroms.dictionary.to_pylist(), chroms.indices.to_numpy()
        starts, ends = starts.to_numpy(), ends.to_numpy()
        wrong = (starts < 0) | (ends <= starts)
        if wrong.any():
            raise _not_fragments(path, number + int(np.argmax(wrong)), "its end is not after its start")
        cuts = np.flatnonzero(np.diff(codes)) + 1
        for first, stop in zip([0, *cuts], [*cuts, len(codes)], strict=True):
            name = names[codes[first]]
            before = np.concatenate([[last[1] if name == last[0] else 0], starts[first : stop - 1]])
            falls = starts[first:stop] < before
            if falls.any() or (name != last[0] and name in lengths):
                at = first + int(np.argmax(falls))
                raise InputError(
                    f"{path}: not sorted: fragment {number + at + 1:,} ({name}:{starts[at]:,}) comes after {last[0]}:"
                    f"{before[at - first] if name == last[0] else last[1]:,}; sort it with `sort -k1,1 -k2,2n` and "
                    "compress it with bgzip"
                )
            lengths[name] = max(lengths.get(name, 0), int(ends[first:stop].max()))
            on[name] = on.get(name, 0) + int(stop - first)
            last = (name, int(starts[stop - 1]))
        number += len(codes)
        here = pyarrow.compute.value_counts(barcodes).flatten()
        counts.append(pd.Series(here[1].to_numpy(), index=here[0].to_pylist()))
        if len(counts) > 64:
            counts = [_summed(counts)]
    if not number:
        raise InputError(f"{path}: holds no fragments; fetch or write it again")
    return FragmentSurvey(number, on, lengths, _summed(counts).sort_index())


def _batches(path: Path) -> Iterator[tuple[pa.DictionaryArray, pa.Array, pa.Array, pa.Array]]:
    """(chromosome, start, end, barcode) of consecutive lines."""
    try:
        n_comments, n_columns = _shape(path)
        names = ["chrom", "start", "end", "barcode", *(f"more{i}" for i in range(n_columns - 4))]
        types = {"chrom": pa.dictionary(pa.int32(), pa.string()), "start": pa.int64(), "end": pa.int64()}
        types |= {"barcode": pa.string()}
        with open_text(path) as text:
            reader = pyarrow.csv.open_csv(
                text,
                pyarrow.csv.ReadOptions(block_size=_TEXT_BYTES, column_names=names, skip_rows=n_comments),
                pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
                pyarrow.csv.ConvertOptions(column_types=types, include_columns=names[:4]),
            )
            for batch in reader:
                if len(batch):
                    yield tuple(batch[name] for name in names[:4])
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: the fragments are cut short or damaged ({cause}); fetch or write the file again"
        ) from error


def _shape(path: Path) -> tuple[int, int]:
    """(comment lines before the first fragment, columns)."""
    with open_text(path) as text:
        begin = text.read(2**20).split(b"\n")
    comments = next((place for place, line in enumerate(begin) if not line.startswith(b"#")), len(begin))
    return comments, max(4, len(begin[comments].split(b"\t")) if comments < len(begin) else 4)


def _check_end(path: Path) -> None:
    """Raises `InputError` where the last line or the last block of bgzip is missing."""
    with path.open("rb") as file:
        head = file.read(18)
        file.seek(max(0, path.stat().st_size - len(_BGZF_END)))
        tail = file.read()
    is_bgzf = head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC"
    if is_bgzf and tail != _BGZF_END:
        raise InputError(f"{path}: cut short (the block that bgzip ends a file with is missing); fetch it again")
    if head[:2] != b"\x1f\x8b" and not tail.endswith(b"\n"):
        raise InputError(f"{path}: cut short (its last line does not end); fetch or write it again")


def _not_fragments(path: Path, line: int, what: str) -> InputError:
    return InputError(f"{path}: fragment {line + 1:,} is none: {what}; fetch or write the file again")


def _summed(counts: list[pd.Series]) -> pd.Series:
    together = pd.concat(counts)
    return together.groupby(level=0).sum()
