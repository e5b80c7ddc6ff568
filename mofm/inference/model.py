"""A trained model on a user's file: `load(workdir).embed(IN)`.

A cell's embedding depends on its own counts, the features that the file measures, and the model; not on the other cells
of the file, their order, the order of its columns or the batch size. (But for what weighs regions, see `matching.py`.)
All expressed features are tokens where they fit (`max_tokens`), beside zeros in the proportion that the model was
trained with. Memory holds a block of cells at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jax.sharding import SingleDeviceSharding

import mofm
from mofm.axes import Modality
from mofm.batch import TokenBatch
from mofm.batches.collate import collate
from mofm.errors import InputError
from mofm.inference.matching import Matching, match, merged
from mofm.nn import model
from mofm.nn.grn import GeneStates
from mofm.nn.model import ModelSpec, Params
from mofm.omics.genome import GeneTable, gene_table
from mofm.omics.orthologs import read_orthologs
from mofm.omics.readers import Reading, open_tables
from mofm.omics.rows import CountRows, take_cells
from mofm.omics.table import CountTable
from mofm.progress import cells_progress
from mofm.training import workdir as workdirs
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import Config, make_spec
from mofm.training.network import RunNetwork, load_network

RNA, EVERYTHING = Reading("rna"), Reading()
"""What a file is read for."""
TOKEN_STEP = 128
"""Views are padded to a multiple of this: few shapes, few compilations."""
TOKEN_SEED = np.uint64(0x6D6F666D)
"""Every cell is sampled with one seed, so that its tokens depend on the cell alone."""

encode = jax.jit(model.embed, static_argnames=("spec", "modality"))  # one cache a process, not one a file
tell = jax.jit(model.gene_states, static_argnames="spec")


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
class Options:
    """How to embed.

    Attributes:
      species: whose gene table resolves the file's names, as `gene_table` takes it; None for the model's own.
      orthologs: table through which genes of another species become genes of it (see `omics/orthologs.py`).
      build: genome build of its regions, by any of its names; None finds it by their places.
      batch_size: cells at a time; changes speed and memory, not the result.
      max_tokens: most tokens of a cell; of a cell with more, a fixed sample is taken.
      quiet: no progress on stderr.
    """

    species: str | Path | None = None
    orthologs: str | Path | None = None
    build: str | None = None
    batch_size: int = 64
    max_tokens: int = 2048
    quiet: bool = False

    def __post_init__(self):
        for name, value in (("batch size", self.batch_size), ("max tokens", self.max_tokens)):
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1")


@dataclass(frozen=True)
class PretrainedModel:
    """Parameters with all that is needed to use them: no mesh, no optimizer, no corpus.

    Attributes:
      states: what its genes are, told by the networks that it was trained with.
      network: these networks; None for a model of none.
      genes: columns id, symbol, measured: what the rows of the gene table stand for.
      named_by: the gene table of the training corpus's species.
    """

    workdir: Path
    step: int
    config: Config
    spec: ModelSpec
    params: Params
    states: GeneStates
    network: RunNetwork | None
    genes: pd.DataFrame
    named_by: GeneTable

    def embed(self, path: str | Path, reading: Reading = RNA, **options) -> Embedding:
        """Embed the cells of a file in one modality, RNA unless `reading` says another.

        Args:
          path: a file or folder of any layout in `mofm.omics.layouts`; only a block of it is in memory at a time.
          reading: how the file is read.
          options: fields of `Options`.

        Raises:
          InputError: the file cannot be used, speaks of no gene of the model, or an option has no meaning.
        """
        return self.embed_all(path, reading, **options)[reading.modality]

    def embed_all(self, path: str | Path, reading: Reading = EVERYTHING, **options) -> dict[Modality, Embedding]:
        """Embed the cells of a file in each of its modalities; see `embed`."""
        chosen = Options(**options)
        with self.opened(path, reading, chosen) as matched:
            return {table.modality: self.embed_table(table, matching, chosen) for table, matching in matched}

    @contextmanager
    def opened(
        self, path: str | Path, reading: Reading, options: Options
    ) -> Iterator[list[tuple[CountTable, Matching]]]:
        """The tables of a file, open for streaming, with what their features are to the model. Raises as `embed`."""
        species = gene_table(options.species) if options.species else self.named_by
        orthologs = None if options.orthologs is None else read_orthologs(options.orthologs, species)
        with open_tables(path, reading) as tables:
            yield [(table, match(table, self.genes, species, options.build, orthologs)) for table in tables]

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
            "model": self.workdir.name,
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
        for rows in merged(table, matching):
            for start in range(0, rows.n_cells, options.batch_size):
                part = take_cells(rows, start, min(start + options.batch_size, rows.n_cells))
                yield part, self._view(part, table.modality, matching, options)

    def _view(self, rows: CountRows, modality: Modality, matching: Matching, options: Options) -> TokenBatch:
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
        padding = options.batch_size - cells
        return jax.tree.map(lambda leaf: np.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1)), view)


def load(workdir: str | Path, *, step: int | None = None) -> PretrainedModel:
    """Load the best checkpoint of a run (by held-out loss; the newest where none was evaluated), or that of `step`.

    Raises:
      InputError: not a run's directory, or no such checkpoint in it.
    """
    workdir = Path(workdir)
    config = workdirs.read_config(workdir)
    genes = workdirs.read_genes(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.best if step is None else step
    if step is None or step not in checkpoints.steps:
        kept = ", ".join(map(str, checkpoints.steps)) or "none"
        raise InputError(
            f"{workdir}: no checkpoint{'' if step is None else f' of step {step}'} (there are: {kept}); train further"
        )
    network = load_network(workdir)
    relations = 0 if network is None else len(network.relations)
    spec = make_spec(config, len(genes), relations, workdirs.read_modalities(workdir))
    device = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(partial(model.init, spec), jax.random.key(0))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    params = checkpoints.restore_params(step, abstract)
    checkpoints.close()
    states = tell(spec, params, network and network.graph(spec.genes))
    named_by = workdirs.read_gene_table(workdir)
    return PretrainedModel(workdir, step, config, spec, params, states, network, genes, named_by)


def counts_known(rows: CountRows, rows_F: np.ndarray) -> np.ndarray:
    """(B, 2): each cell's total count, and the part of it in features that the model knows."""
    cell_of = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr_N))
    totals = np.bincount(cell_of, rows.data, rows.n_cells)
    return np.stack([totals, np.bincount(cell_of, rows.data * (rows_F[rows.indices] >= 0), rows.n_cells)], axis=1)
