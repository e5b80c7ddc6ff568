"""A trained model on a user's file: `load(workdir).embed(IN.h5ad, OUT.h5ad)`.

A cell's embedding depends on its own counts, the genes that the file measures, and the model; not on the other cells of
the file, their order, the order of its columns or the batch size. All expressed genes are tokens where they fit
(`max_tokens`), beside zeros in the proportion that the model was trained with.

Memory holds a block of cells at a time; the result is a copy of the input file with a key more in `obsm` and in `uns`.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anndata
import h5py
import jax
import numpy as np
import pandas as pd
from jax.sharding import SingleDeviceSharding

import mofm
from mofm.batch import TokenBatch
from mofm.batches.collate import collate
from mofm.errors import InputError
from mofm.files import output_file
from mofm.nn import model
from mofm.nn.model import ModelSpec, Params
from mofm.omics.features import merge_columns, resolve_var
from mofm.omics.genome import gene_table
from mofm.omics.merge import ColumnMerger
from mofm.omics.readers import CountTable, open_h5ad
from mofm.omics.rows import CountRows, take_cells
from mofm.progress import cells_progress
from mofm.training import workdir as workdirs
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import Config

TOKEN_STEP = 128
"""Views are padded to a multiple of this: few shapes, few compilations."""
BOOKKEEPING_BYTES = 2**20
"""What HDF5 may need to write an embedding, beside the values."""
TOKEN_SEED = np.uint64(0x6D6F666D)
"""Every cell is sampled with one seed, so that its tokens depend on the cell alone."""

_encode = jax.jit(model.embed, static_argnames=("spec", "modality"))  # one cache a process, not one a file


@dataclass(frozen=True)
class Matching:
    """How a file's features meet the model's.

    Attributes:
      names_from: where the names were found: "var_names" or a column of var.
      gene_G: int32. Column of the file -> gene; columns that name one gene are summed.
      rows_M: int32. Gene -> the model's row, -1 where the model does not know it.
      unmatched: names of the columns that the model does not know.
    """

    names_from: str
    gene_G: np.ndarray
    rows_M: np.ndarray
    unmatched: list[str]


@dataclass(frozen=True)
class Embedding:
    """What `embed` found: embedding_NE float32, and `report`, plain values as written to uns["mofm"]."""

    embedding_NE: np.ndarray
    report: dict


@dataclass(frozen=True)
class PretrainedModel:
    """Parameters with all that is needed to use them: no mesh, no optimizer, no corpus."""

    workdir: Path
    step: int
    config: Config
    spec: ModelSpec
    params: Params
    features: pd.DataFrame

    def match(self, table: CountTable, species: str = "human") -> Matching:
        """Find the file's genes among the model's, by identity: symbols, Ensembl ids and versions are one gene.

        Raises:
          InputError: not one gene in common.
        """
        names_from, resolution = resolve_var(table.var, gene_table(species))
        genes, gene_G = merge_columns(resolution.ids)
        rows_M = pd.Index(self.features["id"]).get_indexer(genes).astype(np.int32)
        names = [str(name) for name in table.var.index]
        if not (rows_M >= 0).any():
            given, known = (", ".join(some) for some in (names[:3], self.features["symbol"].head(3)))
            raise InputError(
                f"{table.path}: none of its {len(names):,} genes ({given}, ...) is among the model's "
                f"{len(self.features):,} ({known}, ...): check --species and that var holds gene symbols or Ensembl ids"
            )
        unmatched = [name for name, row in zip(names, rows_M[gene_G], strict=True) if row < 0]
        return Matching(names_from, gene_G, rows_M, unmatched)

    def embed_table(
        self, table: CountTable, matching: Matching, *, batch_size: int = 64, max_tokens: int = 2048
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Stream a table through the encoder, in file order.

        Yields:
          (embedding_BE float32, counts_B2 float64: each cell's total count, and the part in genes the model knows).
        """
        for rows in map(ColumnMerger(matching.gene_G), table.rows()):
            for start in range(0, rows.n_cells, batch_size):
                part = take_cells(rows, start, min(start + batch_size, rows.n_cells))
                view = self._view(part, matching.rows_M, batch_size, max_tokens)
                embedding_BE = np.asarray(_encode(self.spec, self.params, view, table.modality))[: part.n_cells]
                yield embedding_BE, _counts_known(part, matching.rows_M)

    def _view(self, rows: CountRows, feature_rows_G: np.ndarray, batch_size: int, max_tokens: int) -> TokenBatch:
        fraction = self.config.data.expressed_fraction
        needed = int(np.ceil(np.diff(rows.indptr_N).max(initial=1) / fraction)) + 1
        tokens = min(-(-needed // TOKEN_STEP) * TOKEN_STEP, max_tokens)
        cells = rows.n_cells
        view = collate(
            rows,
            feature_rows_G,
            tokens=tokens,
            expressed_fraction=fraction,
            seeds_B=np.full(cells, TOKEN_SEED),
            cell_B=np.zeros(cells, np.int32),
            dataset_B=np.zeros(cells, np.int32),
        )
        padding = batch_size - cells
        return jax.tree.map(lambda leaf: np.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1)), view)

    def embed(
        self,
        path: str | Path,
        *,
        counts_from: str | None = None,
        recover_counts: bool = False,
        species: str = "human",
        batch_size: int = 64,
        max_tokens: int = 2048,
        quiet: bool = False,
    ) -> Embedding:
        """Embed the cells of an h5ad file.

        Args:
          path: the file; only a block of it is in memory at a time.
          counts_from, recover_counts: see `mofm.omics.readers.open_h5ad`.
          batch_size: cells at a time; changes speed and memory, not the result.
          max_tokens: most tokens of a cell; of a cell with more, a fixed sample is taken.

        Raises:
          InputError: the file cannot be used, shares no gene with the model, or an option has no meaning.
        """
        for name, value in (("batch size", batch_size), ("max tokens", max_tokens)):
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")
        with open_h5ad(path, counts_from=counts_from, recover_counts=recover_counts) as table:
            matching = self.match(table, species)
            parts, totals = [], np.zeros(2)
            with cells_progress("embedding", table.n_cells, quiet) as advance:
                blocks = self.embed_table(table, matching, batch_size=batch_size, max_tokens=max_tokens)
                for embedding_BE, counts_B2 in blocks:
                    parts.append(embedding_BE)
                    totals += counts_B2.sum(axis=0)
                    advance(len(embedding_BE))
            n_matched = table.n_features - len(matching.unmatched)
            report = {
                "version": mofm.__version__,
                "model": self.workdir.name,
                "step": self.step,
                "config_hash": workdirs.config_hash(self.config),
                "counts_from": table.counts_from,
                "recovered_counts": table.recovered,
                "gene_names_from": matching.names_from,
                "genes_matched": n_matched,
                "genes_unmatched": len(matching.unmatched),
                "share_of_genes_known": n_matched / table.n_features,
                "share_of_counts_known": float(totals[1] / max(totals[0], 1.0)),
                "unmatched_genes": np.array(matching.unmatched, dtype=str),
                "empty_cells": table.n_empty,
            }
        return Embedding(np.concatenate(parts), report)


def load(workdir: str | Path, *, step: int | None = None) -> PretrainedModel:
    """Load the best checkpoint of a run (by held-out loss; the newest where none was evaluated), or that of `step`.

    Raises:
      InputError: not a run's directory, or no such checkpoint in it.
    """
    workdir = Path(workdir)
    config = workdirs.read_config(workdir)
    features = workdirs.read_features(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.best if step is None else step
    if step is None or step not in checkpoints.steps:
        kept = ", ".join(map(str, checkpoints.steps)) or "none"
        raise InputError(
            f"{workdir}: no checkpoint{'' if step is None else f' of step {step}'} (there are: {kept}); train further"
        )
    spec = ModelSpec(config.encoder, len(features))
    device = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(partial(model.init, spec), jax.random.key(0))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    params = checkpoints.restore_params(step, abstract)
    checkpoints.close()
    return PretrainedModel(workdir, step, config, spec, params, features)


def write_embedding(source: Path, target: Path, embedding: Embedding, key_added: str = "X_mofm") -> None:
    """Copy `source` to `target` with obsm[key_added] and uns["mofm"] set. `target` appears whole or not at all.

    Raises:
      InputError: the disk is full, or `target` cannot be written for another reason.
    """
    source, target = Path(source), Path(target)
    with output_file(target) as temporary:
        shutil.copyfile(source, temporary)
        os.chmod(temporary, 0o644)
        _reserve(temporary, _bytes_added(embedding))
        with h5py.File(temporary, "r+") as file:
            for group in {"obsm", "uns"} - set(file):
                anndata.io.write_elem(file, group, {})
            anndata.io.write_elem(file["obsm"], key_added, embedding.embedding_NE)
            anndata.io.write_elem(file["uns"], "mofm", embedding.report)


def _bytes_added(embedding: Embedding) -> int:
    """More bytes than a file grows by when the embedding is written to it."""
    names = embedding.report["unmatched_genes"]
    return BOOKKEEPING_BYTES + embedding.embedding_NE.nbytes + 64 * len(names) + names.nbytes


def _reserve(path: Path, n_bytes: int) -> None:
    """Grow a file, so that a full disk is met here: in HDF5 it ends the process. What is unused HDF5 cuts off again."""
    with path.open("ab") as file:
        for _ in range(-(-n_bytes // BOOKKEEPING_BYTES)):
            file.write(bytes(BOOKKEEPING_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _counts_known(rows: CountRows, rows_M: np.ndarray) -> np.ndarray:
    """(B, 2): each cell's total count, and the part of it in genes that the model knows."""
    cell_of = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr_N))
    totals = np.bincount(cell_of, rows.data, rows.n_cells)
    return np.stack([totals, np.bincount(cell_of, rows.data * (rows_M[rows.indices] >= 0), rows.n_cells)], axis=1)
