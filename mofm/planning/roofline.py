"""How long a step takes, as a roofline has it: work over peak rates, between all of it overlapping and none.

    products     FLOPs of a device / its peak rate for their dtype
    memory       bytes from and to its memory / that memory's rate
    network      bytes it sends along each axis / the rate of a ring over that axis

    fastest      the longest of the three: each hides behind it
    slowest      their sum: nothing overlaps

Real steps lie between or above: no product reaches its peak, small collectives wait for latency, and the host may be late
with batches. So this is no promise; it shows which of two configs is faster, and what to change.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mofm.planning.chips import GPUS_A_HOST, Chip
from mofm.planning.collectives import SLICES

SECONDS_A_DAY = 86_400


class Times(NamedTuple):
    """Seconds of a step by what takes them, at peak rates."""

    products: float
    memory: float
    network: float

    @property
    def fastest(self) -> float:
        """Where all overlap."""
        return max(self)

    @property
    def slowest(self) -> float:
        """Where nothing does."""
        return sum(self)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]


def step_times(
    chip: Chip,
    devices: int,
    flops: Mapping[str, float],
    traffic: float,
    sent: Mapping[str, float],
    mesh: Mapping[str, int],
) -> Times:
    """Times of a step.

    Args:
      flops: dtype -> FLOPs over all devices, shared out evenly.
      traffic: bytes of one device from and to its memory.
      sent: axes of the mesh, joined by "+" -> bytes that one device sends along them.
      mesh: axis -> size, outermost first.
    """
    rates = {"float32": chip.flops * chip.float32_rate}
    products = sum(count / devices / rates.get(dtype, chip.flops) for dtype, count in flops.items())
    network = sum(count / link_rate(chip, axes, mesh) for axes, count in sent.items())
    return Times(products, traffic / chip.memory_rate, network)


def link_rate(chip: Chip, axes: str, mesh: Mapping[str, int]) -> float:
    """Bytes a second that a device sends along axes: those of a host's or slice's own links, or of the network where they
    leave it."""
    if axes == SLICES:
        return chip.network_rate
    names, inner = list(mesh), 1
    along = [names.index(name) for name in axes.split("+") if name in mesh] or range(len(names))
    for name in names[min(along) :]:
        inner *= mesh[name]
    return chip.network_rate if chip.maker == "gpu" and inner > GPUS_A_HOST else chip.link_rate


def days(cells: float, cells_a_second: float) -> float:
    """How long so many cells take."""
    return cells / cells_a_second / SECONDS_A_DAY
