"""The hardware that a plan can be made for, as its makers' data sheets have it, and the topologies that are named by it.

Rates are peaks: nothing reaches them, and what a plan says of time is said of them. Memory of a TPU is what XLA's own
compiler allows a program (it refuses more); of a GPU it is the card's, less what JAX leaves to others by default.
"""

import math
import re
from dataclasses import dataclass

from mofm.errors import InputError, nearest_name

GIB = 2**30
GPU_SHARE = 0.9
"""Of a GPU's memory, what a plan counts on: CUDA, NCCL and fragments take the rest. JAX itself takes 75% unless
XLA_PYTHON_CLIENT_MEM_FRACTION says more."""
GPUS_A_HOST = 8


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      title: what people call it.
      maker: "tpu" or "gpu".
      memory: bytes that a program may use.
      flops: bf16 products, multiply and add counted apart, a second.
      float32_rate: of float32 products, as a share of `flops`, at JAX's default precision.
      memory_rate: bytes a second from and to its memory.
      link_rate: bytes a second that it sends to its neighbours in a ring over one axis of the mesh.
      network_rate: the same where the axis leaves the host (GPUs) or the slice (TPUs).
      most: chips of the largest slice or, for GPUs, the most that a plan is made for.
      ranks: numbers that a topology may have: 4x4 has 2, 2x2x4 has 3, 8 has 1.
    """

    title: str
    maker: str
    memory: int
    flops: float
    float32_rate: float
    memory_rate: float
    link_rate: float
    network_rate: float
    most: int
    ranks: tuple[int, ...]


def _tpu(
    title: str, gib: float, flops: float, memory_rate: float, port: float, network: float, most: int, ranks=(2,)
) -> Chip:
    # A ring over one torus axis sends on both of its ports. float32 products are one bf16 pass by default.
    return Chip(title, "tpu", round(gib * GIB), flops, 1.0, memory_rate, 2 * port, network, most, ranks)


def _gpu(title: str, gigabytes: float, flops: float, memory_rate: float, nvlink: float, network: float) -> Chip:
    # float32 products are TF32 by default, at half the rate.
    return Chip(title, "gpu", round(gigabytes * 1e9 * GPU_SHARE), flops, 0.5, memory_rate, nvlink, network, 4096, (1,))


CHIPS = {
    # cloud.google.com/tpu/docs: v5e 1,600 Gb/s a chip over 4 ports, v6e 3,200 over 4, v5p 4,800 over 6.
    # Between slices, a chip's share of its host's network cards (jax-ml.github.io/scaling-book).
    "v5e": _tpu("TPU v5e", 15.75, 197e12, 819e9, 50e9, 3.125e9, 256),
    "v5p": _tpu("TPU v5p", 95.74, 459e12, 2765e9, 100e9, 6.25e9, 8960, ranks=(2, 3)),
    "v6e": _tpu("TPU v6e", 31.25, 918e12, 1600e9, 100e9, 12.5e9, 256),
    # NVIDIA's data sheets, SXM, dense; NVLink one way; one NIC a GPU of 200 (A100), 400 (H100, H200) or 800 Gb/s.
    "a100-40": _gpu("A100 40 GB", 42.9, 312e12, 1555e9, 300e9, 25e9),
    "a100": _gpu("A100 80 GB", 85.9, 312e12, 2039e9, 300e9, 25e9),
    "h100": _gpu("H100 80 GB", 85.9, 989e12, 3350e9, 450e9, 50e9),
    "h200": _gpu("H200 141 GB", 150.8, 989e12, 4800e9, 450e9, 50e9),
    "b200": _gpu("B200 180 GB", 192.0, 2250e12, 7700e9, 900e9, 100e9),
}
"""By the name that stands before the colon of a topology."""


@dataclass(frozen=True)
class Topology:
    """So many chips: `name` of a slice as it was given, `shape` as a slice has it, and how many `slices`."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        """How many; JAX sees one device a chip."""
        return math.prod(self.shape) * self.slices

    @property
    def title(self) -> str:
        """With the number of slices, where there are several."""
        return f"{self.slices} x {self.name}" if self.slices > 1 else self.name


def parse_topology(name: str, slices: int = 1) -> Topology:
    """The topology of "v5e:4x4", "v5p:2x2x4", "h100:8"; of several such slices of TPUs.

    Raises:
      InputError: a chip that is not known, or a shape that it does not come in; slices of GPUs.
    """
    kind, colon, size = name.strip().lower().partition(":")
    if kind not in CHIPS:
        near = nearest_name(kind, CHIPS)
        raise InputError(f"--topology {name}: no chip {kind!r} is known; these are: {', '.join(CHIPS)}.{near}")
    chip = CHIPS[kind]
    shape = tuple(map(int, size.split("x"))) if re.fullmatch(r"\d+(x\d+)*", size) else ()
    like = f"{kind}:8" if chip.maker == "gpu" else f"{kind}:4x4" + (f" or {kind}:2x2x4" if 3 in chip.ranks else "")
    if not colon or len(shape) not in chip.ranks or min(shape) < 1:
        raise InputError(f"--topology {name}: write {like}")
    count = math.prod(shape)
    if count > chip.most:
        raise InputError(f"--topology {name}: {count:,} chips; a slice of {chip.title} has {chip.most:,} at most")
    if chip.maker == "tpu" and count > 1 and not _is_a_slice(shape):
        near = "x".join(str(_nearest_power(n)) for n in shape)
        raise InputError(
            f"--topology {name}: slices have sides of 2, 4, 8, 16, ... chips. Did you mean '{kind}:{near}'?"
        )
    if slices > 1 and (chip.maker == "gpu" or count == 1):
        raise InputError(
            f"--slices {slices}: several slices are of TPUs, of 4 or more chips each; of GPUs write {kind}:{count * slices}"
        )
    return Topology(f"{kind}:{size}", chip, shape, slices)


def _is_a_slice(shape: tuple[int, ...]) -> bool:
    """A side of 1 is only the third's; others are even, as hosts hold 2 x 2."""
    return all(n % 2 == 0 for n in shape[:2]) and all(n == 1 or n % 2 == 0 for n in shape[2:])


def _nearest_power(n: int) -> int:
    return 2 ** max(1, round(math.log2(n)))


def gibibytes(count: float) -> str:
    """A number of bytes in GiB (XLA writes "G"), a small one in MiB."""
    return f"{count / GIB:,.2f} GiB" if count > 0.1 * GIB else f"{count / 2**20:,.1f} MiB"
