"""Fusion: masked modelling of cells of which two modalities were measured, each view having seen the other.

A hidden measurement is predicted from its own view and from what the other one shows, of token states that have seen both,
and of the joint embedding (`nn/fusion.py`). What is hidden is what masked modelling hides; of the same measurements it is
stated beside it how well they are predicted from their own view alone.
"""

from collections.abc import Callable, Mapping

import jax

from mofm.axes import Modality
from mofm.batch import TokenBatch
from mofm.nn.assembly import Outputs
from mofm.objectives.masked import masked_modelling

Fuse = Callable[[Mapping[Modality, Outputs], Mapping[Modality, TokenBatch]], dict[Modality, Outputs]]
"""(outputs of views, the views) -> Outputs of each, rows i being of one cell where they say the same `cell_B`."""


def fused_modelling(
    fuse: Fuse,
    outputs: Mapping[Modality, Outputs],
    views: Mapping[Modality, TokenBatch],
    hidden: Mapping[Modality, jax.Array],
) -> dict[Modality, dict[str, jax.Array]]:
    """How well hidden measurements of each of two views are predicted, the other being seen: nats a measurement.

    Rows i of both are one cell where both say the same `cell_B`; other rows do not count.

    Args:
      outputs: of the views, with their values hidden where `hidden` (bool, B x L) is True.

    Returns:
      Of each view what `masked_modelling` returns, its "hidden" being those that count, and "alone_token_nll" and
      "alone_cell_nll", the same measurements predicted without the other view.
    """
    one, other = views.values()
    paired_B = (one.cell_B == other.cell_B) & (one.cell_B >= 0)
    found = {}
    for modality, fused in fuse(outputs, views).items():
        of = (views[modality], hidden[modality] & paired_B[:, None], modality)
        alone = masked_modelling(outputs[modality], *of)
        beside = {f"alone_{name}": alone[name] for name in ("token_nll", "cell_nll")}
        found[modality] = masked_modelling(fused, *of) | beside
    return found
