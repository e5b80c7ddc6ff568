"""What a batch is made of where datasets differ in what they measure: strata and their quotas.

A *stratum* is all datasets with one set of modalities: "rna", "rna+atac". Every batch has as many rows of a stratum as
every other, its quota, so that shapes are static, paired and unpaired cells train side by side, and no row is wasted on
a modality that a cell does not have. A view of a modality holds the strata that have it, one after another.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mofm.axes import MODALITIES, Modality
from mofm.batch import Paired
from mofm.batches.order import host_slice
from mofm.errors import InputError, nearest_name


class Stratum(NamedTuple):
    """The datasets of one set of modalities that have cells to give.

    Attributes:
      modalities: in the order of `mofm.axes.MODALITIES`.
      datasets: their numbers, ascending.
      quota: rows of each batch.
    """

    modalities: tuple[Modality, ...]
    datasets: tuple[int, ...]
    quota: int

    @property
    def name(self) -> str:
        """As it is written in a config, such as "rna+atac"."""
        return "+".join(self.modalities)


class Share(NamedTuple):
    """What one host's part of a view takes from one stratum: rows `[start, stop)` of its quota, from row `place` on."""

    stratum: int
    start: int
    stop: int
    place: int


def parse_stratum(name: str) -> tuple[Modality, ...]:
    """The modalities of "rna+atac", in the order of `MODALITIES` however they are written.

    Raises:
      InputError: one that there is not, or one twice.
    """
    parts = name.split("+")
    for part in parts:
        if part not in MODALITIES or parts.count(part) > 1:
            raise InputError(
                f"data.quotas: {name!r} is no set of modalities; join some of {', '.join(MODALITIES)} by +."
                f"{nearest_name(part, MODALITIES)}"
            )
    return tuple(modality for modality in MODALITIES if modality in parts)


def make_strata(
    modalities_of: Sequence[tuple[Modality, ...]],
    cells_of: Sequence[int],
    *,
    batch_size: int,
    quotas: Mapping[str, float],
    temperature: float,
    multiple: int,
) -> tuple[Stratum, ...]:
    """The strata of some datasets, fewest modalities first.

    Args:
      modalities_of, cells_of: for each dataset; those without cells have no turn.
      batch_size: rows to share out.
      quotas: stratum -> its share, up to a factor; empty: the sum of cells^temperature over its datasets.
      multiple: of which each quota is one.

    Raises:
      InputError: the batch is too small to have rows of each, or `quotas` does not name the strata that there are.
    """
    every = sorted(set(modalities_of), key=lambda some: (len(some), [MODALITIES.index(name) for name in some]))
    shares = _checked_quotas(quotas, every) if quotas else None
    groups = {some: [d for d, own in enumerate(modalities_of) if own == some and cells_of[d]] for some in every}
    groups = {some: datasets for some, datasets in groups.items() if datasets}
    if not groups:
        return ()
    if batch_size % multiple or batch_size // multiple < len(groups):
        raise InputError(
            f"data.batch_size={batch_size}: {len(groups)} sets of modalities ({', '.join(map('+'.join, groups))}) need "
            f"{multiple} rows each, and a multiple of data.quota_multiple={multiple} in all"
        )
    weights = [
        sum(cells_of[d] ** temperature for d in datasets) if shares is None else shares[some]
        for some, datasets in groups.items()
    ]
    units = share_out(weights, batch_size // multiple)
    return tuple(
        Stratum(some, tuple(datasets), int(n) * multiple)
        for (some, datasets), n in zip(groups.items(), units, strict=True)
    )


def _checked_quotas(
    quotas: Mapping[str, float], every: Sequence[tuple[Modality, ...]]
) -> dict[tuple[Modality, ...], float]:
    shares = {parse_stratum(name): share for name, share in quotas.items()}
    if len(shares) < len(quotas) or set(shares) != set(every):
        raise InputError(
            f"data.quotas names {', '.join(quotas)}; the corpus has {', '.join(map('+'.join, every))}: "
            "give each of these one share"
        )
    return shares


def share_out(weights: Sequence[float], units: int) -> np.ndarray:
    """`units` shared in proportion to `weights` by largest remainder, at least one each; int64."""
    exact = np.asarray(weights, np.float64) * (units / math.fsum(weights))
    given = np.maximum(np.floor(exact), 1.0)
    while given.sum() < units:
        given[np.argmax(exact - given)] += 1
    while given.sum() > units:
        given[np.argmin(np.where(given > 1, exact - given, np.inf))] -= 1
    return given.astype(np.int64)


def view_rows(strata: Sequence[Stratum], modality: Modality) -> dict[int, slice]:
    """Position of each stratum that has the modality -> its rows in a global view of it."""
    rows, end = {}, 0
    for position, stratum in enumerate(strata):
        if modality in stratum.modalities:
            rows[position] = slice(end, end + stratum.quota)
            end += stratum.quota
    return rows


def paired_rows(strata: Sequence[Stratum]) -> tuple[Paired, ...]:
    """Where the global views of a batch hold the same cells, for every two modalities of every stratum."""
    pairs = []
    for position, stratum in enumerate(strata):
        for two in itertools.combinations(stratum.modalities, 2):
            starts = tuple(view_rows(strata, modality)[position].start for modality in two)
            pairs.append(Paired(two, starts, stratum.quota))
    return tuple(pairs)


def rows_of_views(strata: Sequence[Stratum]) -> dict[Modality, int]:
    """Rows of the global view of each modality that some stratum has."""
    views = {modality: [s.quota for s in strata if modality in s.modalities] for modality in MODALITIES}
    return {modality: sum(quotas) for modality, quotas in views.items() if quotas}


def host_part(strata: Sequence[Stratum], modality: Modality, host: int, hosts: int) -> slice:
    """One host's rows of the global view of a modality: equal, consecutive shares.

    Raises:
      InputError: the view does not divide by the number of hosts.
    """
    rows = rows_of_views(strata)[modality]
    if rows % hosts and len(strata) > 1:
        quotas = ", ".join(f"{stratum.quota} {stratum.name}" for stratum in strata)
        raise InputError(
            f"data.batch_size: of a batch ({quotas}), {rows} rows of {modality} do not divide by the {hosts} hosts; "
            f"set data.quota_multiple={hosts}"
        )
    return host_slice(rows, host, hosts)


def shares_of(strata: Sequence[Stratum], modality: Modality, part: slice) -> list[Share]:
    """What rows `part` of the global view of a modality are made of."""
    shares = []
    for position, rows in view_rows(strata, modality).items():
        start, stop = max(part.start, rows.start), min(part.stop, rows.stop)
        if start < stop:
            shares.append(Share(position, start - rows.start, stop - rows.start, start - part.start))
    return shares
