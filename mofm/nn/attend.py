"""Attention over sets of tokens: one meaning, and the fastest form of it on each platform.

`attend` is softmax of q.k / sqrt(K) over the keys that the mask allows. Which form computes it is chosen when the program is
lowered, so that one compiled on a laptop for a TPU gets the TPU's:

  cpu      a scan over cells of plain two-dimensional products. XLA:CPU runs batched small products an order of magnitude
           under its matmul rate; this form was 6x faster, forward and backward, at 64 cells x 192 tokens (RESULTS.md).
  tpu      splash attention, the Pallas kernel that comes with jax, in bfloat16 and where tokens and head widths fill its tiles.
  cuda     cuDNN's flash attention, in bfloat16, by `jax.nn.dot_product_attention`. It masks by lengths, so keys are sorted
           first: those that may be seen, then the others. A set has no order to lose.
  else     `jax.nn.dot_product_attention` as XLA compiles it, with all logits in memory.

A kernel is trusted on an accelerator once it has given there what XLA gives, value and gradient (`is_trusted`): a second at
the first use, and where it fails a warning and XLA's form. Compiled for a TPU that is not there (`mofm plan`), splash is taken.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from mofm.axes import CELLS, DATA, FSDP, HEADS, TENSOR
from mofm.parallel.rules import partition

MASKED_LOGIT = -1e9
"""Added to the logits of padding: exp underflows to exactly zero, and a row of padding alone stays finite."""
TILES = (1024, 512, 256, 128)
"""Sides of splash attention's tiles, the first that divides the tokens; 128 lanes are the least. Larger ones read keys less
often: by XLA:TPU's own count, `configs/base.py` on v5e:4x4 moves 124 GB a step with 1,024, 126 with 512 (and 253 in full)."""
LANES = 128
CUDNN_HEAD_WIDTHS = range(8, 129, 8)
"""Widths of a head that cuDNN's flash attention takes on every GPU since Ampere."""
AGREEMENT = 0.02
"""By how much a kernel may differ from XLA's form, as a share of the norm: bfloat16 has 8 bits."""

Form = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def attend(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Softmax attention of L queries over M keys, in the dtype of the inputs with float32 softmax.

    Args:
      q_BLHK, k_BMHK, v_BMHK: queries, keys and values.
      mask_BM: bool, True where a key may be attended to.

    Returns:
      (B, L, H, K), finite also where a cell's mask is all False.
    """
    forms = {"cpu": scan_cells}
    if fits_splash(q_BLHK, k_BMHK) and is_trusted("tpu", q_BLHK.shape[-1]):
        forms["tpu"] = splash_each_cell
    if fits_cudnn(q_BLHK) and is_trusted("cuda", q_BLHK.shape[-1]):
        forms["cuda"] = flash_sorted
    forms = {platform: partial(_on_each_device, form) for platform, form in forms.items()}
    return jax.lax.platform_dependent(q_BLHK, k_BMHK, v_BMHK, mask_BM, default=in_full, **forms)


def in_full(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """As XLA compiles it, on any platform and any layout over devices."""
    return jax.nn.dot_product_attention(q_BLHK, k_BMHK, v_BMHK, mask=mask_BM[:, None, None, :])


def scan_cells(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Cell by cell and head by head."""
    heads, width = q_BLHK.shape[-2:]

    @jax.checkpoint  # the probabilities are cheaper to take again than to store
    def one_cell(q_LHK, k_MHK, v_MHK, mask_M):
        bias_M = jnp.where(mask_M, 0.0, MASKED_LOGIT)

        def one_head(h):
            logits_LM = (q_LHK[:, h] @ k_MHK[:, h].T).astype(jnp.float32) * width**-0.5 + bias_M
            return jax.nn.softmax(logits_LM, axis=-1).astype(v_MHK.dtype) @ v_MHK[:, h]

        return jnp.stack([one_head(h) for h in range(heads)], axis=1)

    return jax.lax.map(lambda cell: one_cell(*cell), (q_BLHK, k_BMHK, v_BMHK, mask_BM))


def splash_each_cell(
    q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_BM: jax.Array, interpret: bool = False
) -> jax.Array:
    """Splash attention; `interpret` runs it on any platform, slowly."""
    (_, queries, heads, width), keys = q_BLHK.shape, k_BMHK.shape[1]
    q_tile, k_tile = _tile(queries), _tile(keys)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.FullMask((queries, keys))] * heads),
        # Fused: one kernel gives all three gradients, and computes the logits once for them.
        block_sizes=splash.BlockSizes(*(q_tile, k_tile, k_tile) * 2, use_fused_bwd_kernel=True),
        interpret=interpret,
    )
    allowed_BM = _some(mask_BM)

    def one_cell(q_LHK, k_MHK, v_MHK, allowed_M):
        segments = splash.SegmentIds(jnp.ones(queries, jnp.int32), allowed_M.astype(jnp.int32))
        q_HLK, k_HMK, v_HMK = (x.swapaxes(0, 1) for x in (q_LHK, k_MHK, v_MHK))
        return kernel(q_HLK, k_HMK, v_HMK, segment_ids=segments).swapaxes(0, 1)

    scaled_BLHK = (q_BLHK.astype(jnp.float32) * width**-0.5).astype(q_BLHK.dtype)
    return jax.vmap(one_cell)(scaled_BLHK, k_BMHK, v_BMHK, allowed_BM)


def flash_sorted(
    q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask_BM: jax.Array, implementation: str = "cudnn"
) -> jax.Array:
    """cuDNN's flash attention over the keys sorted by the mask; `implementation` "xla" runs the same on any platform."""
    allowed_BM = _some(mask_BM)
    order_BM = jnp.argsort(~allowed_BM, axis=1, stable=True)
    return jax.nn.dot_product_attention(
        q_BLHK,
        _ordered(k_BMHK, order_BM),
        _ordered(v_BMHK, order_BM),
        key_value_seq_lengths=jnp.sum(allowed_BM, axis=1, dtype=jnp.int32),
        implementation=implementation,
    )


def fits_splash(q_BLHK: jax.Array, k_BMHK: jax.Array) -> bool:
    """Whether splash attention takes queries and keys of these shapes and dtypes."""
    lengths = (q_BLHK.shape[1], k_BMHK.shape[1], q_BLHK.shape[-1])
    return q_BLHK.dtype == jnp.bfloat16 and all(length % LANES == 0 for length in lengths)


def fits_cudnn(q_BLHK: jax.Array) -> bool:
    """Whether cuDNN's flash attention takes queries of this shape and dtype."""
    return q_BLHK.dtype == jnp.bfloat16 and q_BLHK.shape[-1] in CUDNN_HEAD_WIDTHS


@lru_cache
def is_trusted(platform: str, head_width: int) -> bool:
    """Whether the kernel of a platform gives on this machine's devices what XLA gives, by a trial.

    Of TPUs that are not there it is taken to: only a compiler is asked. cuDNN's cannot be traced without its library.
    """
    if jax.default_backend() != {"tpu": "tpu", "cuda": "gpu"}[platform]:
        return platform == "tpu"
    form = {"tpu": splash_each_cell, "cuda": flash_sorted}[platform]
    try:
        with ThreadPoolExecutor(1) as alone:  # in a thread of its own no trace and no mesh is under way
            off = alone.submit(disagreement, form, head_width).result()
    except Exception as error:  # whatever a library raises, XLA's form is there
        fault = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        fault = f"it differs from XLA's by {off:.3g} of the norm" if not off <= AGREEMENT else ""
    if fault:
        warnings.warn(
            f"attention on this {platform} runs as XLA compiles it, which needs more memory and time: the kernel for heads "
            f"of {head_width} failed its trial ({fault})",
            stacklevel=2,
        )
    return not fault


def disagreement(form: Form, head_width: int, like: Form = in_full) -> float:
    """Norm of the difference of two forms in value or gradient, whichever is more, as a share of the norm."""
    rng = np.random.default_rng(0)
    qkv = [jnp.asarray(rng.normal(size=(3, 2 * LANES, 2, head_width)), jnp.bfloat16) for _ in range(3)]
    mask_BM = jnp.asarray(rng.random((3, 2 * LANES)) < np.array([[1.0], [0.5], [0.1]]))

    def both(form: Form) -> list[np.ndarray]:
        total = lambda q, k, v: jnp.sum(jnp.sin(form(q, k, v, mask_BM).astype(jnp.float32)))  # noqa: E731
        outs = jax.jit(lambda q, k, v: (form(q, k, v, mask_BM), *jax.grad(total, argnums=(0, 1, 2))(q, k, v)))(*qkv)
        return [np.asarray(out, np.float64) for out in outs]

    pairs = zip(both(form), both(like), strict=True)
    return max(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs)


def _on_each_device(form: Form, q_BLHK, k_BMHK, v_BMHK, mask_BM):
    """Each device's cells and heads by themselves: else what lies on several devices would be gathered on each."""
    mesh, cells, heads = jax.sharding.get_abstract_mesh(), q_BLHK.shape[0], q_BLHK.shape[2]
    if mesh.size <= 1:
        return form(q_BLHK, k_BMHK, v_BMHK, mask_BM)
    if cells % (mesh.shape[DATA] * mesh.shape[FSDP]) or heads % mesh.shape[TENSOR]:
        return (form if form is scan_cells else in_full)(q_BLHK, k_BMHK, v_BMHK, mask_BM)
    states = partition((CELLS, None, HEADS, None))
    specs = (states, states, states, partition((CELLS, None)))
    # check_vma: a Pallas kernel does not say over which mesh axes its result varies; over all, as `states` says.
    return jax.shard_map(form, in_specs=specs, out_specs=states, check_vma=False)(q_BLHK, k_BMHK, v_BMHK, mask_BM)


def _some(mask_BM: jax.Array) -> jax.Array:
    """The mask, with the first key allowed where none is: kernels have no softmax of nothing."""
    is_first_M = jnp.arange(mask_BM.shape[1]) == 0
    return mask_BM | (is_first_M & ~mask_BM.any(axis=1, keepdims=True))


def _tile(tokens: int) -> int:
    return next(tile for tile in TILES if tokens % tile == 0)


@jax.custom_vjp
def _ordered(x_BMHK: jax.Array, order_BM: jax.Array) -> jax.Array:
    """Tokens in another order. Its gradient is a gather in the inverse order, where jax would scatter and add."""
    return jnp.take_along_axis(x_BMHK, order_BM[:, :, None, None], axis=1)


def _ordered_forward(x_BMHK, order_BM):
    return _ordered(x_BMHK, order_BM), order_BM


def _ordered_backward(order_BM, gradient_BMHK):
    inverse_BM = jnp.argsort(order_BM, axis=1)
    return jnp.take_along_axis(gradient_BMHK, inverse_BM[:, :, None, None], axis=1), None


_ordered.defvjp(_ordered_forward, _ordered_backward)
