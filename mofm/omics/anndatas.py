"""AnnData in an open file as tables of counts: an h5ad file or a zarr store is one, an h5mu file has one a modality.

annbatch's collection is one too, in parts (see `zarrs.py`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError
from mofm.omics.checks import check_cell_names, check_orientation
from mofm.omics.choice import Place, Wanted, choose, matrix_keys
from mofm.omics.hdf5 import read_table, reading
from mofm.omics.layouts import Kind
from mofm.omics.methylation import choose_methylation, has_methylation_layers
from mofm.omics.modalities import feature_kinds, has_types, modalities_of_types, modality_of, region_share
from mofm.omics.table import BLOCK_ENTRIES, CountSource, CountTable
from mofm.omics.zarrs import Group

LooksLike = Callable[[Sequence[str]], float]


@dataclasses.dataclass(frozen=True)
class Member:
    """An AnnData in an open file.

    Attributes:
      groups: where it is; the parts of a collection, one behind the other.
      path, kind: the file's.
      where: its name in messages.
      obs: its cells.
      modalities: what was measured, as far as it is modelled.
    """

    groups: tuple[Group, ...]
    path: Path
    kind: Kind
    where: str
    obs: pd.DataFrame
    modalities: tuple[Modality, ...]

    @property
    def group(self) -> Group:
        """The first, whose features and matrices are those of all."""
        return self.groups[0]


def whole_member(groups: Sequence[Group], path: Path, kind: Kind, modality: Modality | None) -> Member:
    """The AnnData that a file is, or the parts of a collection are. Raises `InputError` where it is none, or holds nothing
    that is modelled."""
    for group in groups:
        matrix_keys(group, str(path))
    obs = [read_table(group, path, "obs") for group in groups]
    modalities = (modality,) if modality else _modalities_in(groups[0], str(path))
    return Member(tuple(groups), path, kind, str(path), obs[0] if len(obs) == 1 else pd.concat(obs), modalities)


def h5mu_members(file: Group, path: Path, kind: Kind = "h5mu") -> tuple[list[Member], dict[str, int]]:
    """The AnnDatas of an h5mu file that are modelled, and the features of the others by their names.

    A cell's annotations are those of its modality, and those of the whole file that no modality claims.

    Raises:
      InputError: none is modelled, or two are of one modality.
    """
    with reading(path, "mod"):
        order = [str(name) for name in file["mod"].attrs.get("mod-order", list(file["mod"]))]
        groups = {name: file["mod"][name] for name in [*order, *(set(file["mod"]) - set(order))]}
    members, left_out = [], {}
    for name, group in groups.items():
        where = f"{path}: modality {name!r}"
        modality = modality_of(name)
        modalities = (modality,) if modality else _modalities_of_types(group, where)
        if modalities:
            members.append(Member((group,), path, kind, where, _obs(file, path, group, where, groups), modalities))
        else:
            left_out[name] = len(read_table(group, where, "var"))
    found = [modality for member in members for modality in member.modalities]
    if not found:
        raise InputError(
            f"{path}: none of its modalities ({', '.join(groups) or 'none at all'}) is one that mofm models "
            f"({', '.join(MODALITIES)}); name one of these in MuData, or give another file"
        )
    if twice := next((modality for modality in found if found.count(modality) > 1), None):
        named = " and ".join(repr(m.group.name.split("/")[-1]) for m in members if twice in m.modalities)
        raise InputError(f"{path}: {named} are both {twice}; leave one of them out of the file")
    return sorted(members, key=lambda member: MODALITIES.index(member.modalities[0])), left_out


def open_member(
    member: Member,
    modality: Modality,
    others: Sequence[Modality],
    counts_from: str | None,
    recover_counts: bool,
    looks_like_genes: LooksLike,
) -> CountTable:
    """The table of one modality of an AnnData. Closing it frees scratch space, not the file.

    Args:
      others: modalities whose features are not to be counted as left out.

    Raises:
      InputError: no matrix holds the counts, or names are wrong; one line says why and what to do.
    """
    where = f"{member.where}: {modality}" if len(member.modalities) > 1 else member.where
    place = Place(member.groups, where, len(member.obs), Wanted(modality, others))
    about = {"path": member.path, "kind": member.kind, "where": where, "modality": modality, "obs": member.obs}
    if modality == "methylation":
        source, totals, hits, notes = choose_methylation(place, counts_from, BLOCK_ENTRIES)
        candidate = source.hits
        about |= {"source": source, "counts_from": totals, "hits_from": hits, "notes": notes}
    else:
        candidate, recovery = choose(place, counts_from, recover_counts, BLOCK_ENTRIES)
        about |= {"source": CountSource(candidate, recovery is not None), "counts_from": candidate.matrix.name}
        about |= {"recovered": recovery is not None, "recovered_share": recovery.share if recovery else None}
    table = CountTable(
        layout=candidate.matrix.layout, var=candidate.var, left_out=candidate.left_out, **about
    )  # fmt: skip
    table.resources.callback(table.source.close)
    check_names(table, looks_like_genes)
    return table


def check_names(table: CountTable, looks_like_genes: LooksLike) -> None:
    """Raises `InputError` where cells repeat a name, or seem to be the columns."""
    looks = (
        looks_like_genes
        if table.modality in ("rna", "adt")
        else lambda names: max(looks_like_genes(names), region_share(names))
    )
    check_orientation(table.where, table.obs.index, table.var.index, looks)
    check_cell_names(table.where, table.obs.index)


def _modalities_in(group: Group, where: str) -> tuple[Modality, ...]:
    """What an AnnData holds: as its features' types say, else by its layers and names, else RNA."""
    if found := _modalities_of_types(group, where):
        return found
    var = read_table(group, where, "var")
    if has_types(var):
        kinds = ", ".join(sorted(feature_kinds(var, "").unique()))
        raise InputError(
            f"{where}: no gene expression among its features, nor anything else that mofm models "
            f"(var['feature_types'] has {kinds}); give a file with {', '.join(MODALITIES)}"
        )
    if has_methylation_layers(matrix_keys(group, where)):
        return ("methylation",)
    return ("atac",) if region_share(var.index) > 0.5 else ("rna",)


def _modalities_of_types(group: Group, where: str) -> tuple[Modality, ...]:
    """The modelled ones among the feature types of an AnnData; none where it has no types."""
    var = read_table(group, where, "var")
    meant = modalities_of_types(var) if has_types(var) else ()
    return tuple(modality for modality in MODALITIES if modality in meant)


def _obs(file: Group, path: Path, group: Group, where: str, groups: dict) -> pd.DataFrame:
    own = read_table(group, where, "obs")
    if "obs" not in file or own.index.has_duplicates:
        return own
    common = read_table(file, path, "obs")
    common = common[[name for name in common if str(name).split(":")[0] not in groups and name not in own]]
    if common.empty or common.index.has_duplicates:
        return own
    return own.join(common)
