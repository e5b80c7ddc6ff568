"""What a table of a gene regulatory network says, whatever lab wrote it: TF, target, sign, weight, evidence, context.

Read are, by the names of their columns and not by the names of their files:
- DoRothEA (tf, target, confidence, sign) and what decoupler makes of it (source, confidence, target, mor or weight);
- CollecTRI (source, target, weight, resources, references, sign_decision);
- TRRUST 2, without header: TF, target, "Activation", "Repression" or "Unknown", PubMed ids;
- OmniPath's interactions (source_genesymbol, target_genesymbol before source and target, which are UniProt's;
  is_directed, is_stimulation, is_inhibition, and the consensus of these before them);
- GRNBoost and other outputs of arboreto (TF, target, importance), with or without header;
- any table with a column of `TF_COLUMNS` and one of `TARGET_COLUMNS`.

Choices and their cost:
- A sign is taken from a column of signs, words or numbers. Where there is none, it is the sign of the weights, if any
  of them is below 0: a table of importances (all above 0) says nothing of signs, and one that has only activation, as
  weights of 1, is read like it.
- Beside a column of signs a weight below 0 represses only where the column does not say and the table has weights of
  both signs: a column that is all negative is a log probability or an energy, of which the size counts.
- A column of signs that are not all -1, 0 and 1, with no column of weights, gives both, as decoupler's mor does.
- Weights are divided by the largest of the table, before anything is left out: to ask for less does not change the
  weight of what is left. How many papers report an interaction (OmniPath) is fame and no weight.
- A line that says both, activation and repression, has sign 0 and counts as a conflict.
- Interactions that have no direction (OmniPath) are left out and counted: which is the TF is not said.
"""

import dataclasses

import numpy as np
import pandas as pd

from mofm.errors import InputError
from mofm.omics.network_files import Cells, plain

TF_COLUMNS = (
    *("source_genesymbol", "tf_genesymbol", "tf", "tf_name", "tf_symbol", "tf_gene", "transcription_factor"),
    *("regulator", "regulator_symbol", "regulator_name", "regulator_gene", "source", "source_name", "source_symbol"),
)
TARGET_COLUMNS = (
    *("target_genesymbol", "target", "target_gene", "target_name", "target_symbol", "targets", "tg", "regulated_gene"),
    *("gene", "gene_symbol", "gene_name", "genesymbol", "symbol", "gene_id"),
)
SIGN_COLUMNS = ("sign", "mor", "effect", "regulation", "mode_of_regulation", "regulation_type", "mode")
WEIGHT_COLUMNS = ("weight", "score", "importance", "coef", "coef_mean")
CONFIDENCE_COLUMNS = ("confidence", "confidence_level", "dorothea_level", "level", "likelihood")
TISSUE_COLUMNS = ("tissue", "tissue_name", "tissues", "context", "cell_type", "celltype", "cell_line")
"""Columns by their plain names (`network_files.plain`); of several the first of these lists is taken."""

_ACTIVATES = (
    *("+", "activation", "activates", "activate", "activating", "activator", "active", "stimulation", "stimulates"),
    *("positive", "pos", "up", "up-regulation", "upregulation", "up-regulates", "upregulates", "induces", "induction"),
)
_REPRESSES = (
    *("-", "repression", "represses", "repress", "repressing", "repressor", "inhibition", "inhibits", "inhibiting"),
    *("negative", "neg", "down", "down-regulation", "downregulation", "down-regulates", "downregulates", "inhibitor"),
)
_NOT_GIVEN = ("", ".", "?", "unknown", "na", "nan", "none", "null", "undefined", "unspecified", "not known")
_BOTH = ("both", "dual", "mixed", "+-", "+/-", "-/+", "ambiguous")
_TRUE = ("1", "1.0", "true", "t", "yes")


@dataclasses.dataclass(frozen=True, eq=False)
class Statements:
    """What the lines of one table say of which TF regulates which gene.

    Attributes:
      layout: of the table, in words.
      frame: a row a statement: tf and target (str, names as written), sign (int8: 1, -1, 0 not given), contradicts (bool:
        the line says both), weight (float64, 0 to 1), confidence and tissue (str, "" not given). Its index is the line.
      lines: how many lines the table has.
      left_out: how many of them are no statement, by reason: "unnamed" (no TF or no target), "undirected", and
        "zero_weight".
      has_confidence, has_tissue: whether the table has them.
      notes: what a person should know of the reading, a line each.
    """

    layout: str
    frame: pd.DataFrame
    lines: int
    left_out: dict[str, int]
    has_confidence: bool
    has_tissue: bool
    notes: tuple[str, ...] = ()


def names_tf_and_target(cells: Cells) -> bool:
    """Whether the columns of a table name a TF and a target."""
    return bool(cells.first_of(TF_COLUMNS) and cells.first_of(TARGET_COLUMNS))


def read_statements(cells: Cells) -> Statements:
    """What a table of TFs and their targets says.

    Raises:
      InputError: no columns name TF and target; a word of regulation is unknown; a weight is no finite number.
    """
    cells = cells if cells.header else _named(cells)
    tf, target = _columns_of_genes(cells)
    weight_column = cells.first_of(WEIGHT_COLUMNS)
    given = None if weight_column is None else finite_numbers(cells, weight_column)
    sign, contradicts, size = _signs(cells)
    if given is None:
        weight = size
    else:
        weight = np.abs(given)
        of_weight = np.sign(given).astype(np.int8)
        if sign is None and (given < 0).any():
            sign = of_weight
        elif sign is not None and (given < 0).any() and (given > 0).any():
            sign = np.where((sign == 0) & ~contradicts, of_weight, sign)
    frame = pd.DataFrame({
        "tf": cells.frame[tf].astype(str),
        "target": cells.frame[target].astype(str),
        "sign": np.zeros(len(cells.line), np.int8) if sign is None else sign,
        "contradicts": contradicts,
        "weight": weight / max(weight.max(initial=0.0), np.finfo(np.float64).tiny),
        "confidence": _text(cells, CONFIDENCE_COLUMNS),
        "tissue": _text(cells, TISSUE_COLUMNS),
    }).set_index(cells.line)  # fmt: skip
    left_out = {}
    for reason, gone in (
        ("unnamed", (frame["tf"] == "") | (frame["target"] == "")),
        ("undirected", ~_directed(cells)),
        ("zero_weight", frame["weight"] == 0),
    ):
        gone = pd.Series(np.asarray(gone), cells.line).reindex(frame.index).to_numpy()
        left_out[reason] = int(np.count_nonzero(gone))
        frame = frame[~gone]
    return Statements(
        layout=_layout(cells, tf, target),
        frame=frame,
        lines=len(cells.line),
        left_out=left_out,
        has_confidence=cells.first_of(CONFIDENCE_COLUMNS) is not None,
        has_tissue=cells.first_of(TISSUE_COLUMNS) is not None,
    )


def _named(cells: Cells) -> Cells:
    """A table without header, with names for its columns: TRRUST's or arboreto's, by what the third holds."""
    frame = cells.frame
    third = frame["2"].iloc[0] if frame.shape[1] >= 3 else ""
    if third.lower() in (*_ACTIVATES, *_REPRESSES, *_NOT_GIVEN[3:]):
        names = ("tf", "target", "regulation")
    elif third and np.isfinite(pd.to_numeric(third, errors="coerce")):
        names = ("tf", "target", "weight")
    else:
        names = ()
    return cells._replace(frame=frame.rename(columns={str(place): name for place, name in enumerate(names)}))


def _columns_of_genes(cells: Cells) -> tuple[str, str]:
    tf, target = cells.first_of(TF_COLUMNS), cells.first_of(TARGET_COLUMNS)
    if tf is None or target is None:
        missing = " and ".join(what for what, column in (("TF", tf), ("target", target)) if column is None)
        there = f"its columns are {', '.join(cells.header)}" if cells.header else "it has no header that mofm knows"
        raise InputError(
            f"{cells.path}: no column names the {missing}, {there}; name those of the genes tf and target in its header"
        )
    return tf, target


def _layout(cells: Cells, tf: str, target: str) -> str:
    if not cells.header:
        return "without header: " + ("TF, target, regulation" if "regulation" in cells.frame else "TF, target, weight")
    columns = [tf, target, *(cells.first_of(names) for names in (SIGN_COLUMNS, WEIGHT_COLUMNS))]
    if cells.first_of(SIGN_COLUMNS) is None:
        columns += [name for name in ("is_stimulation", "consensus_stimulation") if name in cells.frame]
    columns += [cells.first_of(names) for names in (CONFIDENCE_COLUMNS, TISSUE_COLUMNS)]
    written = {plain(name): name for name in reversed(cells.header)}
    return "columns " + ", ".join(written[name] for name in columns if name)


def _text(cells: Cells, names: tuple[str, ...]) -> pd.Series | str:
    column = cells.first_of(names)
    return "" if column is None else cells.frame[column].astype(str)


def finite_numbers(cells: Cells, column: str) -> np.ndarray:
    """float64, finite.

    Raises:
      InputError: a cell is no finite number; the first such line is named.
    """
    numbers = pd.to_numeric(cells.frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        cell = cells.frame[column].iloc[wrong[0]]
        raise InputError(
            f"{cells.path}: {cells.unit} {cells.line[wrong[0]]} has {str(cell)!r} as {column}, and {len(wrong):,} of "
            f"{len(numbers):,} are no finite numbers; mend or leave out these lines"
        )
    return numbers


def _signs(cells: Cells) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """int8 sign of each line, None where no column says; whether it says both; float64 size, 1 where none is given."""
    neither, ones = np.zeros(len(cells.line), bool), np.ones(len(cells.line))
    column = cells.first_of(SIGN_COLUMNS)
    if column is None:
        return *_stimulation(cells, neither), ones
    codes, words = pd.factorize(cells.frame[column].astype(str))
    read = [_sign_of(word) for word in words]
    unknown = [place for place, value in enumerate(read) if value is None]
    if unknown:
        at = np.flatnonzero(np.isin(codes, unknown))
        raise InputError(
            f"{cells.path}: {cells.unit} {cells.line[at[0]]} has {words[codes[at[0]]]!r} as {column}, which is no sign; "
            "write 1, -1 or 0, or activation, repression or unknown"
        )
    both = np.array([str(word).lower() in _BOTH for word in words], bool)[codes]
    value = np.array(read, np.float64)[codes]
    sized = ~np.isin(value, (-1, 0, 1)).all()
    return np.sign(value).astype(np.int8), both, np.abs(value) if sized else ones


def _sign_of(word: str) -> float | None:
    word = word.strip().lower().replace("\N{MINUS SIGN}", "-")
    for words, value in ((_ACTIVATES, 1.0), (_REPRESSES, -1.0), ((*_NOT_GIVEN, *_BOTH), 0.0)):
        if word in words:
            return value
    number = pd.to_numeric(word, errors="coerce")
    return float(number) if np.isfinite(number) else None


def _stimulation(cells: Cells, neither: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Signs by OmniPath's columns: those of the consensus of its sources, where these say nothing those of any source."""
    sign, both = None, neither
    for kind in ("is", "consensus"):
        names = [f"{kind}_stimulation", f"{kind}_inhibition"]
        if all(name in cells.frame for name in names):
            up, down = (_is_true(cells.frame[name]) for name in names)
            is_signed = up | down
            own_sign, own_both = up.astype(np.int8) - down.astype(np.int8), up & down
            sign = own_sign if sign is None else np.where(is_signed, own_sign, sign)
            both = np.where(is_signed, own_both, both)
    return (None if sign is None else sign.astype(np.int8)), both


def _directed(cells: Cells) -> np.ndarray:
    says = "is_directed" in cells.frame
    return _is_true(cells.frame["is_directed"]) if says else np.ones(len(cells.line), bool)


def _is_true(column: pd.Series) -> np.ndarray:
    return column.astype(str).str.lower().isin(_TRUE).to_numpy()
