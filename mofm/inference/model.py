"""A trained model on a user's file: `load(MODEL).embed(IN)`, MODEL being a run's directory or a bundle.

A cell's embedding depends on its own counts, the features that the file measures, and the model; not on the other cells
of the file, their order, the order of its columns or the batch size. (But for what weighs regions, see `matching.py`.)
All expressed features are tokens where they fit (`max_tokens`), beside zeros in the proportion that the model was
trained with. Memory holds a block of cells at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd

import mofm
from mofm.axes import Modality
from mofm.batch import TokenBatch
from mofm.batches.collate import collate
from mofm.errors import InputError
from mofm.export.parts import Parts, Step, read_parts
from mofm.inference.joint import Joint, fused_views, mean_of_views
from mofm.inference.matching import Matching, match, merged
from mofm.nn import model
from mofm.nn.grn import GeneStates
from mofm.omics.genome import gene_table
from mofm.omics.orthologs import read_orthologs
from mofm.omics.readers import Reading, Source, open_tables
from mofm.omics.rows import CountRows, take_cells
from mofm.omics.table import CountTable
from mofm.progress import cells_progress
from mofm.training import workdir as workdirs

RNA, EVERYTHING = Reading("rna"), Reading()
"""What a file is read for."""
TOKEN_STEP = 128
"""Views are padded to a multiple of this: few shapes, few compilations."""
BATCH_SIZE = 64
"""Cells at a time on a CPU."""
BYTES_OF_STATE = 64
"""A token's width in a block: 16 float32 arrays of it at once. Generous: what XLA keeps was not measured on every device."""
TOKEN_SEED = np.uint64(0x6D6F666D)
"""Every cell is sampled with one seed, so that its tokens depend on the cell alone."""

encode = jax.jit(model.embed, static_argnames=("spec", "modality"))  # one cache a process, not one a file
gene_states = jax.jit(model.gene_states, static_argnames="spec")


@dataclass(frozen=True)
class Embedding:
    """The embedding of a file's cells in one modality.

    Attributes:
      modality: which.
      cells: their names, in the order of the file.
      embedding_NE: float32.
      report: plain values, as written to uns["mofm"].
    """

    modality: Modality
    cells: pd.Index
    embedding_NE: np.ndarray
    report: dict


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a file's cells.

    Attributes:
      views: in each modality that the file has.
      joint: by all of them together.
    """

    views: dict[Modality, Embedding]
    joint: Joint


@dataclass(frozen=True)
class Options:
    """How to embed.

    Attributes:
      species: whose gene table resolves the file's names, as `gene_table` takes it; None for the model's own.
      orthologs: table through which genes of another species become genes of it (see `omics/orthologs.py`).
      build: genome build of its regions, by any of its names; None finds it by their places.
      batch_size: cells at a time; "auto" takes what suits the device. Changes speed and memory, not the result but for
        the last bit of sums.
      max_tokens: most tokens of a cell; of a cell with more, a fixed sample is taken.
      quiet: no progress on stderr.
    """

    species: str | Path | None = None
    orthologs: str | Path | None = None
    build: str | None = None
    batch_size: int | Literal["auto"] = "auto"
    max_tokens: int = 2048
    quiet: bool = False

    def __post_init__(self):
        for name, value in (("batch size", self.batch_size), ("max tokens", self.max_tokens)):
            if value != "auto" and value < 1:
                raise InputError(f"{name} {value}: must be at least 1")


@dataclass(frozen=True, eq=False)
class PretrainedModel(Parts):
    """The parts of a trained model, ready to be asked.

    Attributes:
      states: what its genes are by the networks that it was trained with.
    """

    states: GeneStates

    def embed(self, path: Source, reading: Reading = RNA, **options) -> Embedding:
        """Embed the cells of a file in one modality, RNA unless `reading` says another.

        Args:
          path: a file or folder of any layout in `mofm.omics.layouts`, of which only a block is in memory at a time; or an
            AnnData or MuData.
          reading: how the file is read.
          options: fields of `Options`.

        Raises:
          InputError: the file cannot be used, speaks of no gene of the model, or an option has no meaning.
        """
        return self.embed_all(path, reading, **options)[reading.modality]

    def embed_all(self, path: Source, reading: Reading = EVERYTHING, **options) -> dict[Modality, Embedding]:
        """Embed the cells of a file in each of its modalities; see `embed`."""
        chosen = Options(**options)
        with self.opened(path, reading, chosen) as matched:
            return self._views(matched, chosen)

    def embed_cells(self, path: Source, reading: Reading = EVERYTHING, **options) -> Embedded:
        """As `embed_all`, and each cell by all of its modalities (see `joint.py`)."""
        chosen = Options(**options)
        with self.opened(path, reading, chosen) as matched:
            views = self._views(matched, chosen)
            if self.spec.fuses and len(views) > 1:
                return Embedded(views, fused_views(self, matched, views, chosen))
        return Embedded(views, mean_of_views(views))

    @contextmanager
    def opened(self, path: Source, reading: Reading, options: Options) -> Iterator[list[tuple[CountTable, Matching]]]:
        """The tables of a file, open for streaming, with what their features are to the model. Raises as `embed`."""
        species = gene_table(options.species) if options.species else self.named_by
        orthologs = None if options.orthologs is None else read_orthologs(options.orthologs, species)
        with open_tables(path, reading) as tables:
            yield [(table, match(table, self.genes, species, options.build, orthologs)) for table in tables]

    def _views(self, matched: list[tuple[CountTable, Matching]], options: Options) -> dict[Modality, Embedding]:
        return {table.modality: self.embed_table(table, matching, options) for table, matching in matched}

    def embed_table(self, table: CountTable, matching: Matching, options: Options) -> Embedding:
        """The embedding of one table that is open; see `embed`."""
        parts, totals = [], np.zeros(2)
        with cells_progress(f"embedding {table.modality}", table.n_cells, options.quiet) as advance:
            for embedding_BE, counts_B2 in self._stream(table, matching, options):
                parts.append(embedding_BE)
                totals += counts_B2.sum(axis=0)
                advance(len(embedding_BE))
        n_matched = table.n_features - len(matching.unmatched)
        report = {
            "version": mofm.__version__,
            "model": self.name,
            "step": self.step,
            "config_hash": workdirs.config_hash(self.config),
            "modality": table.modality,
            "counts_from": table.counts_from,
            "recovered_counts": table.recovered,
            "feature_names_from": matching.names_from,
            "species": matching.named_by.species,
            "gene_table": matching.named_by.version,
            "build": matching.build or "",
            "notes": np.array([*table.notes, *matching.notes], dtype=str),
            "features_matched": n_matched,
            "features_unmatched": len(matching.unmatched),
            "share_of_features_known": n_matched / table.n_features,
            "share_of_counts_known": float(totals[1] / max(totals[0], 1.0)),
            "unmatched_features": np.array(matching.unmatched, dtype=str),
            "empty_cells": table.n_empty,
        }
        return Embedding(table.modality, table.obs.index, np.concatenate(parts), report)

    def _stream(
        self, table: CountTable, matching: Matching, options: Options
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """In file order: embedding_BE float32, and counts_B2 float64: each cell's total, and the part that is known."""
        for part, view in self.views(table, matching, options):
            embedding_BE = encode(self.spec, self.params, self.states.rows_GD, view, table.modality, matching.space)
            yield np.asarray(embedding_BE)[: part.n_cells], counts_known(part, matching.rows_F)

    def views(self, table: CountTable, matching: Matching, options: Options) -> Iterator[tuple[CountRows, TokenBatch]]:
        """In file order: batches of cells and the tokens that the model sees of them, padded to the batch size."""
        cells = self.cells_at_once(options)
        for rows in merged(table, matching):
            for start in range(0, rows.n_cells, cells):
                part = take_cells(rows, start, min(start + cells, rows.n_cells))
                yield part, self.view_of(part, table.modality, matching, options, cells)

    def depths(self, path: Source, reading: Reading = RNA, **options) -> np.ndarray:
        """depth_N, float64: how deep each cell of a file was read in one modality, in its order; see `TokenBatch.library_B`.
        Raises as `embed`."""
        chosen, found = Options(**options), [np.zeros(0)]
        with self.opened(path, reading, chosen) as matched:
            (table, matching), *_ = [one for one in matched if one[0].modality == reading.modality]
            for part, view in self.views(table, matching, chosen):
                found.append(view.library_B[: part.n_cells].astype(np.float64))
        return np.concatenate(found)

    def cells_at_once(self, options: Options) -> int:
        """Cells of a batch."""
        if options.batch_size == "auto":
            return cells_at_once(self.config.encoder.width, options.max_tokens, device_memory())
        return options.batch_size

    def view_of(
        self, rows: CountRows, modality: Modality, matching: Matching, options: Options, batch_size: int
    ) -> TokenBatch:
        """The tokens that the model sees of some cells, padded to the batch size."""
        fraction = self.config.data.expressed_fraction
        needed = int(np.ceil(np.diff(rows.indptr_N).max(initial=1) / fraction)) + 1
        tokens = min(-(-needed // TOKEN_STEP) * TOKEN_STEP, options.max_tokens)
        cells = rows.n_cells
        view = collate(
            rows,
            matching.rows_F,
            tokens=tokens,
            expressed_fraction=fraction,
            seeds_B=np.full(cells, TOKEN_SEED),
            cell_B=np.zeros(cells, np.int32),
            dataset_B=np.zeros(cells, np.int32),
            modality=modality,
            idf_G=matching.idf_F,
        )
        padding = batch_size - cells
        return jax.tree.map(lambda leaf: np.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1)), view)


def device_memory() -> int | None:
    """Bytes of the first device's memory; None for a CPU, or where the device does not say."""
    device = jax.devices()[0]
    memory = None if device.platform == "cpu" else device.memory_stats()
    return None if not memory else memory.get("bytes_limit")


def cells_at_once(width: int, max_tokens: int, memory: int | None) -> int:
    """Cells of a batch: 64 on a CPU, whose cores more would not serve; else a power of two from 16 to 1,024.

    Args:
      width: of the encoder; a token's states in a block are counted as BYTES_OF_STATE times it.
      memory: of the device, bytes; cells of `max_tokens` tokens take an eighth of it at most.
    """
    if memory is None:
        return BATCH_SIZE
    fit = memory // 8 // (max_tokens * width * BYTES_OF_STATE)
    return 2 ** int(np.clip(np.log2(max(fit, 1)), 4, 10))


def load(path: str | Path, *, step: Step = None) -> PretrainedModel:
    """Load a run or a bundle.

    Args:
      step: of a run, which checkpoint: its step, "latest" or "best" (by held-out loss; the newest where none was
        evaluated), as None. A bundle has one.

    Raises:
      InputError: neither a run's directory nor a bundle, damaged, of a newer mofm, or without such a checkpoint.
    """
    parts = read_parts(path, step)
    states = gene_states(parts.spec, parts.params, parts.network and parts.network.graph(parts.spec.genes))
    return PretrainedModel(**{field.name: getattr(parts, field.name) for field in fields(parts)}, states=states)


def counts_known(rows: CountRows, rows_F: np.ndarray) -> np.ndarray:
    """(B, 2): each cell's total count, and the part of it in features that the model knows."""
    cell_of = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr_N))
    totals = np.bincount(cell_of, rows.data, rows.n_cells)
    return np.stack([totals, np.bincount(cell_of, rows.data * (rows_F[rows.indices] >= 0), rows.n_cells)], axis=1)
