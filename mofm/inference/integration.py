"""Where in a model's embedding the batches of a corpus lie apart: what `mofm finetune --task integration` takes out.

As at the start of training (`linear/batch_directions.py`, which says why), but in the embedding itself: between
cells of different batches that are each other's nearest neighbours, where two halves of the cells agree. What is found is
taken out of the last matrix of the embedding, so that a new cell needs no batch, and an effect goes as far as it is a shift.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from mofm.batches.labels import read_numbers
from mofm.corpus.datasets import Corpus
from mofm.errors import InputError
from mofm.inference.corpus_cells import embed_corpus
from mofm.inference.model import PretrainedModel
from mofm.linear.batch_directions import ROUNDS, batch_directions, spanned
from mofm.training.off_batches import without


def batch_axes(
    model: PretrainedModel, corpus: Corpus, batch_key: str, heldout: np.ndarray, quiet: bool = False
) -> np.ndarray:
    """axes_RE, float32: orthonormal rows, the directions of the embedding in which batches differ, found in training cells.

    Args:
      corpus: on disk; all of its cells of a known batch are embedded.
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
        found = embed_corpus(model, corpus, modality, batches.number_N >= 0, quiet)
        if found is not None:
            embedding_NE, cell_N = found
            shown = ~np.isin(cell_N, heldout)
            embedded.append((embedding_NE[shown], batches.of(cell_N[shown])))
    return axes_of(embedded)


def axes_of(embedded: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """axes_RE of (embedding_NE, batch_N) of each modality; batches are int32, -1 where not known."""

    def differences(x_NE: np.ndarray, batch_N: np.ndarray, axes_RE: np.ndarray) -> np.ndarray:
        return batch_directions(sp.csr_matrix(x_NE), without(x_NE, axes_RE), batch_N)

    axes_RE = np.zeros((0, embedded[0][0].shape[1]))
    for _ in range(ROUNDS):
        # A modality at a time: in float64, and as rows of a matrix, cells take four times their memory.
        axes_RE = spanned([differences(x_NE.astype(np.float64), batch_N, axes_RE) for x_NE, batch_N in embedded])
    return axes_RE.astype(np.float32)
