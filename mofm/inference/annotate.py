"""Labels of cells by those of their nearest neighbours in a reference, both embedded by one model; or by the model's own
annotation head, where it has one (`head.py`).

The vote is that of `evaluation/annotation.py`, but for ties; its figures are in tests/benchmarks/RESULTS.md. Voters are the K
reference cells whose embeddings, centred on the reference, point most nearly the same way (cosine), each with one voice.
Nothing is trained.

The confidence of a label is the share of the voices that it has. It is no probability: it was not calibrated, and a type that
the reference lacks gets the name of the likest that it has, maybe with all voices. Batches are not mixed by the embedding, so
take a reference of the same technique.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from mofm.errors import InputError, nearest_name
from mofm.export.heads import load_heads
from mofm.inference.head import head_of, tell
from mofm.inference.model import Embedding, Options, PretrainedModel
from mofm.inference.output import Added
from mofm.omics.readers import Reading

VOTERS = 15
REPORT_KEY = "mofm_annotation"


class Annotation(NamedTuple):
    """What neighbours say of N cells.

    Attributes:
      labels: of the most voices; of several, that of the nearest of their voters.
      confidence_N: float32, its share of the voices.
      neighbours_NK: int64, the reference cells that voted, the nearest first.
    """

    labels: np.ndarray
    confidence_N: np.ndarray
    neighbours_NK: np.ndarray


def annotate(embedding_NE: np.ndarray, reference_ME: np.ndarray, labels: pd.Series, voters: int = VOTERS) -> Annotation:
    """The labels of cells by a vote of their nearest neighbours among M reference cells.

    Args:
      labels: of the reference cells; those without one have no voice.

    Raises:
      InputError: no reference cell has a label, or `voters` is below 1.
    """
    if voters < 1:
        raise InputError(f"voters {voters}: must be at least 1")
    votes = np.flatnonzero(labels.notna().to_numpy())
    if not len(votes):
        raise InputError(
            f"obs[{str(labels.name)!r}] labels none of the {len(labels):,} reference cells; give another column"
        )
    codes_M, names = pd.factorize(labels.iloc[votes].astype(str), sort=True)
    centre_E = reference_ME[votes].mean(axis=0)
    nearest = NearestNeighbors(n_neighbors=min(voters, len(votes)), metric="cosine", algorithm="brute")
    nearest.fit(reference_ME[votes] - centre_E)
    place_NK = nearest.kneighbors(embedding_NE - centre_E, return_distance=False)
    code_NK = codes_M[place_NK]
    voices_NK = (code_NK[:, :, None] == code_NK[:, None, :]).sum(axis=2)
    first_N1 = voices_NK.argmax(axis=1)[:, None]  # the first of the most, and so the nearest
    share_N = np.take_along_axis(voices_NK, first_N1, axis=1)[:, 0] / code_NK.shape[1]
    code_N = np.take_along_axis(code_NK, first_N1, axis=1)[:, 0]
    return Annotation(names.to_numpy(object)[code_N], share_N.astype(np.float32), votes[place_NK])


@dataclass(frozen=True)
class LabelledCells:
    """Labels of a file's cells, to be written beside them.

    Attributes:
      embedding: of the cells.
      columns: for obs: KEY, the label; KEY_confidence; by a reference KEY_nearest, the name of the nearest reference cell
        that voted; by a head KEY_likeliest, the label also where KEY is "unknown".
      report: by which model, and by which reference with how many voters, or what its head learned.
    """

    embedding: Embedding
    columns: dict[str, np.ndarray | pd.Categorical]
    report: dict[str, object]

    def added(self, cells: pd.Index) -> Added:
        """What a copy of the file gets, its cells being `cells`."""
        table = pd.DataFrame(self.columns, index=self.embedding.cells).reindex(cells)
        return Added({}, {REPORT_KEY: self.report}, {name: table[name] for name in self.columns})


def label_cells(
    model: PretrainedModel,
    source,
    reference,
    label_key: str,
    reading: Reading,
    *,
    voters: int = VOTERS,
    key_added: str = "mofm_label",
    **options,
) -> LabelledCells:
    """Embed the cells of `source` and of `reference` in one modality, and label the first by the second.

    Args:
      source, reference: files, or AnnData, as `PretrainedModel.embed` takes them; the same options hold for both.
      label_key: column of the reference's obs; cells without a label there have no voice.
      options: fields of `Options`.

    Raises:
      InputError: as `PretrainedModel.embed`; or the reference has no such column, or no label in it.
    """
    chosen = Options(**options)
    with model.opened(reference, reading, chosen) as [(table, matching)]:
        if label_key not in table.obs:
            raise InputError(f"the reference's obs has no column {label_key!r}.{nearest_name(label_key, table.obs)}")
        labels, known = table.obs[label_key], model.embed_table(table, matching, chosen)
    asked = model.embed(source, reading, **options)
    found = annotate(asked.embedding_NE, known.embedding_NE, labels, voters)
    columns = {
        key_added: pd.Categorical(found.labels),
        f"{key_added}_confidence": found.confidence_N,
        f"{key_added}_nearest": known.cells.to_numpy(object)[found.neighbours_NK[:, 0]],
    }
    said = {"label_key": label_key, "voters": voters, "reference_cells": int(labels.notna().sum())}
    return LabelledCells(asked, columns, {**said, "model": model.name, "step": model.step})


def label_by_head(
    model: PretrainedModel, source, reading: Reading, *, key_added: str = "mofm_label", **options
) -> LabelledCells:
    """Label the cells of `source` by the model's annotation head for their modality.

    Raises:
      InputError: as `PretrainedModel.embed`; or the model has no such head.
    """
    heads = load_heads(model.workdir)
    head = head_of(model, heads, reading.modality)
    asked = model.embed(source, reading, **options)
    found = tell(head, asked.embedding_NE)
    columns = {
        key_added: pd.Categorical(found.labels),
        f"{key_added}_confidence": found.confidence_N,
        f"{key_added}_likeliest": pd.Categorical(found.likeliest),
    }
    said = {"label_key": heads.label_key, "threshold": head.threshold, "labels": np.array(head.labels, dtype=str)}
    return LabelledCells(asked, columns, {**said, "model": model.name, "step": model.step})
