"""From chances of labels to what is said of a cell: a label, a broader term of an ontology, or "unknown".

A cell whose likeliest label reaches the confidence that is asked for gets it, with an ontology and without. Of the others an
ontology may still say something: CD4 T .45 and CD8 T .45 are a "T cell" of .90. Choices:

- The chance of a term is the sum over the labels that are it or kinds of it (is_a, however many steps). So it is right as
  often as it says where the chances of the labels are, and a term is right of a cell whose true label is a kind of it.
- Of the terms that reach the confidence that of the fewest labels is said: it leaves least open. Terms that no is_a orders may
  have as many each (an ontology is no tree): then the likelier, then the one with fewer kinds in the whole ontology, then
  the id that sorts first. A term and its parent of the same labels have the same chance, and the term has fewer kinds.
- A term that all labels are kinds of says nothing that was not known before, and is not said. Nor is one that only one
  label is a kind of: it has that label's chance, which was too low.
- Labels that are no terms stand for themselves: they are said by their own name, and no term counts their chance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import networkx
import numpy as np

from mofm.errors import InputError
from mofm.omics.ontology import Ontology, terms_of_labels

UNKNOWN = "unknown"
SHARE_KEPT = 0.95
"""Where nobody asks for a confidence it is the one that this share of the rightly named cells reach that it is judged by."""
BLOCK = 10_000
ROUNDING = 1e-9
"""Sums of chances that are this near to what is asked for reach it."""


class Lineage(NamedTuple):
    """Labels among the terms of an ontology.

    Attributes:
      names: of the C labels, as they were given, and then of T terms of several labels each, in the order in which they are
        preferred where they are as likely: of fewer labels first.
      terms: the id of each; "" for a label that is none.
      counts_CT: bool, C x (C + T): whether label c counts where label or term t is said.
      notes: what a person should know, a line each.
    """

    names: np.ndarray
    terms: np.ndarray
    counts_CT: np.ndarray
    notes: tuple[str, ...]


class Names(NamedTuple):
    """What is said of N cells.

    Attributes:
      labels: a label, the name of a broader term, or UNKNOWN.
      likeliest: the label of most chance, all the same.
      confidence_N: float32. The chance of what is said; where that is UNKNOWN, of the likeliest label.
      terms: ids of what is said, "" where it is no term; None without an ontology.
      is_broader_N: bool. Whether a broader term is said.
    """

    labels: np.ndarray
    likeliest: np.ndarray
    confidence_N: np.ndarray
    terms: np.ndarray | None
    is_broader_N: np.ndarray


def lineage_of(labels: Sequence[str], ontology: Ontology) -> Lineage:
    """The broader terms that can be said of cells with these labels.

    Raises:
      InputError: no label is a term.
    """
    found = terms_of_labels(labels, ontology)
    labels_of: dict[str, set[int]] = {}
    for place, term in enumerate(found.terms):
        for broader in () if term is None else {term} | networkx.descendants(ontology.is_a, term):
            labels_of.setdefault(broader, set()).add(place)
    kinds = {term: len(networkx.ancestors(ontology.is_a, term)) for term in labels_of}
    ordered = sorted(labels_of, key=lambda term: (len(labels_of[term]), kinds[term], term))
    n_terms = sum(term is not None for term in found.terms)
    several: dict[frozenset[int], str] = {}
    for term in ordered:
        if 1 < len(labels_of[term]) < n_terms:
            several.setdefault(frozenset(labels_of[term]), term)
    broader = list(several.values())
    counted = [{place} if term is None else labels_of[term] for place, term in enumerate(found.terms)]
    counted += [labels_of[term] for term in broader]
    counts_CT = np.zeros((len(labels), len(counted)), bool)
    for place, some in enumerate(counted):
        counts_CT[list(some), place] = True
    own = {term: label for term, label in zip(found.terms, labels, strict=True) if found.terms.count(term) == 1}
    names = [*labels, *(own.get(term, ontology.name_of[term]) for term in broader)]
    note = f"{ontology.path.name}: {'; '.join(found.in_words())}; {len(broader):,} broader terms distinguish them"
    terms = [*(term or "" for term in found.terms), *broader]
    return Lineage(np.array(names, object), np.array(terms, object), counts_CT, (note,))


def name_cells(
    chance_NC: np.ndarray,
    labels: Sequence[str],
    least: float,
    lineage: Lineage | None = None,
    *,
    likeliest_N: np.ndarray | None = None,
    is_strange_N: np.ndarray | None = None,
) -> Names:
    """Names for cells by the chances of C labels.

    Args:
      chance_NC: float; each row adds up to 1.
      least: the confidence that is asked for.
      lineage: of the same labels; None for no broader terms.
      likeliest_N: numbers of the labels of most chance; None for the first of several.
      is_strange_N: bool. Cells of which nothing is to be said, whatever the chances.
    """
    likeliest_N = chance_NC.argmax(axis=1) if likeliest_N is None else likeliest_N
    own_N = np.take_along_axis(chance_NC, likeliest_N[:, None], axis=1)[:, 0].astype(np.float64)
    said_N, confidence_N = np.where(own_N >= least - ROUNDING, likeliest_N, -1), own_N.copy()
    for start in range(0, len(said_N) if lineage else 0, BLOCK):
        rows = slice(start, start + BLOCK)
        said_N[rows], confidence_N[rows] = _by_term(chance_NC[rows], said_N[rows], own_N[rows], least, lineage)
    if is_strange_N is not None:
        said_N, confidence_N = np.where(is_strange_N, -1, said_N), np.where(is_strange_N, own_N, confidence_N)
    names = np.array(labels, object)
    said = np.append(lineage.names if lineage else names, UNKNOWN)[said_N]
    terms = np.append(lineage.terms, "")[said_N] if lineage else None
    confidence_N = np.minimum(confidence_N, 1).astype(np.float32)
    return Names(said, names[likeliest_N], confidence_N, terms, said_N >= len(names))


def check_confidence(confidence: float | None) -> None:
    """Raises `InputError` where a confidence that is asked for is no share."""
    if confidence is not None and not 0 < confidence <= 1:
        raise InputError(f"confidence {confidence}: must be more than 0 and at most 1")


def _by_term(
    chance_NC: np.ndarray, said_N: np.ndarray, own_N: np.ndarray, least: float, lineage: Lineage
) -> tuple[np.ndarray, np.ndarray]:
    """What is said, and its chance: as `said_N`, or where that is -1 the preferred term that reaches `least`, if one does."""
    n_labels = chance_NC.shape[1]
    chance_NT = chance_NC @ lineage.counts_CT.astype(np.float64)
    labels_T = lineage.counts_CT[:, n_labels:].sum(axis=0)
    is_enough_NT = chance_NT[:, n_labels:] >= least - ROUNDING
    # A chance is at most 1, so that a term of fewer labels comes first; rounded, so that equal ones are.
    rank_NT = np.where(is_enough_NT, np.round(chance_NT[:, n_labels:], 9) - 2.0 * labels_T, -np.inf)
    if rank_NT.shape[1]:
        is_broad_N = (said_N < 0) & is_enough_NT.any(axis=1)
        said_N = np.where(is_broad_N, n_labels + rank_NT.argmax(axis=1), said_N)
    named_N = np.take_along_axis(chance_NT, said_N[:, None], axis=1)[:, 0]
    return said_N, np.where(said_N >= 0, named_N, own_N)
