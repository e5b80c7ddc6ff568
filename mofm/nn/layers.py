"""Every initialiser, and the few layers that the rest of `nn` is made of.

A weight is declared once: its shape, its initialiser and the logical names of its axes stand together. Parameters are
float32; products are taken in the `dtype` of their input (the compute policy), reductions that decide a scale in float32.
No biases: RMSNorm and SwiGLU do without (PaLM, LLaMA), and a bias-free stack keeps a padded token's influence at zero.
"""

import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mofm.axes import EMBED, FFN
from mofm.parallel.rules import RULES


def declare(
    module: nn.Module,
    name: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    scale: float | Literal["ones", "identity"],
) -> jax.Array:
    """A float32 weight with its logical axes: normal with deviation `scale`, zeros where that is 0, ones, or an identity
    (as much of one as the shape holds)."""
    if scale == "ones":
        initialiser = nn.initializers.ones_init()
    elif scale == "identity":
        initialiser = lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype)  # noqa: E731
    elif scale == 0:
        initialiser = nn.initializers.zeros_init()
    else:
        initialiser = nn.initializers.normal(scale)
    boxed = nn.with_logical_partitioning(initialiser, tuple(axes), rules=tuple(RULES.items()))
    return module.param(name, boxed, tuple(shape), jnp.float32)


def product(x: jax.Array, weight: jax.Array, contracted: int = 1) -> jax.Array:
    """The last axes of `x`, as many as are contracted, with the first of `weight`, in the dtype of `x`.

    All other axes of `x` are made one: the gradient of a weight over several contracted axes is slower on XLA:CPU, by a quarter
    for a square weight of 256 and up to three times for wider ones.
    """
    kept, shape = x.shape[: x.ndim - contracted], weight.shape[contracted:]
    weight_IO = weight.astype(x.dtype).reshape(math.prod(weight.shape[:contracted]), -1)
    return (x.reshape(-1, weight_IO.shape[0]) @ weight_IO).reshape(*kept, *shape)


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last axis, in float32 (Zhang & Sennrich 2019)."""

    axis_name: str | None = EMBED

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gain = declare(self, "gain", x.shape[-1:], (self.axis_name,), "ones")
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-6)
        return (x32 * scale * gain).astype(x.dtype)


class SwiGLU(nn.Module):
    """(silu(x W) * (x V)) U, the gated feed-forward layer (Shazeer 2020). `x_D` is (..., width)."""

    inner: int
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x_D: jax.Array) -> jax.Array:
        width = x_D.shape[-1]
        gate_DF = declare(self, "gate", (width, self.inner), (EMBED, FFN), width**-0.5)
        up_DF = declare(self, "up", (width, self.inner), (EMBED, FFN), width**-0.5)
        down_FD = declare(self, "down", (self.inner, width), (FFN, EMBED), self.out_scale * self.inner**-0.5)
        return product(nn.silu(product(x_D, gate_DF)) * product(x_D, up_DF), down_FD)
