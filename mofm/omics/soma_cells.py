"""Which cells of a SOMA experiment are wanted: by a filter on its annotations, separated by dataset.

Every dataset_id is a dataset of its own, as a file would be: it measures genes of its own, and is weighed and held out by
itself. Cells that the Census says are somewhere else already (is_primary_data is False) are left out unless asked for:
half of it. Memory while a selection is made: some 12 bytes a selected cell, and 8 after.
"""

import ast
import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa

from mofm.errors import InputError, nearest_name
from mofm.omics.soma import SomaPlace, first_line, load_library, opened

ID, DATASET, PRIMARY = "soma_joinid", "dataset_id", "is_primary_data"
_LANGUAGE = "write comparisons joined by and, or: \"tissue == 'lung' and disease in ['normal', 'asthma']\""
_ABOUT = ("dataset_title", "collection_name", "collection_doi")


@dataclasses.dataclass(frozen=True, eq=False)
class SomaCells:
    """Cells of one dataset of an experiment.

    Attributes:
      place: the experiment.
      dataset: its dataset_id; None where cells have none.
      number: of the dataset in the Census; None where no Census says.
      about: title, collection and DOI, as far as the Census has them.
      ids_N: int64, ascending: the soma_joinid of each cell.
    """

    place: SomaPlace
    dataset: str | None
    number: int | None
    about: str
    ids_N: np.ndarray

    @property
    def where(self) -> str:
        """Its name in messages."""
        return self.place.given if self.dataset is None else f"{self.place.given}: dataset {self.dataset}"


def select_cells(place: SomaPlace, obs_filter: str | None = None, duplicates: bool = False) -> list[SomaCells]:
    """The selected cells of each dataset, in the order of their first cells.

    Args:
      obs_filter: in the language of TileDB-SOMA, as "tissue == 'lung' and disease in ['normal', 'asthma']".
      duplicates: whether cells that are not primary data are wanted too.

    Raises:
      InputError: the filter cannot be used or selects nothing, or cells cannot be distinguished.
    """
    with opened(place, place.experiment, "obs") as obs:
        names = obs.schema.names
        if obs_filter is not None:
            _check_filter(obs, obs_filter)
        primary = f"{PRIMARY} == True" if PRIMARY in names and not duplicates else None
        both = " and ".join(f"({part})" for part in (primary, obs_filter) if part)
        try:
            columns = [name for name in (ID, DATASET) if name in names]
            found = obs.read(column_names=columns, value_filter=both or None).concat()
        except load_library(place.given).SOMAError as error:
            if obs_filter is None:
                raise
            raise _unusable(obs_filter, error) from error
        if not found.num_rows:
            raise InputError(f"{place.given}: {_nothing(obs, obs_filter, primary)}")
    ids_N = found[ID].to_numpy()
    order = np.argsort(ids_N, kind="stable")
    if (np.diff(ids_N[order]) == 0).any():
        raise InputError(f"{place.given}: cells share a soma_joinid; write obs again, indexed by soma_joinid alone")
    if DATASET not in names:
        return [SomaCells(place, None, None, "", ids_N[order])]
    datasets = found[DATASET]
    if not pa.types.is_dictionary(datasets.type):
        datasets = datasets.dictionary_encode()
    datasets = pd.Categorical(datasets.to_pandas())[order]
    if datasets.isna().any():
        raise InputError(f"{place.given}: {int(datasets.isna().sum()):,} cells have no dataset_id; give every cell one")
    described = _census_datasets(place)
    codes_N, ids_N = datasets.codes, ids_N[order]
    by_dataset = np.argsort(codes_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes_N[by_dataset]) != 0])
    parts = []
    for rows in np.split(by_dataset, starts[1:]):
        name = str(datasets.categories[codes_N[rows[0]]])
        number, about = described.get(name, (None, ""))
        parts.append(SomaCells(place, name, number, about, ids_N[rows]))
    return sorted(parts, key=lambda part: part.ids_N[0])


def _census_datasets(place: SomaPlace) -> dict[str, tuple[int, str]]:
    """Number and description of each dataset of the Census; empty without a Census."""
    if place.census is None:
        return {}
    with opened(place, place.census, "census_info", "datasets") as datasets:
        table = datasets.read().concat().to_pandas()
    about = [", ".join(str(row[name]) for name in _ABOUT if row.get(name)) for row in table.to_dict("records")]
    return {name: (int(number), text) for name, number, text in zip(table[DATASET], table[ID], about, strict=True)}


def _check_filter(obs, obs_filter: str) -> None:
    """Raises `InputError` where a filter is no expression, or names a column that is not there."""
    try:
        tree = ast.parse(obs_filter.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"--obs-filter {obs_filter!r}: not an expression ({getattr(error, 'msg', error)}); {_LANGUAGE}"
        ) from error
    left = {name.id for node in ast.walk(tree) if isinstance(node, ast.Compare) for name in _names(node.left)}
    for name in dict.fromkeys(_names(tree)):
        if name.id in obs.schema.names or name.id in ("attr", "val"):
            continue
        if name.id in left:
            raise InputError(
                f"--obs-filter {obs_filter!r}: obs has no column {name.id!r}; it has "
                f"{', '.join(obs.schema.names)}.{nearest_name(name.id, obs.schema.names)}"
            )
        raise InputError(
            f"--obs-filter {obs_filter!r}: {name.id} is no value; quote text ('{name.id}'), write True, False"
        )


def _unusable(obs_filter: str | None, error: Exception) -> InputError:
    """What TileDB found wrong; where it is put in terms of TileDB's own code, in plainer words."""
    what = first_line(error).partition(" -- ")[0]
    if "incompatible function arguments" in what:
        what = "a column is compared with a value of another type, or with nothing"
    if "expression component" in what:
        what = "it has more than comparisons"
    return InputError(f"--obs-filter {obs_filter!r}: TileDB cannot use it ({what}); {_LANGUAGE}")


def _names(tree: ast.AST) -> list[ast.Name]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _nothing(obs, obs_filter: str | None, primary: str | None) -> str:
    """Why a selection may be empty, in a line."""
    if obs_filter is None:
        return "none of its cells is primary data; take the others with --duplicates" if primary else "it has no cells"
    hints = [
        f"{column} has no {value!r}.{nearest_name(value, known)}" for column, value, known in _unknown(obs, obs_filter)
    ]
    hint = (
        hints[0] if hints else ("cells that are not primary data need --duplicates" if primary else "check its values")
    )
    return f"--obs-filter {obs_filter!r} selects no cell: {hint}"


def _unknown(obs, obs_filter: str) -> list[tuple[str, str, list[str]]]:
    """The texts of a filter that are no value of the column they are compared with, and the values that it has."""
    compared = []
    for node in ast.walk(ast.parse(obs_filter.strip(), mode="eval")):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name):
            texts = [
                one.value for right in node.comparators for one in ast.walk(right) if isinstance(one, ast.Constant)
            ]
            compared += [(node.left.id, text) for text in texts if isinstance(text, str)]
    found = []
    for column, text in compared:
        if pa.types.is_dictionary(obs.schema.field(column).type):
            known = [str(value) for value in obs.get_enumeration_values([column])[column].to_pylist()]
            if text not in known:
                found.append((column, text, known))
    return found
