"""Does one gene regulate another, and how? A bilinear score for each answer, of the genes' states in the network.

    logit(answer) = sum over R of  form(network, answer)_R * regulator_R / rms(regulator) * target_R  + bias(network, answer)
                    +- tendency(network) * mean sign of the first gene's edges
    logit(no edge) = 0

The first gene is asked what it is as a regulator, the second what it is as a target (`grn.py`), so a score has a
direction, though its form is diagonal (DistMult, Yang et al. 2015; full forms learn small networks by heart). The three
answers share one softmax; the probability of an edge of whatever sign is that of the first two together. The form starts
as plus and minus the same: a TF activates what goes with its regulon, and represses what opposes it. A target's size is
kept: one whose expression is all noise has a small state, and no strong answer. The mean sign is of the edges that are seen:
in networks of the literature nearly all edges of a TF have one sign (DoRothEA: that of most is right of 94%).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mofm.axes import NETWORK
from mofm.nn.layers import declare

ANSWERS = 2
"""Activates and represses; the third, no edge, has logit 0."""
FORM_START = 2.0
"""Of the form, times the square root of R."""
TENDENCY_SCALE = 5.0
"""Of the tendency's weight, which starts at 0: nats of a TF of one sign for each unit learned."""


class LinkScorer(nn.Module):
    """logit_QA of Q pairs, or of every TF with every target; float32."""

    relations: int
    width: int

    def setup(self):
        """Declares the weights."""
        axes, start_A1 = (None, None, NETWORK), np.array([[1.0], [-1.0]], np.float32)
        form_NAR = declare(self, "form", (self.relations, ANSWERS, self.width), axes, 0)
        self.form_NAR = (form_NAR + start_A1) * FORM_START * self.width**-0.5
        self.bias_NA = declare(self, "bias", (self.relations, ANSWERS), (None, None), 0)
        tendency_N = declare(self, "tendency", (self.relations,), (None,), 0)
        self.tendency_NA = TENDENCY_SCALE * tendency_N[:, None] * start_A1[:, 0]

    def __call__(
        self, regulator_QR: jax.Array, tendency_QN: jax.Array, target_QR: jax.Array, relation_Q: jax.Array
    ) -> jax.Array:
        """logit_QA."""
        pair_QR = _unit(regulator_QR) * target_QR
        logit_QA = jnp.einsum("qr,qar->qa", pair_QR, self.form_NAR[relation_Q]) + self.bias_NA[relation_Q]
        tendency_Q1 = jnp.take_along_axis(tendency_QN, relation_Q[:, None], axis=1)
        return logit_QA + tendency_Q1 * self.tendency_NA[relation_Q]

    def every_pair(
        self, regulator_TR: jax.Array, tendency_TN: jax.Array, target_GR: jax.Array, relation: int
    ) -> jax.Array:
        """logit_TGA of T regulators with G targets in one network."""
        logit_TGA = jnp.einsum("tr,ar,gr->tga", _unit(regulator_TR), self.form_NAR[relation], target_GR)
        of_tf_TA = tendency_TN[:, relation, None] * self.tendency_NA[relation]
        return logit_TGA + self.bias_NA[relation] + of_tf_TA[:, None]


def _unit(x_QR: jax.Array) -> jax.Array:
    return x_QR * jax.lax.rsqrt(jnp.mean(jnp.square(x_QR), axis=-1, keepdims=True) + 1e-6)


def answer_log_probabilities(logit_QA: jax.Array) -> jax.Array:
    """(Q, 3) log probabilities of no edge, activates, represses."""
    return jax.nn.log_softmax(jnp.concatenate([jnp.zeros_like(logit_QA[..., :1]), logit_QA], axis=-1), axis=-1)
