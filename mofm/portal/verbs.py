"""What can be asked for on the page: its options, for which files and models it is offered, and what is refused.

A verb is an entry of `VERBS` here, a function of `job.py` that does it, and a part of templates/file.html that asks for its
options.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mofm.axes import FEATURES, MODALITIES
from mofm.errors import InputError, nearest_name
from mofm.portal.model_card import ModelCard
from mofm.portal.store import File

MOST_FEATURES_TEXT = 2_000_000


@dataclass(frozen=True)
class Verb:
    """Something that can be asked for.

    Attributes:
      title, says: for people.
      why_not: (model, file's report) -> why it is not offered, in a line; "" where it is.
      check: (model, file's report, what was given) -> options of a job; raises InputError.
    """

    title: str
    says: str
    why_not: Callable[[ModelCard, dict], str]
    check: Callable[[ModelCard, dict, Mapping[str, Any]], dict[str, Any]]


def check_job(card: ModelCard, file: File, verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a job, as the job takes them.

    Raises:
      InputError: no such verb, it is not possible with this file and model, or an option has no meaning.
    """
    if verb not in VERBS:
        raise InputError(f"{verb!r}: nothing that can be asked for; one of {', '.join(VERBS)}")
    if file.state != "ready":
        raise InputError(f"{file.name}: cannot be used: {file.why}")
    if why := VERBS[verb].why_not(card, file.report):
        raise InputError(why)
    options = VERBS[verb].check(card, file.report, given)
    return options | {
        key: value for key, value in file.report["asked"].items() if key not in options or not options[key]
    }


def sources(report: dict) -> list[str]:
    """The modalities of a file that fit the model."""
    return [one["modality"] for one in report.get("modalities", []) if one["fits"]]


def readable(card: ModelCard, report: dict) -> list[str]:
    """The modalities of a file that the model's annotation head reads."""
    return [one for one in sources(report) if one in card.labelled]


def targets(card: ModelCard, report: dict) -> list[str]:
    """What a file can be translated to; what it does not hold stands first, what it would be translated from last."""
    there = sources(report)
    possible = [one for one in card.modalities if card.translates and there not in ([], [one])]
    return sorted(possible, key=lambda one: (one in there, one == there[0]))


def _always(card: ModelCard, report: dict) -> str:
    return ""


def _needs_translator(card: ModelCard, report: dict) -> str:
    if not card.translates:
        return "This model was trained without a translator."
    return "" if targets(card, report) else "This model knows no other modality than the file's."


def _needs_network(card: ModelCard, report: dict) -> str:
    if not card.networks:
        return "This model was trained without a regulatory network."
    if "rna" not in sources(report):
        return "Regulators are found from RNA, and the file has none that fits the model."
    return "" if report.get("groups") else "The file's obs has no column that says the cells' groups."


def _needs_head(card: ModelCard, report: dict) -> str:
    if not card.labels:
        return "This model has no annotation head."
    return "" if readable(card, report) else "The model's annotation head reads none of the file's modalities."


def _embed(card: ModelCard, report: dict, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"modality": _one_of(given, "modality", sources(report), "")}


def _annotate(card: ModelCard, report: dict, given: Mapping[str, Any]) -> dict[str, Any]:
    possible = readable(card, report)
    return {"modality": _one_of(given, "modality", possible, possible[0]), "confidence": _confidence(given)}


def _confidence(given: Mapping[str, Any]) -> float | None:
    """The least confidence that is asked for; None for the head's own."""
    if not (text := given.get("confidence")):
        return None
    try:
        confidence = float(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"confidence: {str(text)[:40]!r} is no number") from error
    if not 0 < confidence <= 1:
        raise InputError(f"confidence: {confidence:g} must be more than 0 and at most 1")
    return confidence


def _translate(card: ModelCard, report: dict, given: Mapping[str, Any]) -> dict[str, Any]:
    to = _one_of(given, "to", targets(card, report))
    rest = [one for one in sources(report) if one != to]
    source = _one_of(given, "modality", rest, rest[0] if len(rest) == 1 else None)
    text = str(given.get("features") or "")
    if len(text) > MOST_FEATURES_TEXT:
        raise InputError(f"features: {len(text):,} characters, at most {MOST_FEATURES_TEXT:,}; use the command line")
    names = list(
        dict.fromkeys(":".join(line.split()) if to in ("rna", "adt") else _region(line) for line in text.splitlines())
    )
    names = [name for name in names if name and not name.startswith("#")]
    return {"to": to, "modality": source, "features": names}


def _region(line: str) -> str:
    """A line of BED becomes chrom:start-end; other names stay."""
    words = line.split()
    is_bed = len(words) >= 3 and words[1].isdigit() and words[2].isdigit()
    return f"{words[0]}:{words[1]}-{words[2]}" if is_bed else line.strip()


def _regulators(card: ModelCard, report: dict, given: Mapping[str, Any]) -> dict[str, Any]:
    column = str(given.get("groupby") or "")
    if column not in report["groups"]:
        known = list(report["groups"])
        raise InputError(f"groups: {column!r} is none of {', '.join(known[:12])}.{nearest_name(column, known)}")
    try:
        min_cells = int(given.get("min_cells") or 10)
    except (TypeError, ValueError) as error:
        raise InputError(f"min_cells: {given['min_cells']!r} is no whole number") from error
    if not 1 <= min_cells <= 10**6:
        raise InputError(f"min_cells: {min_cells} must be from 1 to 1,000,000")
    network = _one_of(given, "network", card.networks, "")
    return {"groupby": column, "min_cells": min_cells, "network": network or None, "modality": "rna"}


def _one_of(given: Mapping[str, Any], key: str, known, default: str | None = None) -> str:
    value = given.get(key) or default
    if value is None:
        raise InputError(f"{key}: say which of {', '.join(known)}")
    if value not in known and value != default:
        raise InputError(f"{key}: {str(value)[:40]!r} is none of {', '.join(known)}.{nearest_name(str(value), known)}")
    return value


VERBS: dict[str, Verb] = {
    "embed": Verb(
        "Embed", "Places every cell in the model's space: a map of your cells, and coordinates for clustering.", _always,
        _embed,
    ),
    "annotate": Verb(
        "Annotate", "Names every cell as the cells that the model was fitted to were named, and says how sure it is.",
        _needs_head, _annotate,
    ),
    "translate": Verb(
        "Translate", "Predicts what was not measured from what was: proteins or open chromatin from RNA, and back.",
        _needs_translator, _translate,
    ),
    "regulators": Verb(
        "Regulators", "Finds the transcription factors that distinguish your groups of cells, and the genes they act on.",
        _needs_network, _regulators,
    ),
}  # fmt: skip

MODALITY_NAMES = {
    "rna": "RNA",
    "atac": "ATAC (chromatin)",
    "adt": "ADT (surface protein)",
    "methylation": "DNA methylation",
}
"""For people."""


def reading_asked(given: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
    """How a file is to be read, as `look.look` takes it: what was not given is left out.

    Raises:
      InputError: an unknown modality or genome build.
    """
    asked: dict[str, Any] = {}
    if modality := given.get("modality"):
        asked["modality"] = _one_of({"modality": modality}, "modality", MODALITIES)
    if build := given.get("build"):
        asked["build"] = _one_of({"build": build}, "build", card.builds)
    if given.get("recover_counts"):
        asked["recover_counts"] = True
    return asked


def feature_word(modality: str) -> str:
    """What the features of a modality are called: "genes"."""
    return FEATURES[modality]
