"""Levels of confidence and tissues of the lines of a network: which are asked for, and which of several is best.

A cell may list several, by ";" or ",", and is of each of them. Letter case says nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.errors import InputError, nearest_name
from mofm.omics.network_columns import Statements

_BEST_WORDS = ("very high", "high", "medium", "moderate", "low", "very low")

SHOWN = 20
"""So many of the levels that there are are named to who asks for another."""


def check_levels(read: dict[str, Statements], paths: dict[str, Path], kind: str, wanted: tuple[str, ...]) -> None:
    """Raises `InputError` where a table has no levels, has none of those wanted, or one of them is in no table."""
    if not wanted:
        return
    there = {name: sorted(_levels_of(said.frame[kind])) for name, said in read.items()}
    known = sorted({level for levels in there.values() for level in levels})
    unknown = [level for level in wanted if not _among([level], known)]
    for name, said in read.items():
        if not getattr(said, f"has_{kind}"):
            raise InputError(
                f"{paths[name]}: has no column of {kind}, and {kind} {', '.join(wanted)} is asked for; leave out the table "
                f"or the {kind}"
            )
        if unknown or not _among(wanted, there[name]):
            has = known if unknown else there[name]
            shown = ", ".join(has[:SHOWN]) + (", ..." if len(has) > SHOWN else "")
            missing = " or ".join(map(repr, unknown or wanted))
            hint = nearest_name((unknown or wanted)[0], has)
            raise InputError(
                f"{paths[name]}: no line is of {kind} {missing}, there are {shown or 'none'}; ask for one of these.{hint}"
            )


def of_levels(said: Statements, asked: dict[str, tuple[str, ...]]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The statements of the levels asked for, and how many are left out by each kind."""
    frame, left_out = said.frame, {}
    for kind, wanted in asked.items():
        before, folded = len(frame), {_folded(level) for level in wanted}
        if wanted:
            codes, cells = pd.factorize(frame[kind])
            is_one = np.array([bool(folded & set(map(_folded, _levels_in(cell)))) for cell in cells], bool)
            frame = frame[is_one[codes]]
        left_out[f"left_out_by_{kind}"] = before - len(frame)
    return frame, left_out


def confidence_rank(level: str) -> tuple:
    """What levels of confidence are sorted by, the best first.

    Levels of a cell that lists several count by their best; what is not given comes last.
    """
    levels = _levels_in(level)
    if not levels:
        return (3,)
    if len(levels) > 1:
        return min(map(confidence_rank, levels))
    number = pd.to_numeric(levels[0], errors="coerce")
    if np.isfinite(number):
        return (1, -float(number), level)
    word = _folded(levels[0]).replace("_", " ")
    return (0, _BEST_WORDS.index(word), level) if word in _BEST_WORDS else (2, word, level)


def _levels_of(column: pd.Series) -> set[str]:
    return {level for cell in column.unique() for level in _levels_in(cell)}


def _levels_in(cell: str) -> list[str]:
    """The levels of a cell, which may list several by ";" or ","."""
    return [level for part in str(cell).replace(";", ",").split(",") if (level := part.strip())]


def _among(wanted: Sequence[str], known: Sequence[str]) -> bool:
    """Whether any of the levels wanted is a known one."""
    return bool({_folded(level) for level in wanted} & {_folded(level) for level in known})


def _folded(level: str) -> str:
    return str(level).strip().casefold()
