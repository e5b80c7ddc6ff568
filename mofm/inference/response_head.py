"""Responses to treatments, fitted on the cells of a corpus and kept with the model: `mofm finetune --task perturbation:COLUMN`.

Expression and embeddings of the corpus are read once, a block at a time: memory is groups x genes and the embeddings. Genes are
those that every dataset with a known condition measures. Control and treated cells of a group may come from different
datasets, as they often do; what differs between these files beside the treatment is then taken for its effect.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from mofm.batches.labels import read_numbers
from mofm.corpus.datasets import Corpus
from mofm.errors import InputError, nearest_name
from mofm.export.responses import Response, ResponseHead, load_responses
from mofm.inference.model import RNA, Options, PretrainedModel
from mofm.inference.profiles import log_values
from mofm.inference.response import (
    FEWEST_CELLS,
    Group,
    choose_recipe,
    group_of,
    held_out_figures,
    treatments_of,
)

OPTION = "--task perturbation"


class Asked(NamedTuple):
    """Attributes: condition_key, control, groups_key, as in `ResponseHead`."""

    condition_key: str
    control: str
    groups_key: str


class Conditions(NamedTuple):
    """What is known of the N cells of a corpus.

    Attributes:
      condition_N, group_N: object, text; None where not known, or where the cell has no RNA.
      treatments: that can be learned.
    """

    condition_N: np.ndarray
    group_N: np.ndarray
    treatments: list[str]


class _Sums(NamedTuple):
    """Of each (group, condition), by number: cells, log values and embeddings, summed."""

    cells_P: np.ndarray
    values_PG: np.ndarray
    embedding_PE: np.ndarray


def read_conditions(corpus: Corpus, asked: Asked) -> Conditions:
    """What the columns say of a corpus's cells, before anything is trained.

    Raises:
      InputError: no such column or control; no treatment of which two groups have enough cells; or the corpus is in a bucket.
    """
    if "://" in str(corpus.path):
        raise InputError(f"{corpus.path}: a head is fitted on a corpus on disk; copy it, or ingest the treated cells")
    said = []
    for key, option in ((asked.condition_key, OPTION), (asked.groups_key, "--groups")):
        numbers = read_numbers(corpus.datasets, key, option)
        said.append(np.array([*numbers.names, None], object)[numbers.number_N])
    for dataset, start in zip(corpus.datasets, corpus.offsets, strict=False):
        if "rna" not in dataset.stores:
            said[0][start : start + dataset.n_cells] = None
    return Conditions(*said, treatments_of(*said, asked.control, asked.condition_key))


def fit_responses(model: PretrainedModel, corpus: Corpus, asked: Asked, quiet: bool) -> ResponseHead:
    """The head of a model for the treatments of a corpus on disk.

    Raises:
      InputError: as `read_conditions`; or datasets that have no gene in common.
    """
    known = read_conditions(corpus, asked)
    kept = [asked.control, *known.treatments]
    code_N, names = _pairs(known, kept)
    sums, genes, control_NE, group_N = _read(model, corpus, code_N, len(names) * len(kept), len(kept), quiet)
    if not len(genes):
        raise InputError(f"{corpus.path}: the datasets with conditions have no gene of {model.name} in common")
    found = {}
    for number, treatment in enumerate(known.treatments, start=1):
        groups = []
        for place, name in enumerate(names):
            both = place * len(kept), place * len(kept) + number
            if min(sums.cells_P[list(both)]) >= FEWEST_CELLS:
                groups.append(group_of(name, *_means(sums, both, genes), control_NE[group_N == place]))
        found[treatment] = _response(groups)
    return ResponseHead(**asked._asdict(), step=model.step, genes=genes, of=found)


def _pairs(known: Conditions, kept: list[str]) -> tuple[np.ndarray, list[str]]:
    """The number of each cell's group and condition together, -1 where either is not known; and the groups."""
    names = sorted({one for one in known.group_N if one is not None})
    place_of = {name: place for place, name in enumerate(names)} | {None: -1}
    condition_of = {name: place for place, name in enumerate(kept)}
    group_N = np.array([place_of[one] for one in known.group_N])
    condition_N = np.array([condition_of.get(one, -1) for one in known.condition_N])
    return np.where((group_N >= 0) & (condition_N >= 0), group_N * len(kept) + condition_N, -1), names


def _read(model: PretrainedModel, corpus: Corpus, code_N: np.ndarray, pairs: int, conditions: int, quiet: bool):
    """Sums over the model's genes; those that all datasets measure; embeddings of the control cells, and their groups."""
    width, genes = model.config.encoder.cell_width, len(model.genes)
    sums = _Sums(np.zeros(pairs), np.zeros((pairs, genes)), np.zeros((pairs, width)))
    measured_G, embeddings, groups = np.ones(genes, bool), [], []
    for dataset, start in zip(corpus.datasets, corpus.offsets, strict=False):
        mine = code_N[start : start + dataset.n_cells]
        if "rna" not in dataset.stores or (mine < 0).all():
            continue
        place = Path(corpus.path) / dataset.stores["rna"].entry.path
        options = Options(quiet=quiet)
        with model.opened(place, RNA, options) as [(table, matching)]:
            embedding_NE = model.embed_table(table, matching, options).embedding_NE
            measured_G &= np.isin(np.arange(genes), matching.rows_F)
            first = 0
            for values_NG in log_values(table, matching, genes):
                cells = values_NG.shape[0]
                _add(sums, mine[first : first + cells], values_NG, embedding_NE[first : first + cells])
                first += cells
        is_control = (mine >= 0) & (mine % conditions == 0)
        embeddings.append(embedding_NE[is_control])
        groups.append(mine[is_control] // conditions)
    return sums, np.flatnonzero(measured_G).astype(np.int32), np.concatenate(embeddings), np.concatenate(groups)


def _add(sums: _Sums, code_N: np.ndarray, values_NG: sp.csr_matrix, embedding_NE: np.ndarray) -> None:
    rows = np.flatnonzero(code_N >= 0)
    shape = (len(sums.cells_P), len(code_N))
    member_PN = sp.csr_matrix((np.ones(len(rows)), (code_N[rows], rows)), shape=shape)
    sums.cells_P[:] += np.asarray(member_PN.sum(axis=1)).ravel()
    sums.values_PG[:] += member_PN @ values_NG
    sums.embedding_PE[:] += member_PN @ embedding_NE


def _means(sums: _Sums, pairs: tuple[int, int], genes: np.ndarray):
    """(cells, values_2G, embedding_2E) of the control and the treated cells of a group."""
    cells = tuple(int(sums.cells_P[pair]) for pair in pairs)
    many_21 = np.maximum(cells, 1)[:, None]
    return cells, sums.values_PG[list(pairs)][:, genes] / many_21, sums.embedding_PE[list(pairs)] / many_21


def _response(groups: list[Group]) -> Response:
    return Response(
        tuple(group.name for group in groups),
        *choose_recipe(groups),
        np.stack([group.centre_E for group in groups]).astype(np.float32),
        np.stack([group.move_E for group in groups]).astype(np.float32),
        np.stack([group.change_G for group in groups]).astype(np.float32),
        held_out_figures(groups),
    )


def mean_figures(response: Response) -> dict[str, float]:
    """The held-out figures, each group weighing the same."""
    keys = ("pearson", "skill", "pearson_of_mean_change", "skill_of_mean_change")
    return {key: float(np.mean([row[key] for row in response.held_out])) for key in keys}


def response_of(model: PretrainedModel, treatment: str) -> tuple[ResponseHead, Response]:
    """What a model knows of a treatment.

    Raises:
      InputError: it knows of none, of others alone, or its head is of another step.
    """
    head = load_responses(model.workdir)
    if head is None:
        raise InputError(
            f"{model.name} knows no response to a treatment: fit one with `mofm finetune --task perturbation:COLUMN`"
        )
    if head.step != model.step:
        raise InputError(
            f"{model.name}: its responses are of step {head.step}, this is step {model.step}; give --step {head.step}, or fit "
            "them again with `mofm finetune --task`"
        )
    if treatment not in head.of:
        raise InputError(
            f"--response {treatment}: {model.name} knows that to {', '.join(head.of)}.{nearest_name(treatment, head.of)}"
        )
    return head, head.of[treatment]
