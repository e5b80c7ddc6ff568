"""A run that begins without the directions of a model's embedding in which batches differ.

`inference/integration.py` finds them. They are taken out of `to_cell`, the last matrix of every embedding, so no cell has a
part along them, of whatever batch it is. The cost: what biology lies along them is gone too, and later steps are free to
learn a way back.
"""

from pathlib import Path

import jax
import numpy as np

from mofm.files import written_whole
from mofm.training.state import TrainState

FILE = "batches.npz"


def begin_off_batches(state: TrainState, axes_RE: np.ndarray) -> TrainState:
    """A state whose embedding has no part along some orthonormal directions, whatever the cell."""
    to_cell = state.params["to_cell"]
    off = jax.jit(without, out_shardings=to_cell.sharding)
    return state._replace(params=state.params | {"to_cell": off(to_cell, axes_RE)})


def without(x_NE: jax.Array | np.ndarray, axes_RE: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """What is left of rows without their parts along orthonormal axes."""
    return x_NE - (x_NE @ axes_RE.T) @ axes_RE


def save_batch_axes(workdir: Path, axes_RE: np.ndarray) -> None:
    """Write batches.npz, atomically: the directions of the embedding that a run began without."""
    with written_whole(workdir / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, axes_RE=axes_RE)


def load_batch_axes(workdir: Path) -> np.ndarray | None:
    """axes_RE that a run began without; None where it has not begun, or began with all."""
    if not (workdir / FILE).exists():
        return None
    with np.load(workdir / FILE, allow_pickle=False) as arrays:
        return arrays["axes_RE"]
