"""Labels predicted from the cell embedding by a linear head: the objective by which labels move the encoder.

    -weight(label) log softmax(embedding_E @ weight_EC + bias_C)[label],  its mean over the cells whose label the head knows

A cell of which no label is known, or one that the head does not know, adds nothing. The embedding is that of the view of
which masked modelling hides a part, so every step shows a cell by another sample of its tokens.

Labels weigh as many times as much as they are rarer (`balanced`), so that the sum of what each has to say is alike; none more
than MOST_WEIGHT times the mean cell, as else a batch with one cell of the rarest would be a step for that cell alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mofm.objectives.likelihoods import masked_mean

MOST_WEIGHT = 10.0


class LinearHead(NamedTuple):
    """A linear reading of C classes from a cell embedding; float32.

    Attributes:
      weight_EC, bias_C: logits are embedding_BE @ weight_EC + bias_C.
    """

    weight_EC: jax.Array
    bias_C: jax.Array


class Classes(NamedTuple):
    """What a head distinguishes.

    Attributes:
      class_of_label: int32, one more than there are labels. The class of each number in `TokenBatch.label_B`, -1 for one
        that the head does not know; the last is -1, for cells without a label.
      weight_C: float32, how much a cell of each class weighs.
    """

    class_of_label: jax.Array
    weight_C: jax.Array


def balanced(counts_C: np.ndarray) -> np.ndarray:
    """weight_C, float32, of classes of so many training cells: in inverse proportion, a mean cell weighing 1, then bounded."""
    cells = counts_C.sum() / max(np.count_nonzero(counts_C), 1)
    return np.minimum(cells / np.maximum(counts_C, 1), MOST_WEIGHT).astype(np.float32)


def label_parts(
    embedding_BE: jax.Array, head: LinearHead, classes: Classes, label_B: jax.Array
) -> dict[str, jax.Array]:
    """How well a head predicts the labels of cells; float32 scalars.

    Returns:
      "label_nll": weighted nats, mean over cells whose label the head knows; 0 where there is none.
      "label_accuracy": share of these that it names rightly.
      "labelled": how many they are.
    """
    class_B = classes.class_of_label[label_B]
    is_known_B = class_B >= 0
    logit_BC = embedding_BE.astype(jnp.float32) @ head.weight_EC + head.bias_C
    own_B = jnp.where(is_known_B, class_B, 0)
    log_chance_B = jnp.take_along_axis(jax.nn.log_softmax(logit_BC), own_B[:, None], axis=1)[:, 0]
    return {
        "label_nll": masked_mean(-log_chance_B * classes.weight_C[own_B], is_known_B),
        "label_accuracy": masked_mean(logit_BC.argmax(axis=1) == class_B, is_known_B),
        "labelled": is_known_B.sum(),
    }
