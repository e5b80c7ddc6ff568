"""Matrices of 10x Genomics, HDF5 or a folder of matrix.mtx: one matrix, whose features are of several types.

The HDF5 file is compressed by barcode, features x barcodes, which is cells x features in CSR: it is read as such. Each
modality is a table of its own that reads the whole matrix and keeps its columns, so that a multiome is read twice.
"""

from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError
from mofm.omics.anndatas import LooksLike, check_names
from mofm.omics.choice import Wanted, make_candidate
from mofm.omics.hdf5 import reading
from mofm.omics.layouts import Kind
from mofm.omics.matrices import CsrMatrix, StoredMatrix
from mofm.omics.modalities import feature_kinds, modalities_of_types, region_share
from mofm.omics.mtx import MtxMatrix, read_names
from mofm.omics.table import CountSource, CountTable

Parts = tuple[StoredMatrix, pd.DataFrame, pd.DataFrame]
"""A matrix of cells x features, its obs and its var."""


def read_hdf5(file: h5py.File, path: Path) -> Parts:
    """The matrix of a Cell Ranger HDF5 file: of version 3 and later (`matrix`), or before (a group a genome).

    Raises:
      InputError: it is damaged, or holds several genomes.
    """
    where = str(path)
    with reading(where, "the list of its contents"):
        if "matrix/barcodes" in file:
            group, names = file["matrix"], _features(file["matrix/features"])
        else:
            genomes = [name for name in file if f"{name}/barcodes" in file]
            if len(genomes) > 1:
                raise InputError(
                    f"{path}: holds several genomes ({', '.join(genomes)}), a corpus one species; write one of them "
                    f"with scanpy.read_10x_h5(..., genome={genomes[0]!r}) as h5ad"
                )
            group = file[genomes[0]]
            names = {"name": _text(group["gene_names"]), "gene_ids": _text(group["genes"])}
        barcodes = _text(group["barcodes"])
        n_features, n_cells = (int(size) for size in group["shape"][:])
    if len(barcodes) != n_cells or any(len(values) != n_features for values in names.values()):
        raise InputError(f"{path}: its matrix is {n_features:,} x {n_cells:,} but its names are not; fetch it again")
    matrix = CsrMatrix(where, "matrix", group, (n_cells, n_features))
    return matrix, pd.DataFrame(index=barcodes), _var(pd.DataFrame(names))


def read_folder(files: tuple[Path, ...], path: Path) -> Parts:
    """The matrix of a folder: files are matrix.mtx, features.tsv (or genes.tsv, peaks.bed) and barcodes.tsv."""
    where = str(path)
    features, barcodes = (read_names(file, where) for file in files[1:3])
    if "peaks.bed" in files[1].name:
        peaks = features[0] + ":" + features[1] + "-" + features[2]
        names = pd.DataFrame({"name": peaks, "feature_types": "Peaks"})
    else:
        columns = ("gene_ids", "name", "feature_types")[: features.shape[1]]
        names = features.iloc[:, : len(columns)].set_axis(columns, axis=1)
        names = names if "name" in names else names.assign(name=names["gene_ids"])
        if "feature_types" not in names and region_share(names["name"]) > 0.5:
            names["feature_types"] = "Peaks"
    matrix = MtxMatrix(files[0], len(barcodes), len(names), where)
    return matrix, pd.DataFrame(index=pd.Index(barcodes[0].tolist(), dtype=object)), _var(names)


def tables_of(
    parts: Parts,
    path: Path,
    kind: Kind,
    resources: ExitStack,
    modality: Modality | None,
    others: tuple[Modality, ...],
    looks_like_genes: LooksLike,
) -> list[CountTable]:
    """A table for each modality among the features (or for `modality` alone), in the order of `MODALITIES`.

    Args:
      resources: closed to free the matrix's scratch space.
      others: modalities whose features are not to be counted as left out.

    Raises:
      InputError: there is no such feature, or a name is wrong.
    """
    matrix, obs, var = parts
    resources.callback(matrix.close)
    meant = modalities_of_types(var)
    found = [known for known in MODALITIES if known in meant]
    if not found:
        kinds = ", ".join(sorted(feature_kinds(var, "").unique()))
        raise InputError(f"{path}: mofm models none of its features ({kinds}); give {', '.join(MODALITIES)}")
    tables = []
    for wanted in (modality,) if modality else found:
        where = f"{path}: {wanted}" if len(found) > 1 else str(path)
        if wanted not in found:
            raise InputError(f"{path}: has no {wanted}, but {', '.join(found)}; name one of these")
        candidate = make_candidate(where, matrix, var, Wanted(wanted, others))
        table = CountTable(
            path, kind, where, wanted, matrix.name, matrix.layout, obs, candidate.var, CountSource(candidate),
            left_out=candidate.left_out,
        )  # fmt: skip
        if candidate.look.kind not in ("counts", "empty"):
            raise InputError(f"{where}: {matrix.name} is {candidate.look.words}; raw counts are needed")
        check_names(table, looks_like_genes)
        tables.append(table)
    return tables


def _features(group: h5py.Group) -> dict[str, np.ndarray]:
    names = {"name": _text(group["name"]), "gene_ids": _text(group["id"])}
    for key, column in (("feature_type", "feature_types"), ("genome", "genome")):
        if key in group:
            names[column] = _text(group[key])
    return names


def _text(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]], object)


def _var(names: pd.DataFrame) -> pd.DataFrame:
    return names.set_index("name").rename_axis(index=None)
