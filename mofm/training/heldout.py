"""What the batches of an evaluation say together: of each metric the mean over all that it counts, and the loss of these means.

Not every batch has every modality: one that has few held-out cells ends before the others, and what follows of it is padding,
of which a metric is 0 and counts nothing. A mean over batches would take that 0 for a figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mofm.objectives.total import ObjectivesConfig, loss_weights

HIDDEN, LABELLED, PAIRS, CAME_BACK = "hidden", "labelled", "pairs", "came_back"
QUERIES, COMPARED = "contrast_queries", "structure_cells"
AUGMENTED = "augment_queries"
COUNTS = (HIDDEN, LABELLED, PAIRS, CAME_BACK, QUERIES, COMPARED, AUGMENTED)
"""Metrics that say how much others were counted over."""
NOT_REPORTED = (HIDDEN, LABELLED)
"""Of the counts; the others are reported, summed."""


def pooled(config: ObjectivesConfig, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Metrics of an evaluation, from those of its batches (`objectives.total.total`), all of the same names.

    Each is a mean weighted by what it counts, and left out where that is nothing; counts are summed. "loss" is that of the
    means, so a modality's share in it does not hang on how many batches have it. "label_X" is the mean of "M/label_X" over
    modalities.
    """
    counted = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    found, of_labels = {}, {}
    for name, values in counted.items():
        group, _, last = name.rpartition("/")
        if last in COUNTS:
            found |= {} if last in NOT_REPORTED else {name: float(values.sum())}
        elif group and (weights := counted[f"{group}/{_count_of(group, last)}"]).any():
            found[name] = float(np.average(values, weights=weights))
            if last.startswith("label_"):
                of_labels.setdefault(last, []).append(found[name])
    loss = sum(weight * found.get(name, 0.0) for name, weight in loss_weights(config, counted).items())
    return {"loss": loss} | found | {last: float(np.mean(values)) for last, values in of_labels.items()}


def _count_of(group: str, metric: str) -> str:
    """Which of its group's metrics counts what a metric is a mean over."""
    if metric.startswith("label_"):
        return LABELLED
    if metric.startswith("contrast_"):
        return QUERIES
    if metric.startswith("structure_"):
        return COMPARED
    if metric.startswith("augment_"):
        return AUGMENTED
    if metric.startswith("back_") or metric == "drift":
        return CAME_BACK
    return PAIRS if "_to_" in group else HIDDEN
