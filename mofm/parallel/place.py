"""From this host's numpy arrays to global `jax.Array`s: cells of a batch, and edges of a graph, are laid over the mesh."""

import jax
from jax.sharding import Mesh

from mofm.axes import CELLS, DATA, EDGES, FSDP
from mofm.batch import CellBatch, GeneGraph
from mofm.errors import InputError
from mofm.parallel.rules import sharding


def place_batch(batch: CellBatch, mesh: Mesh) -> CellBatch:
    """Each process gives its slice of the global batch; no process ever holds another's cells."""
    cells = sharding(mesh, (CELLS,))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(cells, leaf), batch)


def place_graph(graph: GeneGraph, mesh: Mesh) -> GeneGraph:
    """The graph on the mesh, as `graph_places` has it. Every process has it all."""
    return jax.device_put(graph, graph_places(len(graph.weight_M), mesh))


def graph_places(edges: int, mesh: Mesh) -> GeneGraph:
    """Where each leaf of a graph lies: each device has its part of the edges; what is known of genes and pairs is on all.

    Raises:
      InputError: the edges, with their padding, cannot be divided evenly.
    """
    parts = mesh.shape[DATA] * mesh.shape[FSDP]
    if edges % parts:
        raise InputError(
            f"network: {edges:,} edges with their padding cannot be divided over data x fsdp = {parts} devices: set "
            f"network.edge_budget={-(-edges // parts) * parts}"
        )
    whole = {"regulator_G", "known_M"}
    return GeneGraph(**{name: sharding(mesh, (None,) if name in whole else (EDGES,)) for name in GeneGraph._fields})
