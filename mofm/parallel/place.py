"""From this host's numpy batch to global `jax.Array`s: the first axis of every leaf is cells, laid over the mesh."""

import jax
from jax.sharding import Mesh

from mofm.axes import CELLS
from mofm.batch import CellBatch
from mofm.parallel.rules import sharding


def place_batch(batch: CellBatch, mesh: Mesh) -> CellBatch:
    """Each process gives its slice of the global batch; no process ever holds another's cells."""
    cells = sharding(mesh, (CELLS,))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(cells, leaf), batch)
