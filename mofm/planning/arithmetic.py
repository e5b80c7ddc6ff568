"""FLOPs of a function, from its own arithmetic: every product in its jaxpr, with the lengths of its scans.

XLA's `cost_analysis` counts the body of a scan once. A jaxpr has the length, after differentiation it has what the backward
pass computes and what rematerialisation computes again, and it changes with the model, as a formula would not. Only
products are counted (2 a multiply-add): they are what matrix units do, and by custom what FLOPs of a model are.
"""

import math
from collections import Counter
from collections.abc import Callable

import jax

PLAIN = "plain"
"""No platform's: the forms that compute nothing twice, whose FLOPs are by custom the model's."""


def count_flops(function: Callable, *arguments, platform: str) -> dict[str, float]:
    """dtype of the operands -> FLOPs of one call over all devices.

    Args:
      function: anything that jax can trace; `arguments` are arrays or their shapes.
      platform: "tpu", "cuda", "cpu": which branch of `jax.lax.platform_dependent` is counted; with any other name, as `PLAIN`,
        the branch for all others.
    """
    counted: Counter[str] = Counter()
    _count(jax.make_jaxpr(function)(*arguments).jaxpr, platform, 1.0, counted)
    return dict(counted)


def _count(jaxpr, platform: str, times: float, counted: Counter) -> None:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            operand, result = equation.invars[0].aval, equation.outvars[0].aval
            inner = math.prod(operand.shape[axis] for axis in contracted)
            counted[operand.dtype.name] += times * 2.0 * inner * math.prod(result.shape)
        elif name == "pallas_call":
            _count_kernel(equation, platform, times, counted)
        elif name == "cond":
            _count_branch(params, platform, times, counted)
        else:
            more = params["length"] if name == "scan" else 1
            if name == "shard_map":  # its inside is one device's part
                more = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
            for inner in _inside(params):
                _count(inner, platform, times * more, counted)


def _count_kernel(equation, platform: str, times: float, counted: Counter) -> None:
    """A Pallas kernel costs what it says, and else its products in every cell of its grid (at most: it may skip some)."""
    params = equation.params
    if said := params.get("cost_estimate"):
        counted[equation.invars[-1].aval.dtype.name] += times * said.flops
    else:
        _count(params["jaxpr"], platform, times * math.prod(params["grid_mapping"].grid), counted)


def _count_branch(params, platform: str, times: float, counted: Counter) -> None:
    """The branch of the platform; where the data choose, the one of most FLOPs.

    A library's kernel shows no products: those of the branch for all other platforms count in its place.
    """
    counts = []
    for branch in params["branches"]:
        counts.append(Counter())
        _count(branch.jaxpr, platform, times, counts[-1])
    if platforms := params.get("branches_platforms"):
        named = [index for index, names in enumerate(platforms) if names is not None and platform in names]
        others = platforms.index(None)
        counts = [counts[named[0] if named else others] or counts[others]]
    counted.update(max(counts, key=lambda count: sum(count.values())))


def _inside(params) -> list:
    """The jaxprs that an equation runs; the rule of a custom derivative is no part of it."""
    found = []
    for name, value in params.items():
        if name in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd"):
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns"):
                found.append(one)
            elif hasattr(one, "jaxpr") and hasattr(one.jaxpr, "eqns"):
                found.append(one.jaxpr)
    return found
