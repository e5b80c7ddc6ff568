"""What the cells that are read and shuffled take of memory, and windows that keep to a budget (`DataConfig.memory_gb`).

Estimates are of the mean cell and of a single host, so that they are the same for any number of hosts: the order hangs on
how large windows are.
"""

from collections.abc import Sequence

from mofm.batches.config import DataConfig
from mofm.batches.order import Order
from mofm.corpus.datasets import Dataset
from mofm.errors import InputError

LEAST_BLOCKS = 4
"""Blocks in a window of a sequence that has few rows of each batch."""
HELD = 2
"""Windows of a sequence in memory: that which is served, and the next."""


def blocks_within(config: DataConfig, datasets: Sequence[Dataset]) -> int:
    """`window_blocks`, or as many as fit into `memory_gb`, at least `LEAST_BLOCKS` of them."""
    if config.memory_gb is None:
        return config.window_blocks
    per_block = HELD * config.block_cells * _bytes_per_cell(datasets)
    fit = int(config.memory_gb * 1e9 / max(per_block, 1.0))
    return min(config.window_blocks, max(LEAST_BLOCKS, fit))


def check_memory(
    config: DataConfig, datasets: Sequence[Dataset], sequences: Sequence[tuple[Order, Sequence[int], int]]
) -> None:
    """Raises `InputError` where windows cannot be small enough for `memory_gb`: on every host, or on none.

    Args:
      sequences: the order of each, the numbers of its datasets, and its cells in batches that are being made.
    """
    if config.memory_gb is None:
        return
    needed = 0.0
    for order, numbers, under_way in sequences:
        mine = [datasets[number] for number in numbers]
        held = min(HELD * order.window_cells + under_way, 2 * sum(dataset.n_cells for dataset in mine))
        needed += held * _bytes_per_cell(mine) / 1e9
    if needed > 1.2 * config.memory_gb:  # cells differ in size
        raise InputError(
            f"data.memory_gb={config.memory_gb}: {len(sequences)} sequences of cells with at least {LEAST_BLOCKS} blocks of "
            f"{config.block_cells} cells each, and the cells of batches in the making, take {needed:.3g}; give as much, "
            "lower data.block_cells or data.prefetch, or set data.temperature=1, which makes one sequence of many data sets"
        )


def _bytes_per_cell(datasets: Sequence[Dataset]) -> float:
    """Of all modalities of the mean cell."""
    n_bytes = sum(store.entry.bytes_per_cell * store.n_cells for data in datasets for store in data.stores.values())
    return n_bytes / max(1, sum(data.n_cells for data in datasets))
