"""Cell labels read off the embedding by a linear head, with confidences that are chances and a way to say "unknown".

The head is a multinomial logistic regression on the embeddings as they are in the end, whether labels moved the encoder
before (`mofm finetune --tune`) or not. Choices and their cost:

- Every type weighs the same, whatever its number of cells (balanced weights), and of one type at most MOST_OF_A_TYPE cells
  are learned from. So rare types have a voice (Gaussian clouds of 8 types, the rarest 1%, three draws: mean recall .73 -> .80);
  the cost is that a rare name is given more often than its cells are there (accuracy .89 -> .83). New cells are seldom of the
  same composition.
- The penalty is chosen from PENALTIES by the log loss in INNER_FOLDS folds of the training cells.
- What chances and distances are worth is learned from cells that the head had not learned from (`calibration.py`): those held
  out of the encoder's training, or where that did not see these cells at all, each cell by a head of four fifths of the
  others. Then it learns from all. Where labels moved the encoder, those of the held-out cells chose its best step.
- A chance is one among the known types, in cells like those that it was judged by. A cell of a type that nobody labelled may
  be far from all of these (`places.py`), and is then "unknown" however sure the regression is; one that lies among them gets
  a name. Cells of another technique or donor are not promised anything, unless whole data sets or donors were held out.
- Types of fewer than FEW training cells are left out, by name: fewer cannot be in each of the INNER_FOLDS. It was 10 once: on
  the components of pbmc68k_reduced, three draws, that cost macro-F1 .12 of .68 with 400 labelled cells, and with 100 two
  draws of three could have no head.
"""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from mofm.axes import Modality
from mofm.batches.labels import CellNumbers, read_numbers
from mofm.corpus.datasets import Corpus
from mofm.errors import InputError
from mofm.export.heads import AnnotationHeads, LabelHead
from mofm.inference.calibration import calibrate, figures_of
from mofm.inference.corpus_cells import embed_corpus
from mofm.inference.model import PretrainedModel
from mofm.inference.naming import Lineage, Names, name_cells
from mofm.inference.places import crossings, fit_places

MOST_OF_A_TYPE, MOST_IN_A_FOLD = 2_000, 500
"""Cells of one type that are learned from, in all and where the penalty is chosen."""
LEAST_JUDGED = 20
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse strengths C of the L2 penalty on embeddings of rms 1, in sklearn's sense, strongest first."""
FEW = INNER_FOLDS = 3
SMALL = 10_000_000
"""Of fewer numbers to learn from, products are made by one thread: on a busy machine two wait for each other, for minutes."""
_log = logging.getLogger("mofm")


def fit_head(
    embedding_NE: np.ndarray, labels: Sequence[str | None], is_heldout_N: np.ndarray | None, seed: int = 0
) -> LabelHead:
    """A head that predicts `labels` from embeddings, learned from all cells that have one.

    Args:
      labels: None for a cell of which nothing is known; it is left out.
      is_heldout_N: cells that it is judged by, before it learns from them too; None where nothing of the encoder was trained
        on any of them: each cell is then judged by what the others teach.

    Raises:
      InputError: fewer than two types have FEW training cells, or too few cells are there to judge it by.
    """
    rng = np.random.default_rng(seed)
    codes_N, types = pd.factorize(np.asarray(labels, object), sort=True)
    kept = check_labels(codes_N, is_heldout_N)
    counts = np.bincount(codes_N[_learned(codes_N, is_heldout_N)], minlength=len(types))
    code_N = np.append(pd.Index(kept).get_indexer(np.arange(len(types))), -1)[codes_N]
    known_N, train_N = np.flatnonzero(code_N >= 0), np.flatnonzero(_learned(code_N, is_heldout_N))
    centre_E = embedding_NE[train_N].mean(axis=0, dtype=np.float64)
    size = float(np.sqrt(np.mean((embedding_NE[train_N] - centre_E) ** 2))) or 1.0
    x_NE = (embedding_NE - centre_E) / size
    penalty = _choose_penalty(x_NE, code_N, _at_most(train_N, code_N, MOST_IN_A_FOLD, rng), seed)
    judged = [
        (_judge(x_NE, code_N, learned, others, penalty, rng), others)
        for learned, others in _parts(known_N, train_N, code_N, is_heldout_N, rng)
    ]
    logit_NC, distance_N = (np.concatenate([said[place] for said, _ in judged]) for place in (0, 1))
    true_N = code_N[np.concatenate([others for _, others in judged])]
    worth = calibrate(logit_NC, distance_N, true_N)
    figures = {
        "training_cells": len(known_N),
        "heldout_cells": len(true_N),
        "crossed": is_heldout_N is None,
        "penalty": penalty,
        "left_out": {str(name): int(n) for name, n in zip(types, counts, strict=True) if n < FEW},
        **figures_of(logit_NC, distance_N, true_N, rng),
    }
    chosen_N = _at_most(known_N, code_N, MOST_OF_A_TYPE, rng)
    weight_EC, bias_C = _regress(x_NE[chosen_N], code_N[chosen_N], penalty)
    weight_EC = weight_EC / size
    return LabelHead(
        tuple(str(types[number]) for number in kept),
        weight_EC.astype(np.float32),
        (bias_C - centre_E @ weight_EC).astype(np.float32),
        worth.temperature,
        worth.threshold,
        figures,
        fit_places(embedding_NE[chosen_N], code_N[chosen_N]),
        worth.far,
    )


def check_labels(code_N: np.ndarray, is_heldout_N: np.ndarray | None) -> np.ndarray:
    """The labels, by number, that have enough training cells to be learned.

    Args:
      code_N: number of each cell's label; -1 where nothing is known.

    Raises:
      InputError: see `fit_head`.
    """
    counts = np.bincount(code_N[_learned(code_N, is_heldout_N)])
    kept = np.flatnonzero(counts >= FEW)
    if len(kept) < 2:
        raise InputError(
            f"--task annotation: {len(kept)} of the labels have {FEW} or more training cells, and a head needs two or more "
            "to distinguish; label more cells, or name another column"
        )
    judged = int(np.isin(code_N if is_heldout_N is None else code_N[is_heldout_N], kept).sum())
    if judged < LEAST_JUDGED:
        are, do = ("there", "label more") if is_heldout_N is None else ("held out", "raise data.holdout_fraction")
        raise InputError(
            f"--task annotation: {judged} labelled cells are {are}, and at least {LEAST_JUDGED} are needed to calibrate on; "
            f"{do}"
        )
    return kept


def fit_heads(
    model: PretrainedModel,
    corpus: Corpus,
    label_key: str,
    heldout: np.ndarray | None,
    quiet: bool,
    *,
    unseen: bool = False,
) -> AnnotationHeads:
    """Heads for each modality of a corpus on disk, whose cells are all embedded.

    Args:
      heldout: global indices of the cells that no training saw; None as `fit_head` has it.
      unseen: that the heads are not to learn from these in the end either, nor to be judged by them.

    Raises:
      InputError: as `read_labels`; as `fit_head`, where no modality can have a head.
    """
    numbers, found, refused = read_labels(corpus, label_key), {}, None
    names = np.array([*numbers.names, None], object)[numbers.number_N]
    is_heldout = np.isin(np.arange(len(names)), [] if heldout is None else heldout)
    if unseen:
        names[is_heldout], heldout = None, None
    for modality in corpus.modalities:
        embedded = embed_corpus(model, corpus, modality, numbers.number_N >= 0, quiet)
        if embedded is not None:
            embedding_NE, which = embedded
            try:
                found[modality] = fit_head(embedding_NE, names[which], None if heldout is None else is_heldout[which])
            except InputError as error:
                refused = InputError(f"{modality}: {error}")
                _log.warning("no head for %s", refused)
    if not found:
        raise refused
    return AnnotationHeads(label_key, model.step, found)


def read_labels(corpus: Corpus, label_key: str) -> CellNumbers:
    """What a column of obs says of each cell, before anything is trained.

    Raises:
      InputError: no such column; or the corpus is in a bucket, where files are not read as a user's are.
    """
    if "://" in str(corpus.path):
        raise InputError(f"{corpus.path}: a head is fitted on a corpus on disk; copy it, or ingest the labelled cells")
    return read_numbers(corpus.datasets, label_key, "--task annotation")


def names_by_head(
    head: LabelHead, embedding_NE: np.ndarray, least: float | None = None, lineage: Lineage | None = None
) -> Names:
    """The labels of cells by their embeddings, and by a lineage of the head's labels broader terms; `least` is the confidence
    asked for, the head's threshold where it is None."""
    least = head.threshold if least is None else least
    strange_N = head.strangeness(embedding_NE)
    is_strange_N = None if strange_N is None else strange_N > 1
    return name_cells(head.probabilities(embedding_NE), head.labels, least, lineage, is_strange_N=is_strange_N)


def _learned(code_N: np.ndarray, is_heldout_N: np.ndarray | None) -> np.ndarray:
    """bool: labelled cells of which none is held out."""
    return code_N >= 0 if is_heldout_N is None else (code_N >= 0) & ~is_heldout_N


def _parts(
    known_N: np.ndarray, train_N: np.ndarray, code_N: np.ndarray, is_heldout_N: np.ndarray | None, rng
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(cells to learn from, cells to judge by): the held-out ones once, or each cell once (`crossings`)."""
    if is_heldout_N is not None:
        return [(train_N, known_N[is_heldout_N[known_N]])]
    return [(known_N[learned], known_N[others]) for learned, others in crossings(code_N[known_N], rng)]


def _judge(x_NE, code_N, learned, others, penalty: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """(logit_NC, distance_N) of cells by what others teach."""
    chosen = _at_most(learned, code_N, MOST_OF_A_TYPE, rng)
    weight_EC, bias_C = _regress(x_NE[chosen], code_N[chosen], penalty)
    return x_NE[others] @ weight_EC + bias_C, fit_places(x_NE[chosen], code_N[chosen]).distance(x_NE[others])


def _at_most(cells: np.ndarray, code_N: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Of the cells of each type as many, at random; ascending."""
    shuffled = rng.permutation(cells)
    place_N = pd.Series(code_N[shuffled]).groupby(code_N[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[place_N < most])


def _regress(x_NE: np.ndarray, code_N: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """weight_EC and bias_C, float64."""
    with threadpool_limits(1 if x_NE.size < SMALL else None, user_api="blas"):
        fitted = LogisticRegression(C=penalty, max_iter=2_000, class_weight="balanced").fit(x_NE, code_N)
    weight_EC, bias_C = fitted.coef_.T, fitted.intercept_
    if len(fitted.classes_) == 2:  # sklearn gives the second against the first
        weight_EC, bias_C = np.hstack([0 * weight_EC, weight_EC]), np.append(0.0, bias_C)
    return weight_EC, bias_C


def _choose_penalty(x_NE: np.ndarray, code_N: np.ndarray, cells: np.ndarray, seed: int) -> float:
    """The C of the least log loss of cells named by the other folds, each type weighing the same; the first of equals."""
    folds = list(StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed).split(cells, code_N[cells]))

    def loss(penalty: float) -> float:
        total = []
        for train, test in ((cells[one], cells[other]) for one, other in folds):
            weight_EC, bias_C = _regress(x_NE[train], code_N[train], penalty)
            log_NC = log_softmax(x_NE[test] @ weight_EC + bias_C, axis=1)
            own_N = log_NC[np.arange(len(test)), code_N[test]]
            total.append(-pd.Series(own_N).groupby(code_N[test]).mean().mean())
        return float(np.mean(total))

    return min(PENALTIES, key=loss)


def head_of(model: PretrainedModel, heads: AnnotationHeads | None, modality: Modality) -> LabelHead:
    """The head of a model for a modality.

    Raises:
      InputError: it has none, or one of another step.
    """
    if heads is None:
        raise InputError(
            f"{model.name} has no annotation head: give --reference and --label, or fit one with `mofm finetune --task "
            "annotation:COLUMN`"
        )
    if heads.step != model.step:
        raise InputError(
            f"{model.name}: its annotation head is of step {heads.step}, this is step {model.step}; give --step {heads.step}, "
            "or fit it again with `mofm finetune --task`"
        )
    if modality not in heads.of:
        raise InputError(f"{model.name}: its annotation head knows cells of {', '.join(heads.of)}, not of {modality}")
    return heads.of[modality]
