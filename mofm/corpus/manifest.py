"""The manifest of a corpus: what its stores hold, where each came from and what was changed on the way.

A corpus is a directory:

    manifest.json         this file; written last, so what it does not name is not in the corpus
    features.parquet      the feature table (id, symbol, modality); the row number is the identity in a model
    gene_table.parquet    the gene table that named its features, where that is none that mofm ships
    stores/NAME.rna.zarr  an AnnData store of one dataset and modality

A dataset is the stores of one name, one a modality: they hold the same cells in the same order, so that a cell's
modalities are rows of equal number. A file whose modalities share only some of their cells gives several datasets.

The feature table only grows, and the manifest says how many of its rows count: a longer table (an ingest that died
between writing the two) reads as the shorter one. No time or machine is recorded, so the same inputs make the same
bytes. Nothing is guessed when reading: a manifest with a field missing, of the wrong type or unknown is damaged, one of
a newer format asks for a newer mofm. Older formats are read, and stay as they are until something is added:

    1   RNA from h5ad files alone
    2   the ids of regions do not name their genome build: the feature table is read as if they did (`features.py`), and
        a corpus of two builds, where they cannot, is refused; the `var` of its stores keeps the bare places
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterable

import numpy as np

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
FEATURES = "features.parquet"
GENE_TABLE = "gene_table.parquet"

_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def store_name(stem: str) -> str:
    """A name usable in paths and URLs: other characters become "_"; empty where nothing usable is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")


@dataclasses.dataclass(frozen=True)
class StoreEntry:
    """What the manifest says of one store.

    Attributes:
      name: of the dataset; unique in the corpus together with the modality.
      modality: what was measured.
      input: the name that the file was given. Another than `name` where the file's modalities share only some cells.
      kind: what the file is: "h5ad", "10x h5" and so on, see `mofm.omics.layouts.Kind`.
      source, source_bytes: name (without folders) and size of the file or folder that was ingested; of a SOMA
        experiment its name or URL, and 0.
      digest: BLAKE3 (32 bytes, hexadecimal) of its bytes, or of what else it is known by (see `mofm.corpus.inputs`).
      given: options, other than those of the counts, that decide what was read: name -> value.
      cells, features, entries: numbers of rows, of columns (identities) and of stored counts.
      total_counts, max_count: sum and largest of the counts.
      total_hits: sum of the methylated reads, whose totals are the counts; None for other modalities.
      counts_from: the matrix of the file that was read, such as "X", "layers/NAME" or "raw/X".
      hits_from: methylation: the matrix of methylated reads, or of fractions; None for other modalities.
      counts_from_given: whether the user named that matrix, rather than mofm finding it.
      recovered, recovered_share: whether log1p-normalised values were turned back into counts, and which share of
        them came within 0.05 of a whole number (None where not recovered).
      empty_cells: cells without any count; they are kept.
      build: genome build that the features' places are given in; None where they have none or it is not known.
      build_evidence: how that is known, in one sentence.
      features_from: what named the features: "var_names" or a column of var.
      resolution: how many feature names were resolved in which way (`GeneResolution.summary`); "merged": how many
        columns were summed into another of the same identity. Each column's own story is in the store's `var`.
      left_out: features of the file that were not read into any store, counted by their feature type.
      obs_converted: what was changed in obs so that it could be written, a line a column.
      notes: what else was decided on the way, a line each.
    """

    name: str
    modality: Modality
    input: str
    kind: str
    source: str
    source_bytes: int
    digest: str
    given: dict[str, str]
    cells: int
    features: int
    entries: int
    total_counts: int
    max_count: int
    total_hits: int | None
    counts_from: str
    hits_from: str | None
    counts_from_given: bool
    recovered: bool
    recovered_share: float | None
    empty_cells: int
    build: str | None
    build_evidence: str
    features_from: str
    resolution: dict[str, int | dict[str, int]]
    left_out: dict[str, int]
    obs_converted: list[str]
    notes: list[str]

    @property
    def path(self) -> str:
        """Place of the store in the corpus."""
        return f"stores/{self.name}.{self.modality}.zarr"

    @property
    def bytes_per_cell(self) -> float:
        """What a cell's entries take in memory, on average: columns and counts in the narrowest integers that hold them."""
        counts = np.min_scalar_type(self.max_count).itemsize * (2 if self.modality == "methylation" else 1)
        return self.entries * ((2 if self.features < 2**16 else 4) + counts) / max(1, self.cells)


def _new_in_2(name: object) -> dict:
    """The fields of a store that format 1 does not have, and what they are for one of its stores."""
    return {
        "input": name, "kind": "h5ad", "given": {}, "total_hits": None, "hits_from": None, "build": None,
        "build_evidence": "", "notes": [],
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The table of contents of a corpus.

    Attributes:
      created_by: version of mofm that began the corpus.
      species: of every store.
      gene_table: version of the gene table that resolved every store's features.
      n_features: rows of the feature table that count.
      stores: in the order of ingest; a dataset's number is the place of its first store's name among the names.
      format_version: what it was read in, or is to be written in.
    """

    created_by: str
    species: str
    gene_table: str
    n_features: int = 0
    stores: tuple[StoreEntry, ...] = ()
    format_version: int = FORMAT_VERSION

    def with_stores(self, entries: Iterable[StoreEntry], n_features: int) -> "Manifest":
        """The manifest with these stores more, in the newest format, and a feature table of `n_features` rows."""
        return Manifest(self.created_by, self.species, self.gene_table, n_features, (*self.stores, *entries))

    def to_json(self) -> bytes:
        """The bytes of manifest.json: the same manifest gives the same bytes."""
        stores = [{"path": entry.path} | dataclasses.asdict(entry) for entry in self.stores]
        if self.format_version == 1:
            new = _new_in_2(None)
            stores = [{key: value for key, value in store.items() if key not in new} for store in stores]
        top = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content = {"format_version": self.format_version} | top | {"stores": stores}
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "Manifest":
        """The manifest in `content`; `where` names its file in messages.

        Raises:
          InputError: no manifest of a corpus, a damaged one, or one of a newer format version.
        """
        try:
            fields = json.loads(content)
        except ValueError as error:
            raise InputError(
                f"{where}: its JSON is broken ({error}): not a corpus, or a damaged one; ingest it again"
            ) from error
        version = fields.pop("format_version", None) if isinstance(fields, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InputError(
                f"{where}: not the manifest of a corpus (no format_version); give a folder made by mofm ingest"
            )
        if version > FORMAT_VERSION:
            raise InputError(
                f"{where}: written in corpus format {version} by a newer mofm, this one reads up to {FORMAT_VERSION}; "
                "upgrade mofm (pip install --upgrade mofm)"
            )
        try:
            stores = tuple(_entry(store, version) for store in _take(fields, "stores", list))
            manifest = cls(**_checked(cls, fields | {"stores": stores, "format_version": version}))
            _check_datasets(stores)
        except ValueError as error:
            raise InputError(
                f"{where}: the manifest is damaged: {error}; restore it or ingest the corpus again"
            ) from error
        return manifest


def _check_datasets(stores: tuple[StoreEntry, ...]) -> None:
    cells: dict[str, int] = {}
    for entry in stores:
        if cells.setdefault(entry.name, entry.cells) != entry.cells:
            raise ValueError(f"the stores of {entry.name!r} have {cells[entry.name]} and {entry.cells} cells")
    if len({(entry.name, entry.modality) for entry in stores}) < len(stores):
        raise ValueError("two stores have one name")


def _entry(fields: object, version: int) -> StoreEntry:
    if not isinstance(fields, dict):
        raise ValueError("a store is not an object")
    fields = dict(fields)
    path = _take(fields, "path", str)
    if version == 1:
        new = _new_in_2(fields.get("name"))
        if both := fields.keys() & new.keys():
            raise ValueError(f"{', '.join(sorted(both))} is unknown in format 1")
        fields |= new
    entry = StoreEntry(**_checked(StoreEntry, fields))
    # A manifest that was not written by mofm must not lead a reader out of the corpus.
    if not _STORE_NAME.fullmatch(entry.name) or entry.modality not in MODALITIES or entry.path != path:
        raise ValueError(f"store {entry.name!r} ({entry.modality!r}) cannot be at {path!r}")
    return entry


def _take(fields: dict, key: str, kind: type):
    value = fields.pop(key, None)
    if not isinstance(value, kind):
        raise ValueError(f"{key} is missing or no {kind.__name__}")
    return value


def _checked(cls: type, fields: dict) -> dict:
    """The fields, if they are those of `cls` with values of their types. Raises ValueError otherwise."""
    expected = typing.get_type_hints(cls)
    if fields.keys() != expected.keys():
        raise ValueError(f"{', '.join(sorted(fields.keys() ^ expected.keys()))} is missing or unknown")
    for key, kind in expected.items():
        if not _is_a(fields[key], kind):
            raise ValueError(f"{key} cannot be {fields[key]!r}")
    return fields


def _is_a(value: object, kind: object) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in args
    if origin is types.UnionType:
        return any(_is_a(value, arg) for arg in args)
    if origin is dict:
        return isinstance(value, dict) and all(_is_a(k, args[0]) and _is_a(v, args[1]) for k, v in value.items())
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_is_a(item, args[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, kind)
