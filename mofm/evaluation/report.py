"""A run's report: one page that needs nothing beside it, its figures as PNG files, and report.json for programs.

The page inlines its figures, loads nothing and runs no script (its content policy says so), so it can be mailed,
archived and opened anywhere. Whatever a data set calls its cells, genes and columns is escaped: a label is text, never
markup. Files are written beside the place and moved in by rename, the page last: a reader never meets half a page,
and a report that fails leaves the previous one. PNG files of an earlier report under other names stay.
"""

import base64
import io
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib.figure
import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.evaluation.figures import DPI

FORMAT = "mofm-report-1"


class Figure(NamedTuple):
    """Attributes: name, of its file (letters, digits, - and _); caption, also its alt text; fig."""

    name: str
    caption: str
    fig: matplotlib.figure.Figure


class Table(NamedTuple):
    """Attributes: title; note, a line below it or ""; frame, whose columns are shown and whose index is not."""

    title: str
    note: str
    frame: pd.DataFrame


def write_report(
    out_dir: Path,
    *,
    title: str,
    lead: str,
    facts: dict[str, object],
    figures: list[Figure],
    tables: list[Table],
    command: str,
    page: str = "index.html",
    record: tuple[str, dict] | None = None,
) -> Path:
    """Write the page, its record and NAME.png for each figure into `out_dir`; returns the path of the page.

    Args:
      out_dir: made where absent.
      title: the page's heading.
      lead: what was found, in a sentence or two.
      facts: short name -> value, in the order shown. Numbers stay numbers in report.json.
      figures, tables: in the order shown.
      command: what made this report, to be run again.
      page: name of the page.
      record: name and content of what is for programs; None for report.json, of all that the page shows.

    Raises:
      InputError: `out_dir` is a file or cannot be written.
      ValueError: a figure's name is no file name, or is used twice.
    """
    _check_names([figure.name for figure in figures])
    images = [_png(figure.fig) for figure in figures]
    html = _render(title, lead, facts, figures, images, tables, command)
    shown_record = {
        "format": FORMAT,
        "title": title,
        "lead": lead,
        "command": command,
        "facts": {str(name): _plain(value) for name, value in facts.items()},
        "figures": [{"name": f.name, "file": f"{f.name}.png", "caption": f.caption} for f in figures],
        "tables": [
            {
                "title": table.title,
                "note": table.note,
                "columns": [str(column) for column in table.frame.columns],
                "rows": [[_plain(value) for value in row] for row in table.frame.itertuples(index=False, name=None)],
            }
            for table in tables
        ],
    }
    files = {f"{figure.name}.png": image for figure, image in zip(figures, images, strict=True)}
    name, content = ("report.json", shown_record) if record is None else record
    files[name] = (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    files[page] = html.encode()
    return _move_in(Path(out_dir), files) / page


def read_metrics(path: Path) -> pd.DataFrame:
    """metrics.jsonl as a table: a row a line, "step" and every key met, NaN where a line lacks it.

    A last line that is half written (the run is going on, or was killed) is left out with a warning.

    Raises:
      InputError: no such file, no whole line, or a line that is not an object with a numeric "step".
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such metrics file; a training run writes it into its workdir")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                warnings.warn(f"{path}: line {number}, the last, is half written and was left out", stacklevel=2)
                break
            raise InputError(f"{path}: line {number} is not JSON ({error.msg}); remove that line") from None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
            raise InputError(f'{path}: line {number} is not an object with a numeric "step"; is this a metrics.jsonl?')
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no whole line yet; let the run take some steps")
    return pd.DataFrame(rows)


def _render(
    title: str,
    lead: str,
    facts: dict[str, object],
    figures: list[Figure],
    images: list[bytes],
    tables: list[Table],
    command: str,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mofm.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        lead=lead,
        facts=[(str(name), shown(value)) for name, value in facts.items()],
        figures=[
            {"name": f.name, "caption": f.caption, "data": base64.b64encode(image).decode(), "size": _css_size(image)}
            for f, image in zip(figures, images, strict=True)
        ],
        tables=[
            {
                "title": table.title,
                "note": table.note,
                "columns": [
                    (str(name), pd.api.types.is_numeric_dtype(dtype)) for name, dtype in table.frame.dtypes.items()
                ],
                "rows": [[shown(value) for value in row] for row in table.frame.itertuples(index=False, name=None)],
            }
            for table in tables
        ],
        command=command,
    )


def shown(value: object) -> str:
    """A value as the page prints it: whole numbers grouped, others to 3 decimals or 4 digits, a dash where absent."""
    value = _plain(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        if size >= 1000:
            return f"{value:,.0f}"
        return f"{value:.3f}" if 0.01 <= size < 10 else f"{value:.4g}"
    return str(value)


def _plain(value: object) -> object:
    """What JSON holds: numpy numbers as Python's, what is missing or not finite as None, anything else as its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _check_names(names: list[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or names.count(name) > 1:
            raise ValueError(f"figure name {name!r} must be unique and made of letters, digits, - and _")


def _png(fig: matplotlib.figure.Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the version in it, the same figure gives the same bytes.
    fig.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    return buffer.getvalue()


def _css_size(png: bytes) -> tuple[int, int]:
    """Width and height in CSS pixels (96 an inch), from the PNG header: given to the page, it holds the place."""
    return tuple(round(int.from_bytes(png[at : at + 4], "big") * 96 / DPI) for at in (16, 20))


def _move_in(out_dir: Path, files: dict[str, bytes]) -> Path:
    """Write all files in a new directory beside `out_dir`, then rename each into it, in the order given."""
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; give a directory for the report")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out_dir.resolve().name}-", dir=out_dir.resolve().parent))
    except OSError as error:
        raise InputError(f"{out_dir}: the report cannot be written there ({error.strerror})") from None
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        for name in files:
            os.replace(staging / name, out_dir / name)
    except OSError as error:
        raise InputError(f"{out_dir}: the report cannot be written there ({error.strerror}); free space") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out_dir
