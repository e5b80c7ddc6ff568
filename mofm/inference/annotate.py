"""Labels of cells by those of their nearest neighbours in a reference, both embedded by one model (`vote.py`); or by the
model's own annotation head, where it has one (`head.py`). Either gives chances of labels, and `naming.py` says what is said of
a cell by them; figures are in tests/benchmarks/RESULTS.md.

Batches are not mixed by the embedding, so take a reference of the same technique. What a reference of fewer than LEAST_JUDGED
labelled cells says is worth is unknown: confidences are then shares of the voices, and no cell is strange.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.errors import InputError, nearest_name
from mofm.export.heads import load_heads
from mofm.inference.head import head_of, names_by_head
from mofm.inference.model import Embedding, Options, PretrainedModel
from mofm.inference.naming import UNKNOWN, Lineage, Names, check_confidence, lineage_of, name_cells
from mofm.inference.output import Added
from mofm.inference.vote import LEAST_JUDGED, VOTERS, electorate
from mofm.omics.ontology import read_ontology
from mofm.omics.readers import Reading

REPORT_KEY = "mofm_annotation"
MOST_VOICES = 0.5
"""The share of the voices that a label or term needs where an ontology is given, nothing else asked for, and the reference too
small to be judged."""


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
    asked = electorate(reference_ME, labels, voters)
    votes = asked.ask(embedding_NE)
    return Annotation(asked.labels[votes.likeliest_N], votes.share_N, votes.neighbours_NK)


@dataclass(frozen=True)
class LabelledCells:
    """Labels of a file's cells, to be written beside them.

    Attributes:
      embedding: of the cells.
      columns: for obs: KEY, the label; KEY_confidence, its chance; KEY_likeliest, the label also where KEY is a broader term
        or "unknown"; with an ontology KEY_term, the id; by a head KEY_distance, from the nearest of its types, 1 being as far
        as a cell may be that is named; by a reference KEY_voices, the likeliest label's share of them, and
        KEY_nearest, the name of the nearest reference cell that voted.
      report: by which model, and by which reference with how many voters, or what its head learned; threshold; how many
        cells are named by broader terms, are unknown, and are so for being far from reference or types; notes for people.
    """

    embedding: Embedding
    columns: dict[str, np.ndarray | pd.Categorical]
    report: dict[str, object]

    def added(self, cells: pd.Index) -> Added:
        """What a copy of the file gets, its cells being `cells`."""
        table = pd.DataFrame(self.columns, index=self.embedding.cells).reindex(cells)
        return Added({}, {REPORT_KEY: self.report}, {name: table[name] for name in self.columns})

    def lines(self) -> list[str]:
        """For people: how many cells are not named by a label, and why."""
        said, lines = self.report, list(self.report.get("notes", ()))
        if "broader_cells" in said:
            lines.append(f"{said['broader_cells']:,} cells are named by a broader term")
        what = "the reference" if "reference_cells" in said else "all types that the head knows"
        far = f", {said['far_cells']:,} of them as far from {what}" if said.get("far_cells") else ""
        lines.append(f"{said['unknown_cells']:,} cells are unknown{far}")
        if not said.get("calibrated", True):
            lines.append(
                f"with fewer than {LEAST_JUDGED} reference cells confidences are shares of the voices, no chances"
            )
        return lines


def label_cells(
    model: PretrainedModel,
    source,
    reference,
    label_key: str,
    reading: Reading,
    *,
    voters: int = VOTERS,
    key_added: str = "mofm_label",
    ontology: str | Path | None = None,
    confidence: float | None = None,
    **options,
) -> LabelledCells:
    """Embed the cells of `source` and of `reference` in one modality, and label the first by the second.

    Args:
      source, reference: files, or AnnData, as `PretrainedModel.embed` takes them; the same options hold for both.
      label_key: column of the reference's obs; cells without a label there have no voice.
      ontology: an OBO file, by whose broader terms cells are named where no label is sure enough.
      confidence: below it a cell is not named; None for the chance that most of the rightly named reference cells have.
      options: fields of `Options`.

    Raises:
      InputError: as `PretrainedModel.embed`; or the reference has no such column, or no label in it; or `ontology` cannot be
        read, or has no label as a term.
    """
    check_confidence(confidence)
    chosen = Options(**options)
    with model.opened(reference, reading, chosen) as [(table, matching)]:
        if label_key not in table.obs:
            raise InputError(f"the reference's obs has no column {label_key!r}.{nearest_name(label_key, table.obs)}")
        labels = table.obs[label_key]
        lineage = _lineage(sorted(set(labels.dropna().astype(str))), ontology)
        known = model.embed_table(table, matching, chosen)
    voting = electorate(known.embedding_NE, labels, voters)
    worth = voting.judge()
    asked = model.embed(source, reading, **options)
    votes = voting.ask(asked.embedding_NE)
    chance_NC = votes.voices_NC / votes.neighbours_NK.shape[1] if worth is None else worth.chances(votes.voices_NC)
    is_far_N = np.zeros(len(chance_NC), bool) if worth is None else voting.distance(asked.embedding_NE) > worth.far
    if confidence is None:
        confidence = worth.threshold if worth else MOST_VOICES if lineage else 0.0
    given = {"likeliest_N": votes.likeliest_N, "is_strange_N": is_far_N}
    names = name_cells(chance_NC, voting.labels, confidence, lineage, **given)
    columns = _columns(names, key_added) | {
        f"{key_added}_voices": votes.share_N,
        f"{key_added}_nearest": known.cells.to_numpy(object)[votes.neighbours_NK[:, 0]],
    }
    said = {"label_key": label_key, "voters": voters, "reference_cells": len(voting.code_M)}
    said |= {"calibrated": worth is not None, "threshold": confidence, "far_cells": int(is_far_N.sum())}
    said |= {} if worth is None else {"reference_rightly_named": worth.right, "farthest": worth.far}
    return LabelledCells(asked, columns, said | _counts(names, lineage) | {"model": model.name, "step": model.step})


def label_by_head(
    model: PretrainedModel,
    source,
    reading: Reading,
    *,
    key_added: str = "mofm_label",
    ontology: str | Path | None = None,
    confidence: float | None = None,
    **options,
) -> LabelledCells:
    """Label the cells of `source` by the model's annotation head for their modality.

    Args:
      ontology: as `label_cells`.
      confidence: below it a cell is not named; None for the head's own threshold.

    Raises:
      InputError: as `PretrainedModel.embed`; or the model has no such head; or `ontology` is as `label_cells` says.
    """
    check_confidence(confidence)
    heads = load_heads(model.workdir)
    head = head_of(model, heads, reading.modality)
    lineage = _lineage(head.labels, ontology)
    least = head.threshold if confidence is None else confidence
    asked = model.embed(source, reading, **options)
    names, strange_N = names_by_head(head, asked.embedding_NE, least, lineage), head.strangeness(asked.embedding_NE)
    columns = _columns(names, key_added)
    said = {"label_key": heads.label_key, "threshold": least, "labels": np.array(head.labels, dtype=str)}
    if strange_N is not None:
        columns[f"{key_added}_distance"] = strange_N.astype(np.float32)
        said["far_cells"] = int((strange_N > 1).sum())
    said |= _counts(names, lineage) | {"model": model.name, "step": model.step}
    return LabelledCells(asked, columns, said)


def _lineage(labels, ontology: str | Path | None) -> Lineage | None:
    return None if ontology is None else lineage_of(labels, read_ontology(Path(ontology)))


def _columns(names: Names, key: str) -> dict[str, np.ndarray | pd.Categorical]:
    """What obs gets of the names."""
    columns = {
        key: pd.Categorical(names.labels),
        f"{key}_confidence": names.confidence_N,
        f"{key}_likeliest": pd.Categorical(names.likeliest),
    }
    return columns | ({} if names.terms is None else {f"{key}_term": pd.Categorical(names.terms)})


def _counts(names: Names, lineage: Lineage | None) -> dict[str, object]:
    """What the report gets of the names."""
    said = {"unknown_cells": int((names.labels == UNKNOWN).sum())}
    if lineage is None:
        return said
    return said | {"broader_cells": int(names.is_broader_N.sum()), "notes": np.array(lineage.notes, dtype=str)}
