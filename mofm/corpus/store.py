"""An open corpus's stores: each a matrix of counts (`matrix.py`), and what is known of its cells and features."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import tensorstore as ts

from mofm.axes import Modality
from mofm.corpus.cache import ShardCache
from mofm.corpus.contents import read_features, read_manifest
from mofm.corpus.datasets import Corpus
from mofm.corpus.manifest import MANIFEST, StoreEntry
from mofm.corpus.matrix import Matrix, OnDamage
from mofm.corpus.places import PATIENCE_S, context, is_url, open_files
from mofm.errors import InputError

if TYPE_CHECKING:
    from mofm.corpus.zarr_files import ZarrFiles

T = TypeVar("T")

CACHE_BYTES = 16 * 2**20


class Store(Matrix):
    """The cells of one dataset and modality: their matrix, and what is known of them.

    Attributes:
      modality: what was measured.
      dataset: number of the dataset, the position of its name among those of the manifest.
    """

    def __init__(
        self,
        root: str | Path,
        entry: StoreEntry,
        dataset: int,
        context: ts.Context,
        damaged: OnDamage = "stop",
        cache: ShardCache | None = None,
    ):
        super().__init__(root, entry, context, damaged, cache)
        self.modality, self.dataset = entry.modality, dataset

    @functools.cached_property
    def feature_rows(self) -> np.ndarray:
        """int32, one for each column: its row of the corpus's feature table. Read once."""
        try:
            rows = np.asarray(self._open("var/feature_row").result(PATIENCE_S).read().result(PATIENCE_S))
        except Exception as error:
            raise self.damaged("var/feature_row", error) from error
        if rows.shape != (self.n_features,) or rows.dtype != np.int32:
            raise self.damaged("var/feature_row", f"{rows.dtype}{rows.shape} for {self.n_features:,} features")
        return rows

    def obs(self) -> pd.DataFrame:
        """The cells' annotations, the index their names."""
        return self._read("obs", lambda tables, files: tables.read_table(files, "obs"))

    def obs_columns(self) -> list[str]:
        """What `obs` has columns of."""
        return self._read("obs", lambda tables, files: tables.read_column_names(files, "obs"))

    def obs_column(self, name: str) -> pd.Categorical | np.ndarray | pd.api.extensions.ExtensionArray:
        """One column of `obs` as it is stored, the others not read; text that repeats is a categorical."""
        return self._read(f"obs/{name}", lambda tables, files: tables.read_column(files, "obs", name))

    def var(self) -> pd.DataFrame:
        """The columns: the index their identities; symbol, name_in_file (joined by ";"), resolved, feature_row."""
        return self._read("var", lambda tables, files: tables.read_table(files, "var"))

    def cell_names(self) -> np.ndarray:
        """The names of all cells, in their file; object."""
        return self._read("obs", lambda tables, files: tables.read_index(files, "obs"))

    def name_hashes(self) -> np.ndarray:
        """uint64, a hash of each cell's name: the same in every store. Read anew at every call."""
        return self._read("uns/name_hashes", lambda tables, files: tables.read_name_hashes(files))

    @functools.cached_property
    def _cell_names(self) -> np.ndarray:
        return self.cell_names()

    def cell_name(self, row: int) -> str:
        """The name of a cell in its file. Reads all names at the first call."""
        return str(self._cell_names[row])

    def _read(self, key: str, read: Callable[[ModuleType, "ZarrFiles"], T]) -> T:
        """What `read` makes of the functions of `tables.py` and of the store's files; `key` is named where it fails."""
        # Imported here: anndata and zarr take two seconds and 50 MB, and a stream of counts needs neither.
        from mofm.corpus import tables
        from mofm.corpus.zarr_files import ZarrFiles

        try:
            return read(tables, ZarrFiles(open_files(self._root, self.entry.path)))
        except Exception as error:
            raise self.damaged(key, error) from error


def open_corpus(
    path: str | Path,
    expect_modality: Modality | None = None,
    *,
    cache_bytes: int = CACHE_BYTES,
    copy_threads: int | None = None,
    damaged: OnDamage = "stop",
    cache: ShardCache | None = None,
) -> Corpus:
    """Opens a corpus for reading.

    Args:
      path: a local path or a URL (gs://, s3://, http://, https://, file://); see `places.py`.
      expect_modality: refuse a corpus that holds another.
      cache_bytes: memory for decoded chunks, shared by all stores. A chunk is about 64 cells.
      copy_threads: threads that decode and copy; None is one for each core.
      damaged: what reading does with a chunk that is damaged or missing: "stop" is an error, "skip" leaves the cells out
        that have entries in it, says so once (a warning of logger "mofm"), and counts them in `Corpus.n_lost`.
      cache: keeps what is read of a URL on local disk. Nothing of a local corpus.

    Raises:
      InputError: not a corpus, a damaged one, one of a newer format, or one of another modality.
    """
    manifest = read_manifest(path)
    if manifest is None:
        what = "check the bucket and the path" if is_url(path) else "give a folder made by mofm ingest"
        raise InputError(f"{path}: not a corpus ({MANIFEST} is missing); {what}")
    other = [entry for entry in manifest.stores if expect_modality not in (None, entry.modality)]
    if other:
        raise InputError(f"{path}: store {other[0].name!r} holds {other[0].modality}, {expect_modality} is needed")
    features = read_features(path, manifest)
    threads = {} if copy_threads is None else {"limit": copy_threads}
    resources = context(cache_pool={"total_bytes_limit": cache_bytes}, data_copy_concurrency=threads)
    number = {name: place for place, name in enumerate(dict.fromkeys(entry.name for entry in manifest.stores))}
    cache = cache if is_url(path) and not str(path).startswith("file://") else None
    stores = tuple(Store(path, entry, number[entry.name], resources, damaged, cache) for entry in manifest.stores)
    for store in stores:
        store.check()
    return Corpus(path, manifest, stores, features)
