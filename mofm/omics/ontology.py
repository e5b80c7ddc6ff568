"""Labels of cells as terms of an ontology, and how near they are to each other by it: 1 for the same term, less for a
parent, a child, a sibling.

The ontology is a file in OBO, such as the Cell Ontology's cl-basic.obo; mofm ships none. obonet reads it: of the readers of
OBO it is the light one (pure Python over networkx, which scanpy brings) and takes what the strict ones refuse. Choices:

- Nearness is `decay` to the power of the steps along is_a edges, either way: a parent or child is one step, a sibling
  two, as are two parents of one child; beyond `reach` it is 0. Steps say nothing of how much a term covers: two children
  of "cell" are siblings as well as two of "regulatory T cell", so a reach above 2 soon joins what has little in common.
- A label is a term by its id ("CL:0000084", "CL_0000084"), name, or exact synonym, without regard to letter case, blanks, "-"
  and "_"; or by these without the "s" at its end ("T cells"). Broad, narrow and related synonyms are other things. An id
  given up leads to the one term that replaced it.
- What is no term, or could be several, is near itself alone and is reported: a wrong neighbour is worse than none.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import networkx
import numpy as np
import obonet

from mofm.errors import InputError

_ID = re.compile(r"([A-Za-z]+)[:_](\d+)")
_EXACT = re.compile(r'"((?:[^"\\]|\\.)*)" EXACT\b')
_NAMED = 5


class Ontology(NamedTuple):
    """The terms of an OBO file.

    Attributes:
      path: the file.
      is_a: an edge from each term to each that it is a kind of, all in use. It may have circles, where the file has.
      name_of: the name of each term.
      term_of_id: term of each id, of those merged into another and of those that one term replaced.
      terms_of_name: the terms that a name or an exact synonym (see `plain_label`) is of; names before synonyms.
    """

    path: Path
    is_a: networkx.DiGraph
    name_of: dict[str, str]
    term_of_id: dict[str, str]
    terms_of_name: dict[str, tuple[str, ...]]

    def terms(self, label: str) -> tuple[str, ...]:
        """The terms that a label may mean; none where it is no term's."""
        if (found := _ID.fullmatch(label.strip())) and (term := self.term_of_id.get(f"{found[1].upper()}:{found[2]}")):
            return (term,)
        name = plain_label(label)
        return self.terms_of_name.get(name) or self.terms_of_name.get(name.removesuffix("s"), ())


class LabelTerms(NamedTuple):
    """What labels are in an ontology.

    Attributes:
      terms: id of the term that each label is; None where it is none, or could be several.
      unknown, ambiguous: the labels of which that holds.
    """

    terms: tuple[str | None, ...]
    unknown: list[str]
    ambiguous: list[str]

    def in_words(self) -> list[str]:
        """For a person: how many labels are terms, and which are not."""
        known = sum(term is not None for term in self.terms)
        words = [f"{known:,} of {len(self.terms):,} labels are terms"]
        words += [f"{len(self.unknown):,} are none ({_some(self.unknown)})"] if self.unknown else []
        words += [f"{len(self.ambiguous):,} could be several ({_some(self.ambiguous)})"] if self.ambiguous else []
        return words


class LabelKinship(NamedTuple):
    """How near C labels are to each other.

    Attributes:
      affinity_CC: float32 in [0, 1], symmetric, 1 on the diagonal.
      terms: id of the term that each label is; None where it is none.
      report: counts and names, JSON-able: labels, terms, pairs (of labels that are near each other), unknown, ambiguous.
      notes: what a person should know, a line each.
    """

    affinity_CC: np.ndarray
    terms: tuple[str | None, ...]
    report: dict[str, int | list[str]]
    notes: tuple[str, ...]


def label_kinship(labels: Sequence[str], path: str | Path, *, decay: float = 0.5, reach: int = 2) -> LabelKinship:
    """How near labels are to each other by the ontology in an OBO file.

    Args:
      labels: names or ids of terms, and whatever else cells are called.
      decay: nearness of one step, in (0, 1].
      reach: steps beyond which labels are strangers, at least 0.

    Raises:
      InputError: `decay` or `reach` is out of its range, the file cannot be read, or no label is a term of it.
    """
    if not 0 < decay <= 1:
        raise InputError(f"decay={decay} of an ontology: must be more than 0 and at most 1")
    if reach < 0:
        raise InputError(f"reach={reach} of an ontology: must not be negative")
    ontology = read_ontology(Path(path))
    found = terms_of_labels(labels, ontology)
    affinity_CC = np.eye(len(labels), dtype=np.float32)
    kin = ontology.is_a.to_undirected()
    places: dict[str, list[int]] = {}
    for place, term in enumerate(found.terms):
        if term is not None:
            places.setdefault(term, []).append(place)
    for term, mine in places.items():
        for other, steps in networkx.single_source_shortest_path_length(kin, term, reach).items():
            affinity_CC[np.ix_(mine, places.get(other, []))] = decay**steps
    pairs = (int(np.count_nonzero(affinity_CC)) - len(labels)) // 2
    report = {
        "labels": len(labels), "terms": len(places), "pairs": pairs, "unknown": found.unknown, "ambiguous": found.ambiguous
    }  # fmt: skip
    first, *rest = found.in_words()
    words = [f"{first}, {pairs:,} pairs of them within {reach} steps", *rest]
    return LabelKinship(affinity_CC, found.terms, report, (f"{Path(path).name}: {'; '.join(words)}",))


def terms_of_labels(labels: Sequence[str], ontology: Ontology) -> LabelTerms:
    """Which terms labels are.

    Raises:
      InputError: there are labels, and none is a term.
    """
    meant = [ontology.terms(label) for label in labels]
    terms = tuple(some[0] if len(some) == 1 else None for some in meant)
    if len(labels) and not any(terms):
        raise InputError(
            f"{ontology.path}: none of {len(labels):,} labels is one of its terms ({_some(labels)}); give the ontology that "
            "they are of, or leave it out"
        )
    unknown = [label for label, some in zip(labels, meant, strict=True) if not some]
    ambiguous = [label for label, some in zip(labels, meant, strict=True) if len(some) > 1]
    return LabelTerms(terms, unknown, ambiguous)


def read_ontology(path: Path) -> Ontology:
    """The terms of an OBO file, gzipped (".gz") or not.

    Raises:
      InputError: the file is missing, cannot be read, or has no term with a name.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an ontology in OBO, such as the Cell Ontology's cl-basic.obo")
    try:
        graph = obonet.read_obo(path, ignore_obsolete=False)
    except (OSError, EOFError, KeyError, ValueError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise InputError(f"{path}: cannot be read as an ontology in OBO ({why}); fetch the .obo file again") from error
    used = {term for term, about in graph.nodes(data=True) if "name" in about and about.get("is_obsolete") != "true"}
    if not used:
        raise InputError(f"{path}: no term with a name in it; give an ontology in OBO, not in OWL or JSON")
    is_a = networkx.DiGraph()
    is_a.add_nodes_from(used)
    is_a.add_edges_from((child, parent) for child, parent, kind in graph.edges(keys=True) if kind == "is_a")
    is_a.remove_nodes_from(set(is_a) - used)
    name_of = {term: graph.nodes[term]["name"] for term in used}
    term_of_id, names, synonyms = {}, {}, {}
    for term, about in graph.nodes(data=True):
        replaced = [other for other in about.get("replaced_by", ()) if other in used]
        if term not in used:
            term_of_id |= {term: replaced[0]} if len(replaced) == 1 else {}
            continue
        term_of_id |= {other: term for other in about.get("alt_id", ()) if other not in used} | {term: term}
        names.setdefault(plain_label(about["name"]), []).append(term)
        for synonym in about.get("synonym", ()):
            if (exact := _EXACT.match(synonym)) and term not in synonyms.setdefault(plain_label(exact[1]), []):
                synonyms[plain_label(exact[1])].append(term)
    return Ontology(path, is_a, name_of, term_of_id, {name: tuple(some) for name, some in (synonyms | names).items()})


def plain_label(label: str) -> str:
    """A label as labels are compared: in one letter case, a blank for every run of blanks, "-" and "_"."""
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()


def _some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:_NAMED])) + (", ..." if len(labels) > _NAMED else "")
