"""The corpus's feature table: which row of a model's gene table a feature is. It only grows.

A feature is known by its modality and identity, and keeps the row it was first given, so that a model trained on the
corpus understands what is ingested later. Its symbol is the one it came with first.
"""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mofm.axes import Modality
from mofm.corpus.manifest import Manifest
from mofm.errors import InputError
from mofm.omics.regions import resolve_regions, with_build

COLUMNS = ("id", "symbol", "modality")
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])


def empty_features() -> pd.DataFrame:
    """The feature table of a corpus without stores: columns id, symbol, modality."""
    return pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})


def add_features(
    features: pd.DataFrame, ids: Sequence[str], symbols: Sequence[str], modality: Modality
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table with the unknown ones of `ids` (unique) appended in order; and the row of each of `ids`, int32."""
    same = features["modality"].to_numpy() == modality
    row_of = dict(zip(features["id"].to_numpy()[same], np.flatnonzero(same).tolist(), strict=True))
    new = [position for position, name in enumerate(ids) if name not in row_of]
    row_of |= {ids[position]: len(features) + place for place, position in enumerate(new)}
    columns = ([ids[p] for p in new], [symbols[p] for p in new], [modality] * len(new))
    added = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), dtype=object)
    return pd.concat([features, added], ignore_index=True), np.array([row_of[name] for name in ids], np.int32)


def with_builds(features: pd.DataFrame, manifest: Manifest, where: str) -> pd.DataFrame:
    """The table with the build in the ids of regions, which formats before 3 left out; the same where it is in.

    A modality has the build that its stores name. Where none names one the ids stay.

    Raises:
      InputError: stores of one modality are of different builds: one id stands for a place in each.
    """
    if manifest.format_version >= 3:
        return features
    ids = features["id"].to_numpy(copy=True)
    for modality in ("atac", "methylation"):
        builds = sorted({entry.build for entry in manifest.stores if entry.modality == modality and entry.build})
        if len(builds) > 1:
            raise InputError(
                f"{where}: its {modality} regions are of {' and '.join(builds)}, and in corpus format "
                f"{manifest.format_version} their ids do not say which; ingest its files into a new corpus"
            )
        rows = np.flatnonzero(features["modality"].to_numpy() == modality)
        if builds and len(rows):
            ids[rows] = with_build(resolve_regions(ids[rows]), builds[0])
    return features.assign(id=ids)


def rows_by_modality(features: pd.DataFrame) -> np.ndarray:
    """int32, for each row of the table: its number among the features of its modality, which is its row in a model."""
    return features.groupby("modality", sort=False).cumcount().to_numpy(np.int32)


def features_to_bytes(features: pd.DataFrame) -> bytes:
    """The table as Parquet. The same table gives the same bytes."""
    content = io.BytesIO()
    table = pa.Table.from_pandas(features, schema=_SCHEMA, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), content, write_page_checksum=True)
    return content.getvalue()


def features_from_bytes(content: bytes | None, n_features: int | None, where: str) -> pd.DataFrame:
    """The first `n_features` rows of a table, or all; `where` names its file in messages.

    Raises:
      InputError: the table is missing (`content` is None), damaged or too short.
    """
    if content is None:
        raise InputError(f"{where}: the feature table is missing; copy the corpus again or ingest it anew")
    try:
        # Not `read_table`: the datasets and threads behind it keep 18 MB ever after.
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        features = file.read(use_threads=False).to_pandas(use_threads=False)
    # Damage ends in any of Arrow's exceptions; each means the same to the user.
    except Exception as error:
        cause = " ".join(str(error).split())
        raise InputError(f"{where}: cannot be read ({cause}); copy the corpus again or ingest it anew") from error
    if tuple(features.columns) != COLUMNS or len(features) < (n_features or 0):
        raise InputError(
            f"{where}: has {len(features):,} rows of {', '.join(features.columns)}, where {n_features or 0:,} of "
            f"{', '.join(COLUMNS)} are needed; copy the corpus again or ingest it anew"
        )
    return features.iloc[:n_features]
