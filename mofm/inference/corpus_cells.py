"""The cells of a corpus on disk, as a model embeds them: what heads and batches are learned from."""

from pathlib import Path

import numpy as np

from mofm.axes import Modality
from mofm.corpus.datasets import Corpus
from mofm.inference.model import PretrainedModel
from mofm.omics.readers import Reading


def embed_corpus(
    model: PretrainedModel, corpus: Corpus, modality: Modality, is_known_N: np.ndarray, quiet: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """(embedding_NE, cell_N) of the data sets that have a modality, in their order; None where there is none.

    Args:
      is_known_N: bool, by global index. A data set of which no cell is known is passed over; of the others all cells are given.

    Returns:
      cell_N: int64 global indices of the rows of embedding_NE, float32.
    """
    parts, cells = [], []
    for dataset, start in zip(corpus.datasets, corpus.offsets, strict=False):
        if modality in dataset.stores and is_known_N[start : start + dataset.n_cells].any():
            place = Path(corpus.path) / dataset.stores[modality].entry.path
            parts.append(model.embed(place, Reading(modality), quiet=quiet).embedding_NE)
            cells.append(np.arange(start, start + dataset.n_cells))
    return (np.concatenate(parts), np.concatenate(cells)) if parts else None
