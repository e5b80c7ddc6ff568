"""Cell labels read off the embedding by a linear head, with confidences that are chances and a way to say "unknown".

The head is a multinomial logistic regression on the embeddings as they are in the end, whether labels moved the encoder
before (`mofm finetune --tune`) or not. Choices and their cost:

- Every type weighs the same, whatever its number of cells (balanced weights), and of one type at most MOST_OF_A_TYPE cells
  are learned from. So rare types have a voice (Gaussian clouds of 8 types, the rarest 1%, three draws: mean recall .73 -> .80);
  the cost is that a rare name is given more often than its cells are there (accuracy .89 -> .83). New cells are seldom of the
  same composition.
- The penalty is chosen from PENALTIES by the log loss in INNER_FOLDS folds of the training cells.
- The temperature is fitted on cells that were held out of the encoder's and of the head's training, and so is the
  threshold: the confidence that SHARE_KEPT of the held-out cells that are rightly named reach. Held-out figures are
  cross-fitted between two halves, each judged by the temperature and the threshold of the other. Where labels moved the
  encoder, those of the same cells chose its best step.
- A chance is one among the known types, in cells like those held out. A type that nobody labelled is often below the
  threshold and not always; cells of another technique or donor are not promised anything, unless whole data sets were held out.
- Types of fewer than FEW training cells are left out, by name: fewer cannot be in each of the INNER_FOLDS. It was 10 once: on
  the components of pbmc68k_reduced, three draws, that cost macro-F1 .12 of .68 with 400 labelled cells, and with 100 two
  draws of three could have no head.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from mofm.axes import Modality
from mofm.batches.labels import CellNumbers, read_numbers
from mofm.corpus.datasets import Corpus
from mofm.errors import InputError
from mofm.export.heads import AnnotationHeads, LabelHead
from mofm.inference.model import PretrainedModel
from mofm.inference.naming import SHARE_KEPT, Lineage, Names, name_cells
from mofm.omics.readers import Reading

MOST_OF_A_TYPE, MOST_IN_A_FOLD = 2_000, 500
"""Cells of one type that are learned from, in all and where the penalty is chosen."""
LEAST_HELDOUT = 20
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse strengths C of the L2 penalty on embeddings of rms 1, in sklearn's sense, strongest first."""
FEW = INNER_FOLDS = 3
SMALL = 10_000_000
"""Of fewer numbers to learn from, products are made by one thread: on a busy machine two wait for each other, for minutes."""
BINS = 10
_log = logging.getLogger("mofm")


def fit_head(
    embedding_NE: np.ndarray, labels: Sequence[str | None], is_heldout_N: np.ndarray, seed: int = 0
) -> LabelHead:
    """A head that tells `labels` from embeddings.

    Args:
      labels: None for a cell of which nothing is known; it is left out.
      is_heldout_N: cells to calibrate on.

    Raises:
      InputError: fewer than two types have FEW training cells, or too few cells are held out.
    """
    rng = np.random.default_rng(seed)
    codes_N, types = pd.factorize(np.asarray(labels, object), sort=True)
    kept = check_labels(codes_N, is_heldout_N)
    counts = np.bincount(codes_N[(codes_N >= 0) & ~is_heldout_N], minlength=len(types))
    code_N = np.append(pd.Index(kept).get_indexer(np.arange(len(types))), -1)[codes_N]
    train_N, heldout_N = np.flatnonzero((code_N >= 0) & ~is_heldout_N), np.flatnonzero((code_N >= 0) & is_heldout_N)
    centre_E = embedding_NE[train_N].mean(axis=0, dtype=np.float64)
    size = float(np.sqrt(np.mean((embedding_NE[train_N] - centre_E) ** 2))) or 1.0
    chosen_N = _at_most(train_N, code_N, MOST_OF_A_TYPE, rng)
    x_NE = (embedding_NE - centre_E) / size
    penalty = _choose_penalty(x_NE, code_N, _at_most(chosen_N, code_N, MOST_IN_A_FOLD, rng), seed)
    weight_EC, bias_C = _regress(x_NE[chosen_N], code_N[chosen_N], penalty)
    weight_EC = weight_EC / size
    head = LabelHead(
        tuple(str(types[number]) for number in kept),
        weight_EC.astype(np.float32),
        (bias_C - centre_E @ weight_EC).astype(np.float32),
        temperature=1.0,
        threshold=0.0,
        figures={},
    )
    logit_NC, code_N = head.logits(embedding_NE[heldout_N]), code_N[heldout_N]
    temperature, threshold = _calibrate(logit_NC, code_N)
    figures = {
        "training_cells": len(train_N),
        "heldout_cells": len(heldout_N),
        "penalty": penalty,
        "left_out": {str(name): int(n) for name, n in zip(types, counts, strict=True) if n < FEW},
        **_figures(logit_NC, code_N, rng),
    }
    return replace(head, temperature=temperature, threshold=threshold, figures=figures)


def check_labels(code_N: np.ndarray, is_heldout_N: np.ndarray) -> np.ndarray:
    """The labels, by number, that have enough training cells to be learned.

    Args:
      code_N: number of each cell's label; -1 where nothing is known.

    Raises:
      InputError: see `fit_head`.
    """
    known_N = code_N >= 0
    counts = np.bincount(code_N[known_N & ~is_heldout_N])
    kept = np.flatnonzero(counts >= FEW)
    if len(kept) < 2:
        raise InputError(
            f"--task annotation: {len(kept)} of the labels have {FEW} or more training cells, and a head tells two or more "
            "apart; label more cells, or name another column"
        )
    if (heldout := int(np.isin(code_N[is_heldout_N], kept).sum())) < LEAST_HELDOUT:
        raise InputError(
            f"--task annotation: {heldout} labelled cells are held out, and at least {LEAST_HELDOUT} are needed to calibrate "
            "on; raise data.holdout_fraction"
        )
    return kept


def fit_heads(
    model: PretrainedModel, corpus: Corpus, label_key: str, heldout: np.ndarray, quiet: bool
) -> AnnotationHeads:
    """Heads for each modality of a corpus on disk, whose cells are all embedded.

    Args:
      heldout: global indices of the cells that no training saw.

    Raises:
      InputError: as `read_labels`; as `fit_head`, where no modality can have a head.
    """
    numbers, found, refused = read_labels(corpus, label_key), {}, None
    names = np.array([*numbers.names, None], object)[numbers.number_N]
    is_heldout = np.zeros(len(names), bool)
    is_heldout[heldout] = True
    for modality in corpus.modalities:
        parts, cells = [], []
        for dataset, start in zip(corpus.datasets, corpus.offsets, strict=False):
            if modality in dataset.stores and (numbers.number_N[start : start + dataset.n_cells] >= 0).any():
                place = Path(corpus.path) / dataset.stores[modality].entry.path
                parts.append(model.embed(place, Reading(modality), quiet=quiet).embedding_NE)
                cells.append(np.arange(start, start + dataset.n_cells))
        if cells:
            which = np.concatenate(cells)
            try:
                found[modality] = fit_head(np.concatenate(parts), names[which], is_heldout[which])
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


def tell(
    head: LabelHead, embedding_NE: np.ndarray, least: float | None = None, lineage: Lineage | None = None
) -> Names:
    """The labels of cells by their embeddings, and by a lineage of the head's labels broader terms; `least` is the confidence
    asked for, the head's threshold where it is None."""
    least = head.threshold if least is None else least
    return name_cells(head.probabilities(embedding_NE), head.labels, least, lineage)


def reliability(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: |mean confidence - share that is right| over bins of equally many cells, averaged."""
    order = np.argsort(confidence_N, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(confidence_N[part].mean() - right_N[part].mean()) * len(part) for part in parts]
    return float(np.sum(gaps) / len(order))


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
    if len(fitted.classes_) == 2:  # sklearn tells the second against the first
        weight_EC, bias_C = np.hstack([0 * weight_EC, weight_EC]), np.append(0.0, bias_C)
    return weight_EC, bias_C


def _choose_penalty(x_NE: np.ndarray, code_N: np.ndarray, cells: np.ndarray, seed: int) -> float:
    """The C of the least log loss of cells told from the other folds, each type weighing the same; the first of equals."""
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


def _calibrate(logit_NC: np.ndarray, code_N: np.ndarray) -> tuple[float, float]:
    """(temperature, threshold) by the log loss of these cells, and by the confidences of those that are rightly named."""

    def loss(log_temperature: float) -> float:
        return -log_softmax(logit_NC / np.exp(log_temperature), axis=1)[np.arange(len(code_N)), code_N].mean()

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-6})
    temperature = float(np.exp(found.x))
    chance_NC = np.exp(log_softmax(logit_NC / temperature, axis=1))
    right_N = chance_NC.argmax(axis=1) == code_N
    confidence_N = chance_NC.max(axis=1)[right_N]
    return temperature, float(np.quantile(confidence_N, 1 - SHARE_KEPT, method="lower")) if len(confidence_N) else 0.0


def _figures(logit_NC: np.ndarray, code_N: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Of held-out cells, each half judged by the temperature and threshold of the other."""
    halves = np.array_split(rng.permutation(len(code_N)), 2)
    confidence_N, kept_N = np.zeros(len(code_N)), np.zeros(len(code_N), bool)
    for mine, other in (halves, halves[::-1]):
        temperature, threshold = _calibrate(logit_NC[other], code_N[other])
        confidence_N[mine] = np.exp(log_softmax(logit_NC[mine] / temperature, axis=1)).max(axis=1)
        kept_N[mine] = confidence_N[mine] >= threshold
    right_N = logit_NC.argmax(axis=1) == code_N
    return {
        "accuracy": float(right_N.mean()),
        "mean_recall": float(pd.Series(right_N).groupby(code_N).mean().mean()),
        "calibration_error": reliability(confidence_N, right_N),
        "kept": float(kept_N.mean()),
        "accuracy_of_kept": float(right_N[kept_N].mean()) if kept_N.any() else 0.0,
    }


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
