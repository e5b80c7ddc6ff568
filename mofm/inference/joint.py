"""One embedding of each cell of a file, whatever was measured of it.

A model that fuses (`nn/fusion.py`) has the views of one cell see each other, and the joint embedding is of the columns that
modalities share; of a cell of one view it is these columns of that view's. Any other model's is the mean of the cell's
embeddings, in all columns.

Cells of one set of modalities are streamed side by side, as many at a time as of one modality; tables that list them in
different orders go through a scratch file (`omics/select.py`). It is a pass of its own over the counts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import pandas as pd

from mofm.axes import Modality
from mofm.inference.matching import Matching, merged
from mofm.nn import model
from mofm.omics.pairing import Part, pair
from mofm.omics.rows import CountRows, join_rows, take_cells
from mofm.omics.table import CountTable
from mofm.progress import cells_progress

if TYPE_CHECKING:
    from mofm.inference.model import Embedding, Options, PretrainedModel

encode_together = jax.jit(model.embed_together, static_argnames="spec")


@dataclass(frozen=True)
class Joint:
    """An embedding of cells by all that was measured of them.

    Attributes:
      cells: their names: those of the first modality, then those that it lacks, and so on.
      embedding_NE: float32.
      fused: how many cells' views saw each other; None for a model that does not fuse.
    """

    cells: pd.Index
    embedding_NE: np.ndarray
    fused: int | None = None


def mean_of_views(embeddings: Mapping[Modality, "Embedding"], columns: int | None = None) -> Joint:
    """The mean of a cell's embeddings, in their first `columns`; None: in all."""
    cells = pd.Index(dict.fromkeys(name for embedding in embeddings.values() for name in embedding.cells))
    width = next(iter(embeddings.values())).embedding_NE[:, :columns].shape[1]
    total_NE, count_N1 = np.zeros((len(cells), width)), np.zeros((len(cells), 1))
    for embedding in embeddings.values():
        places = cells.get_indexer(embedding.cells)
        total_NE[places] += embedding.embedding_NE[:, :columns]
        count_N1[places] += 1
    return Joint(cells, (total_NE / count_N1).astype(np.float32))


def fused_views(
    pretrained: "PretrainedModel",
    matched: Sequence[tuple[CountTable, Matching]],
    embeddings: Mapping[Modality, "Embedding"],
    options: "Options",
) -> Joint:
    """The joint embedding by a model that fuses, of tables that are open; `embeddings` are of the same."""
    alone = mean_of_views(embeddings, pretrained.spec.shared_width)  # right for cells of one view
    joint_NS, done = alone.embedding_NE, 0
    parts = [part for part in pair([table for table, _ in matched], unpaired=True) if len(part.modalities) > 1]
    with cells_progress("fusing", sum(part.n_cells for part in parts), options.quiet) as advance:
        for part in parts:
            cells = embeddings[part.modalities[0]].cells[part.rows[part.modalities[0]]]
            places, start = alone.cells.get_indexer(cells), 0
            for joint_BS in _stream(pretrained, matched, part, options):
                joint_NS[places[start : start + len(joint_BS)]] = joint_BS
                start += len(joint_BS)
                advance(len(joint_BS))
            done += start
    return Joint(alone.cells, joint_NS, done)


def _stream(
    pretrained: "PretrainedModel", matched: Sequence[tuple[CountTable, Matching]], part: Part, options: "Options"
) -> Iterator[np.ndarray]:
    """joint_BS of the cells of a part, in its order."""
    size = pretrained.cells_at_once(options)
    matching_of = {table.modality: matching for table, matching in matched if table.modality in part.modalities}
    spaces = {modality: matching.space for modality, matching in matching_of.items() if matching.space is not None}
    with ExitStack() as taken:
        streams = []
        for table, matching in matched:
            if table.modality in part.modalities:
                rows = taken.enter_context(table.take(part.rows[table.modality]))
                streams.append(evenly(merged(rows, matching), size))
        for several in zip(*streams, strict=True):
            views = {
                modality: pretrained.view_of(rows, modality, matching, options, size)
                for rows, (modality, matching) in zip(several, matching_of.items(), strict=True)
            }
            of = (pretrained.spec, pretrained.params, pretrained.states.rows_GD, views, spaces)
            yield np.asarray(encode_together(*of))[: several[0].n_cells]


def evenly(blocks: Iterable[CountRows], cells: int) -> Iterator[CountRows]:
    """The same cells, so many at a time, and what is left at the end."""
    held: list[CountRows] = []
    for rows in blocks:
        joined = join_rows([*held, rows])
        whole = joined.n_cells // cells * cells
        for start in range(0, whole, cells):
            yield take_cells(joined, start, start + cells)
        held = [take_cells(joined, whole, joined.n_cells)] if whole < joined.n_cells else []
    yield from held
