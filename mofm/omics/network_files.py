"""The cells of a table of regulation as text, with the line each stands in: TSV, CSV, BED or Parquet, gzipped or not.

Choices and their cost:
- Content decides, not the suffix: gzip and Parquet are known by their first bytes, the separator by the first line (tab,
  comma, semicolon, else white space). Everything is text until a column is known to hold numbers, so that a gene is
  never read as one.
- A table is held in memory whole: that of a million lines takes some hundred MB.
- Comments before the table ("#", and the "track" and "browser" lines of BED) are passed over; a header may begin with
  "#" itself. Names of rows that R writes, one cell more than the header has, are passed over too.
- Whether there is a header is seen by its words (`HEADER_WORDS` of those who read); without one the columns are called
  0, 1, 2, ...
"""

import gzip
import io
import re
import zlib
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mofm.errors import InputError

TRRUST_WORDS = frozenset(["activation", "repression", "unknown"])
"""What TRRUST's tables, which have no header, say in their third column; in lower case."""

_BESIDE = re.compile(r"(track|browser)\s")


class Cells(NamedTuple):
    """A table as it is written, N lines that are not empty.

    Attributes:
      path: the file.
      frame: object[N, columns] of str, stripped, "" where nothing stands; of Parquet, numbers stay numbers. Columns by
        their plain names (see `plain`); "0", "1", ... where there is no header.
      header: the columns as they are written; empty where there is no header.
      line: int64[N], the line of each in the file, from 1; of Parquet the row.
    """

    path: Path
    frame: pd.DataFrame
    header: tuple[str, ...]
    line: np.ndarray

    @property
    def unit(self) -> str:
        """What `line` counts, for messages."""
        return "row" if self.path.suffix == ".parquet" else "line"

    def first_of(self, names: tuple[str, ...]) -> str | None:
        """The first of `names` that is a column; None where none is."""
        return next((name for name in names if name in self.frame), None)


def plain(name: object) -> str:
    """A column's name in lower case, "_" for all punctuation: "tf_name" for "TF name" and "#TF.Name"."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def read_cells(path: Path, header_words: Set[str]) -> Cells:
    """The table of a file.

    Args:
      header_words: plain names of columns. A first line with one of them is the header.

    Raises:
      InputError: the file is missing, cannot be read, is no table of text, or has no line beside its header.
    """
    if not path.is_file():
        found = "is no file" if path.exists() else "no such file"
        raise InputError(f"{path}: {found}; check the path of the table")
    try:
        content = path.read_bytes()
        if content[:4] == b"PAR1":
            return _check_lines(_of_parquet(path, content))
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as a table of text, gzipped text or Parquet ({why}); fetch or write it again"
        ) from error
    return _check_lines(_of_text(path, text, header_words))


def _check_lines(cells: Cells) -> Cells:
    if cells.frame.empty:
        raise InputError(f"{cells.path}: holds no line of a table; fetch or write it again")
    return cells


def _of_parquet(path: Path, content: bytes) -> Cells:
    table = pq.read_table(pa.BufferReader(content))
    frame = table.to_pandas(ignore_metadata=True)
    header = tuple(map(str, frame.columns))
    frame.columns = [plain(name) for name in header]
    frame = frame.loc[:, ~frame.columns.duplicated()]
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]) or pd.api.types.is_bool_dtype(frame[name]):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str).str.strip()
    return Cells(path, frame, header, np.arange(1, len(frame) + 1))


def _of_text(path: Path, text: str, header_words: Set[str]) -> Cells:
    skipped, header, separator = _head(text, header_words)
    try:
        body = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=None,
            skiprows=skipped,
            dtype=str,
            na_filter=False,
            skip_blank_lines=False,
            engine="c",
        )
    except pd.errors.EmptyDataError:
        body = pd.DataFrame()
    except (pd.errors.ParserError, ValueError) as error:
        why = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise InputError(
            f"{path}: its lines are not those of one table ({why}); write each with as many cells as the first"
        ) from error
    body = body.fillna("").apply(lambda column: column.str.strip())
    line = np.arange(len(body)) + skipped + 1
    written = (body != "").any(axis=1).to_numpy() if len(body) else np.zeros(0, bool)
    body, line = body[written].reset_index(drop=True), line[written]
    if not header:
        return Cells(path, body.set_axis([str(place) for place in range(body.shape[1])], axis=1), (), line)
    if len(body) and body.shape[1] == len(header) + 1:
        body = body.iloc[:, 1:]
    if len(body) and body.shape[1] != len(header):
        raise InputError(
            f"{path}: line {line[0]} has {body.shape[1]} cells and the header {len(header)}; write each line with a cell "
            "for each column"
        )
    frame = body.set_axis([plain(name) for name in header], axis=1) if len(body) else pd.DataFrame()
    return Cells(path, frame.loc[:, ~frame.columns.duplicated()], header, line)


def _head(text: str, header_words: Set[str]) -> tuple[int, tuple[str, ...], str]:
    """How many lines stand before the first of the table, the cells of the header, () for none, and the separator."""
    comment, skipped, first = "", 0, ""
    for raw in io.StringIO(text):
        first = raw.strip("\r\n")
        if first.strip() and not first.startswith("#") and not _BESIDE.match(first):
            break
        comment, first, skipped = (first if first.startswith("#") else comment), "", skipped + 1
    separator = next((mark for mark in "\t,;" if mark in first), r"\s+")
    cells = _split(first, separator)
    if header_words & {plain(cell) for cell in cells}:
        return skipped + 1, cells, separator
    commented = _split(comment.lstrip("#").strip(), separator)
    if len(commented) == len(cells) and header_words & {plain(cell) for cell in commented}:
        return skipped, commented, separator
    if _is_data(cells):
        return skipped, (), separator
    return skipped + 1, cells, separator


def _split(line: str, separator: str) -> tuple[str, ...]:
    cells = line.split() if separator == r"\s+" else line.split(separator)
    return tuple(cell.strip().strip('"').strip() for cell in cells)


def _is_data(cells: tuple[str, ...]) -> bool:
    """Whether a line without a header's words is one of the table: any of its cells but the first is a number, or its
    third a word of regulation as TRRUST has them."""
    return any(re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", cell, re.I) for cell in cells[1:]) or (
        len(cells) >= 3 and cells[2].lower() in TRRUST_WORDS
    )
