"""Where in a model's embedding the batches of a corpus lie apart: what `mofm finetune --task integration` takes out.

As at the start of training (`training/batch_directions.py`, where it is told why), but in the embedding itself: between
cells of different batches that are each other's nearest neighbours, where two halves of the cells agree. What is found is
taken out of the last matrix of the embedding, so that a new cell needs no batch, and an effect goes as far as it is a shift.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from mofm.batches.labels import read_numbers
from mofm.corpus.datasets import Corpus
from mofm.errors import InputError
from mofm.inference.model import PretrainedModel
from mofm.omics.readers import Reading
from mofm.training.batch_directions import ROUNDS, batch_directions


def batch_axes(
    model: PretrainedModel, corpus: Corpus, batch_key: str, heldout: np.ndarray, quiet: bool = False
) -> np.ndarray:
    """axes_RE, float32: orthonormal rows, the directions of the embedding in which batches differ, told by training cells.

    Args:
      corpus: on disk; all of its cells are embedded.
      batch_key: column of obs that says of which batch a cell is.
      heldout: global indices of the cells that have no say.

    Raises:
      InputError: no such column; or the corpus is in a bucket, where files are not read as a user's are.
    """
    if "://" in str(corpus.path):
        raise InputError(
            f"{corpus.path}: batches are looked for in a corpus on disk; copy it, or ingest its files anew"
        )
    batches, embedded = read_numbers(corpus.datasets, batch_key, "--task integration", by_file=True), []
    for modality in corpus.modalities:
        rows, numbers = [], []
        for dataset, start in zip(corpus.datasets, corpus.offsets, strict=False):
            if modality not in dataset.stores:
                continue
            place = Path(corpus.path) / dataset.stores[modality].entry.path
            cells = np.arange(start, start + dataset.n_cells)
            shown = ~np.isin(cells, heldout)
            rows.append(model.embed(place, Reading(modality), quiet=quiet).embedding_NE[shown])
            numbers.append(batches.of(cells[shown]))
        if rows:
            embedded.append((np.concatenate(rows), np.concatenate(numbers)))
    return axes_of(embedded)


def axes_of(embedded: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """axes_RE of (embedding_NE, batch_N) of each modality; batches are int32, -1 where not known."""
    axes_RE = np.zeros((0, embedded[0][0].shape[1]))
    for _ in range(ROUNDS):
        found = [
            batch_directions(sp.csr_matrix(x_NE.astype(np.float64)), without(x_NE.astype(np.float64), axes_RE), batch_N)
            for x_NE, batch_N in embedded
        ]
        _, size_R, every_RE = np.linalg.svd(np.concatenate(found), full_matrices=False)
        axes_RE = every_RE[size_R > 1e-6]
    return axes_RE.astype(np.float32)


def without(x_NE: np.ndarray, axes_RE: np.ndarray) -> np.ndarray:
    """What is left of rows without their parts along orthonormal axes."""
    return x_NE - (x_NE @ axes_RE.T) @ axes_RE
