"""Which rows of a model's gene table the names of a network mean: one, several where a name is a complex, or none.

A name is first what it is called in the gene table itself, by the id of a row, or by its symbol where the row is no gene
of the species (made-up genes have no other name). Then it is what `resolve_genes` makes of it. A name that means nothing
so, and is several names joined by "_" or "::" ("FOS_JUN", "COMPLEX:FOS_JUN" as OmniPath writes), means each of them, if
every one means a gene. "AP1" and "NFKB" are families of which no table lists the members: they are unknown.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.omics.features import resolve_genes
from mofm.omics.genome import GeneTable

_COMPLEX = re.compile(r"^complex:", re.I)
_JOINED = re.compile(r"::|_")


class Meanings(NamedTuple):
    """What N distinct names mean.

    Attributes:
      place: int64[M], the name that each of M meanings is one of, ascending. A name without any is unknown.
      row: int64[M], row in the gene table of the model; -1 for a gene that is known and not in it.
      symbol: object[M], what the gene is called.
      complexes: the names that mean several genes, in their order.
    """

    place: np.ndarray
    row: np.ndarray
    symbol: np.ndarray
    complexes: list[str]

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of the names, in order, that mean nothing."""
        return [str(names[at]) for at in np.flatnonzero(np.bincount(self.place, minlength=len(names)) == 0)]


def meanings(names: Sequence[str], genes: pd.DataFrame, species: GeneTable) -> Meanings:
    """What each of some distinct names means. Raises nothing.

    Args:
      genes: of the model, columns id and symbol.
      species: the genes of its species.
    """
    own = _own_names(genes, species)
    single = _singly([str(name) for name in names], own, genes, species)
    parts_of = {
        at: parts
        for at, name in enumerate(names)
        if single[at] is None
        and len(parts := [part for part in _JOINED.split(_COMPLEX.sub("", str(name))) if part]) > 0
    }
    parts = sorted({part for some in parts_of.values() for part in some})
    meaning_of = dict(zip(parts, _singly(parts, own, genes, species), strict=True))
    found, complexes = [], []
    for at, one in enumerate(single):
        several = {part: meaning_of[part] for part in parts_of.get(at, ())}
        if one is None and several and all(several.values()):
            members = sorted(set(several.values()))
            complexes += [str(names[at])] if len(members) > 1 else []
            found += [(at, *member) for member in members]
        elif one is not None:
            found.append((at, *one))
    place, row, symbol = zip(*found, strict=True) if found else ((), (), ())
    return Meanings(np.array(place, np.int64), np.array(row, np.int64), np.array(symbol, dtype=object), complexes)


def some_of(names: Sequence[str]) -> str:
    """The first few of some names."""
    shown = ", ".join(str(name) for name in names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown


def _own_names(genes: pd.DataFrame, species: GeneTable) -> dict[str, int]:
    """Row by id, and by symbol of what is no gene of the species and has the symbol alone."""
    ids, symbols = genes["id"].astype(str).tolist(), genes["symbol"].astype(str)
    once = ~symbols.duplicated(keep=False).to_numpy()
    made_up = {
        symbol: row
        for row, (name, symbol) in enumerate(zip(ids, symbols, strict=True))
        if once[row] and name not in species.row_of_id
    }
    return made_up | {name: row for row, name in enumerate(ids)}


def _singly(
    names: Sequence[str], own: dict[str, int], genes: pd.DataFrame, species: GeneTable
) -> list[tuple[int, str] | None]:
    """(row, -1 where not in the model, symbol) of each name, None where it means nothing."""
    symbols = genes["symbol"].tolist()
    found = resolve_genes(names, species)
    meant = []
    for name, gene, symbol, how in zip(names, found.ids, found.symbols, found.how, strict=True):
        row = own.get(name, own.get(gene, -1))
        if row >= 0:
            meant.append((row, str(symbols[row])))
        else:
            meant.append((-1, symbol) if how != "unresolved" else None)
    return meant
