"""Files of labs as tables of counts: one `CountTable` a modality, whatever the file.

What a file is, its content shows (`layouts.py`): h5ad, h5mu, either in zarr, annbatch's collections, 10x Genomics HDF5
and matrix folders, output folders of Cell Ranger (ARC), fragments. What it measures, feature types, names of
modalities, layers and feature names show, or the user says (`Reading.modality`). What is not modelled is counted in
`left_out`, and no reason to fail.

Which matrix holds the counts is given (`Reading.counts_from`) or found: `layers/counts` and its usual other names,
`raw/X`, `X`, in this order, the first whose sampled values are non-negative whole numbers. A sample only chooses: every
value is checked while it streams. Log1p-normalised values can be turned back into counts (see `recover.py`); that takes
a pass over the whole matrix before the first row is given out. Only obs and var are held whole.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError
from mofm.files import location
from mofm.omics import fragments, tenx
from mofm.omics.anndatas import LooksLike, Member, h5mu_members, open_member, whole_member
from mofm.omics.checks import gene_share
from mofm.omics.choice import matrix_keys
from mofm.omics.hdf5 import open_hdf5
from mofm.omics.held import Held, group_of, is_held
from mofm.omics.layouts import ANNDATAS, MUDATAS, Kind, Layout, layout_of
from mofm.omics.modalities import modalities_of_types
from mofm.omics.soma_cells import SomaCells, select_cells
from mofm.omics.soma_table import open_soma
from mofm.omics.table import CountTable
from mofm.omics.zarrs import open_zarr, parts_of


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file is to be read; what is None is found.

    Attributes:
      modality: read this one alone; of an h5ad file without feature types, what it is.
      counts_from: the matrix of counts of AnnData: "X", "layers/NAME" or "raw/X". In an h5mu file, of every modality
        that has one of this name.
      recover_counts: where no matrix holds counts, turn log1p-normalised values back, if the whole matrix bears it out.
      peaks: a BED file; fragments are counted over its regions.
      tile_width: bp; fragments are counted over tiles.
      barcodes: a barcodes.tsv; of fragments, the cells.
      min_fragments: of fragments without `barcodes`, the fragments that make a barcode a cell.
      obs_filter: of a SOMA experiment, which cells, in its own language (see `soma_cells.py`).
      duplicates: of a SOMA experiment, also the cells that are not primary data.
    """

    modality: Modality | None = None
    counts_from: str | None = None
    recover_counts: bool = False
    peaks: Path | None = None
    tile_width: int | None = None
    barcodes: Path | None = None
    min_fragments: int | None = None
    obs_filter: str | None = None
    duplicates: bool = False

    def __post_init__(self):
        if self.modality not in (None, *MODALITIES):
            raise InputError(f"--modality {self.modality}: must be one of {', '.join(MODALITIES)}")
        if self.peaks is not None and self.tile_width is not None:
            raise InputError("--peaks and --tile-width: fragments are counted over one or the other; give one")
        for name, value, least in (("tile-width", self.tile_width, 50), ("min-fragments", self.min_fragments, 1)):
            if value is not None and value < least:
                raise InputError(f"--{name} {value}: must be at least {least}")

    @property
    def recounts(self) -> bool:
        """Whether fragments are to be counted even where a matrix of peaks is there."""
        return self.peaks is not None or self.tile_width is not None


class Tables(Sequence[CountTable]):
    """The tables of one open file, in the order of `MODALITIES`. A context manager that closes it.

    Attributes:
      layout: what the file is.
      left_out: features that no table reads, counted by their feature type, or by the name of their modality.
    """

    def __init__(self, layout: Layout, tables: list[CountTable], left_out: dict[str, int], resources: ExitStack):
        self.layout, self._tables, self._resources = layout, tables, resources
        self.left_out = dict(left_out)
        for table in tables:
            self.left_out |= table.left_out

    def __len__(self) -> int:
        return len(self._tables)

    def __getitem__(self, place):
        return self._tables[place]

    def close(self) -> None:
        """Closes the tables and the file."""
        for table in self._tables:
            table.close()
        self._resources.close()

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *_) -> None:
        self.close()


Source = str | Path | Held
"""A file or folder of any layout in `mofm.omics.layouts`, or an AnnData or MuData in memory, which may be backed."""


def find_layout(path: Source, reading: Reading = Reading()) -> Layout:
    """What a file is and which files will be read. Raises `InputError` where it is of no known layout."""
    if is_held(path):
        group = group_of(path)
        layout = Layout("MuData" if "mod" in group else "AnnData", group.name, (), held=group)
    else:
        layout = layout_of(location(path), with_fragments=reading.recounts)
    if layout.kind != "soma" and (reading.obs_filter is not None or reading.duplicates):
        said = "--duplicates" if reading.obs_filter is None else "--obs-filter"
        raise InputError(f"{path}: {said} is for cells of a SOMA experiment, and this is {layout.kind}; leave it out")
    if layout.kind == "10x outs" and not reading.recounts:
        whole = layout_of(layout.path, with_fragments=True)
        return whole if whole.fragments and not _has_peaks(layout) else layout
    return layout


def open_tables(
    path: Source,
    reading: Reading = Reading(),
    *,
    looks_like_genes: LooksLike = gene_share,
) -> Tables:
    """Opens every modelled modality of a file for streaming.

    Args:
      path: a file or folder of any layout in `mofm.omics.layouts`, or an AnnData or MuData.
      reading: how.
      looks_like_genes: share of the given names that are genes; shows a matrix of genes x cells. The default knows
        Ensembl ids of any species, and the symbols of those whose gene tables are bundled.

    Raises:
      InputError: the file cannot be used; its one line says why and what to do.
    """
    layout = find_layout(path, reading)
    with ExitStack() as resources:
        tables, left_out = _open(layout, reading, MODALITIES, looks_like_genes, resources)
        return Tables(layout, tables, left_out, resources.pop_all())


def open_table(
    path: str | Path,
    modality: Modality | None = None,
    *,
    counts_from: str | None = None,
    recover_counts: bool = False,
    looks_like_genes: LooksLike = gene_share,
) -> CountTable:
    """Opens one modality of a file of any layout; what else the file holds is counted in `left_out`.

    Args:
      modality: which; None for a file that has only one.
      counts_from, recover_counts: see `Reading`.

    Raises:
      InputError: as `open_tables`; or several modalities are there and none was named.
    """
    reading = Reading(modality, counts_from, recover_counts)
    layout = find_layout(path, reading)
    with ExitStack() as resources:
        tables, left_out = _open(layout, reading, () if modality else MODALITIES, looks_like_genes, resources)
        if len(tables) > 1:
            has = ", ".join(table.modality for table in tables)
            raise InputError(f"{path}: holds {has}; say which one with --modality")
        table = tables[0]
        table.left_out = {**left_out, **table.left_out}
        table.resources.push(resources.pop_all())
        return table


def open_h5ad(
    path: str | Path,
    *,
    counts_from: str | None = None,
    recover_counts: bool = False,
    looks_like_genes: LooksLike = gene_share,
) -> CountTable:
    """The RNA counts of a file: `open_table` of modality "rna"."""
    return open_table(
        path, "rna", counts_from=counts_from, recover_counts=recover_counts, looks_like_genes=looks_like_genes
    )


def _open(
    layout: Layout, reading: Reading, others: tuple[Modality, ...], looks: LooksLike, resources: ExitStack
) -> tuple[list[CountTable], dict[str, int]]:
    """The tables, and what is left out beside what each of them says."""
    match layout.kind:
        case kind if kind in ANNDATAS:
            members, left_out = open_members(layout, reading, resources)
            if kind in MUDATAS:
                members = _of_modality(members, reading, layout.path)
            return _tables_of_members(members, reading, others, looks, resources), left_out
        case "soma":
            return [_open_soma(layout, reading, looks, resources)], {}
        case "fragments":
            return [_count_fragments(layout, reading, None, resources)], {}
        case _:
            return _open_10x(layout, reading, others, looks, resources), {}


def _open_soma(layout: Layout, reading: Reading, looks: LooksLike, resources: ExitStack) -> CountTable:
    """The table of a selection that lies in one dataset: two do not measure the same genes."""
    parts = select_cells(layout.soma, reading.obs_filter, reading.duplicates)
    if len(parts) > 1:
        raise InputError(
            f"{layout.path}: {len(parts):,} datasets; `mofm ingest` takes them all, here one is needed: "
            f"--obs-filter \"dataset_id == '{parts[0].dataset}'\""
        )
    return resources.enter_context(open_soma(parts[0], reading.modality, reading.counts_from, looks))


def open_cells(cells: SomaCells, reading: Reading) -> Tables:
    """Opens a dataset of a SOMA experiment. Raises `InputError` as `open_tables`."""
    table = open_soma(cells, reading.modality, reading.counts_from)
    return Tables(Layout("soma", table.path, (), soma=cells.place), [table], {}, table.resources)


def open_members(layout: Layout, reading: Reading, resources: ExitStack) -> tuple[list[Member], dict[str, int]]:
    """The AnnDatas of a file of a layout in `ANNDATAS`, and the features that are not modelled, by their modality.

    Args:
      resources: closes the file.

    Raises:
      InputError: as `whole_member` and `h5mu_members`.
    """
    path = layout.path
    if layout.held is not None:
        file = layout.held
    elif layout.kind in ("h5ad", "h5mu"):
        file = resources.enter_context(open_hdf5(path))
    else:
        file = open_zarr(path)
    if layout.kind in MUDATAS:
        return h5mu_members(file, path, layout.kind)
    groups = list(parts_of(file).values()) if layout.kind == "zarr collection" else [file]
    return [whole_member(groups, path, layout.kind, reading.modality)], {}


def _of_modality(members: list[Member], reading: Reading, path: Path) -> list[Member]:
    if reading.modality is None:
        return members
    chosen = [member for member in members if reading.modality in member.modalities]
    if not chosen:
        has = ", ".join(modality for member in members for modality in member.modalities)
        raise InputError(f"{path}: has no {reading.modality}, but {has}; name one of these")
    return [dataclasses.replace(member, modalities=(reading.modality,)) for member in chosen]


def _tables_of_members(
    members: list[Member], reading: Reading, others: tuple[Modality, ...], looks: LooksLike, resources: ExitStack
) -> list[CountTable]:
    names = [set(matrix_keys(member.group, member.where)) for member in members]
    known = reading.counts_from is None or any(reading.counts_from in have for have in names)
    tables = []
    for member, have in zip(members, names, strict=True):
        # A name that no modality has is reported by the first of them.
        counts_from = reading.counts_from if reading.counts_from in have or not known else None
        for modality in member.modalities:
            table = open_member(member, modality, others, counts_from, reading.recover_counts, looks)
            tables.append(resources.enter_context(table))
    return tables


def _open_10x(
    layout: Layout, reading: Reading, others: tuple[Modality, ...], looks: LooksLike, resources: ExitStack
) -> list[CountTable]:
    parts = _parts(layout, resources)
    if layout.fragments is None:
        return tenx.tables_of(parts, layout.path, layout.kind, resources, reading.modality, others, looks)
    counted = _count_fragments(layout, reading, parts, resources)
    if reading.modality == "atac":
        return [counted]
    tables = tenx.tables_of(parts, layout.path, layout.kind, resources, reading.modality, (*others, "atac"), looks)
    tables = [table for table in tables if table.modality != "atac"]
    return sorted([*tables, counted], key=lambda table: MODALITIES.index(table.modality))


def _parts(layout: Layout, resources: ExitStack) -> tenx.Parts:
    if len(layout.files) == 3:
        return tenx.read_folder(layout.files, layout.path)
    return tenx.read_hdf5(resources.enter_context(open_hdf5(layout.files[0])), layout.path)


def _count_fragments(layout: Layout, reading: Reading, parts: tenx.Parts | None, resources: ExitStack) -> CountTable:
    """The table of fragments; the cells of a Cell Ranger folder are those of its filtered matrix."""
    if reading.modality not in (None, "atac"):
        raise InputError(f"{layout.path}: fragments are atac, not {reading.modality}; leave --modality out")
    barcodes = None if parts is None else parts[1].index
    if reading.barcodes is not None:
        barcodes = fragments.read_barcodes(reading.barcodes)
    table = fragments.open_fragments(
        layout.fragments, given_as=layout.path, peaks=reading.peaks, tile_width=reading.tile_width,
        barcodes=barcodes, min_fragments=reading.min_fragments,
    )  # fmt: skip
    return resources.enter_context(table)


def _has_peaks(layout: Layout) -> bool:
    with ExitStack() as resources:
        _, _, var = _parts(layout, resources)
        return "atac" in modalities_of_types(var)


__all__ = ["CountTable", "Kind", "Reading", "Source", "Tables", "find_layout", "open_h5ad", "open_table", "open_tables"]
