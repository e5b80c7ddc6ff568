"""The small parts of a store, obs, var and the attributes that make it an AnnData, through anndata and zarr.

obs columns of anything but numbers, booleans and text have no place in the format, or none that every version of
anndata reads. They become text, and it is said. Text that repeats is kept as a categorical.

Every chunk has a checksum (crc32c) and a missing one is an error, as in X: a flipped bit would make one gene another,
and zarr reads a chunk that is gone as zeros, which are the first label of every categorical.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import zarr
from pandas.api.types import infer_dtype, is_bool_dtype, is_float_dtype, is_integer_dtype
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec

_CHECKED = {"compressors": [ZstdCodec(level=0, checksum=False), Crc32cCodec()]}
_NO_CONTENT = ("layers", "obsm", "obsp", "varm", "varp")
_NAME_HASHES = "name_hashes"  # in uns: names are compared over whole corpora, and text takes seconds a million to read


def write_obs(folder: Path, obs: pd.DataFrame, n_features: int, layers: Iterable[str] = ()) -> None:
    """Makes `folder` an AnnData store of zarr v3 without var, with groups X and `layers` of encoding csr_matrix."""
    with _settings():
        root = zarr.open_group(folder, mode="w", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        anndata.io.write_elem(root, "obs", obs, dataset_kwargs=_CHECKED)
        for key in _NO_CONTENT:
            anndata.io.write_elem(root, key, {})
        hashes = {_NAME_HASHES: hash_names(obs.index)}
        anndata.io.write_elem(root, "uns", hashes, dataset_kwargs=_CHECKED)
        attributes = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [len(obs), n_features]}
        for key in ("X", *layers):
            root.create_group(key, attributes=attributes)


def write_var(folder: Path, var: pd.DataFrame) -> None:
    """Writes var, and copies all metadata into that of the store, so that a web server, which lists nothing, can serve it."""
    with _settings():
        root = zarr.open_group(folder, mode="r+", zarr_format=3)
        anndata.io.write_elem(root, "var", var, dataset_kwargs=_CHECKED)
        zarr.consolidate_metadata(folder)


def read_table(files: Store, key: str) -> pd.DataFrame:
    """The obs or var table of a store whose files are `files`. Raises whatever zarr and anndata do where it is damaged."""
    return anndata.io.read_elem(_group(files)[key])


def read_column_names(files: Store, key: str) -> list[str]:
    """The columns of such a table, in their order. Raises as `read_table`."""
    return [str(name) for name in _group(files)[key].attrs["column-order"]]


def read_column(files: Store, key: str, name: str) -> pd.Categorical | np.ndarray | pd.api.extensions.ExtensionArray:
    """One column of such a table. Raises as `read_table`."""
    return anndata.io.read_elem(_group(files)[key][name])


def read_index(files: Store, key: str) -> np.ndarray:
    """The index of such a table alone, object. Raises as `read_table`."""
    table = _group(files)[key]
    return np.asarray(anndata.io.read_elem(table[table.attrs["_index"]]), object)


def hash_names(names: Iterable[str]) -> np.ndarray:
    """uint64, the same in every version of pandas."""
    return pd.util.hash_array(np.asarray(names, object))


def read_name_hashes(files: Store) -> np.ndarray:
    """`hash_names` of the cells. Of a store of before there were any, of the names themselves. Raises as `read_table`."""
    kept = _group(files)["uns"]
    return kept[_NAME_HASHES][:] if _NAME_HASHES in kept else hash_names(read_index(files, "obs"))


def _group(files: Store) -> zarr.Group:
    return zarr.open_group(files, mode="r", zarr_format=3)


def writable_obs(obs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """obs as it can be written to a store, and a line for each column that had to change."""
    columns, changes = {}, []
    for name, values in obs.items():
        key = str(name).replace("/", "|")
        key = "index_" if key == "_index" else key
        if key in columns:
            changes.append(f"{name}: left out, a column {key!r} comes before it")
            continue
        if key != name:
            changes.append(f"{name}: renamed {key}")
        columns[key], what = _writable(values)
        if what:
            changes.append(f"{key}: {what}")
    return make_table(columns, obs.index.astype(str)), changes


def make_table(columns: dict[str, object], names: Iterable[str]) -> pd.DataFrame:
    """A table of these columns, which are arrays or series in the order of `names`."""
    index = pd.Index(list(names), dtype=object)
    columns = {key: pd.Series(values).set_axis(index) for key, values in columns.items()}
    return pd.DataFrame(columns, index=index)


def _writable(values: pd.Series) -> tuple[object, str]:
    """The column's values, and what was done to them (empty for what a reader would not notice)."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        categories = values.cat.categories
        if infer_dtype(categories) in ("string", "integer", "floating", "boolean", "empty"):
            return _text_as_object(values), ""
        return _as_text(values), f"categories of {infer_dtype(categories)} values turned into text"
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
        return values.to_numpy(), ""
    if is_float_dtype(values.dtype):
        return values.to_numpy(np.float64, na_value=np.nan), ""
    if is_integer_dtype(values.dtype) or is_bool_dtype(values.dtype):
        return values.array, ""
    kind = infer_dtype(values, skipna=True)
    if kind == "string":
        repeats = values.isna().any() or values.nunique() < len(values)
        return (_as_text(values) if repeats else text_column(values)), ""
    if kind == "empty":
        return _as_text(values), ""
    return _as_text(values), f"{values.dtype if values.dtype != object else kind} values turned into text"


def text_column(values: Iterable[str]) -> pd.Series:
    """Text as plain objects, which anndata writes alike under pandas 2 and 3; their own text types it does not."""
    return pd.Series(np.array(list(values), object), dtype=object)


def _as_text(values: pd.Series) -> pd.Categorical:
    text = values.astype(object).map(str, na_action="ignore")
    return pd.Categorical(text, categories=pd.Index(sorted(text.dropna().unique()), dtype=object))


def _text_as_object(values: pd.Series) -> pd.Categorical:
    """The categorical with text categories as plain objects, which every version of anndata writes alike."""
    categories = values.cat.categories
    if infer_dtype(categories) in ("string", "empty"):
        categories = pd.Index(categories.to_numpy(object), dtype=object)
    return pd.Categorical.from_codes(values.cat.codes, categories, ordered=values.cat.ordered)


@contextmanager
def _settings() -> Iterator[None]:
    """The same bytes from every version of anndata, and chunks of zeros stored, so that a missing one means damage.

    Silent are the warnings that text arrays and consolidated metadata are not in the zarr v3 specification yet: anndata
    writes both.
    """
    with (
        anndata.settings.override(auto_shard_zarr_v3=False),
        zarr.config.set({"array.write_empty_chunks": True}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "The data type", category=FutureWarning)
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        yield
