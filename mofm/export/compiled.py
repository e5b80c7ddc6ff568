"""The encoder of each modality as StableHLO by `jax.export`: embeds cells where there is JAX and no mofm.

    compiled/index.json            versions, and of each program its arguments: names, shapes, dtypes, meaning
    compiled/weights.safetensors   what the programs take of the model, once for all of them
    compiled/embed_MODALITY.jax_export

    program = jax.export.deserialize(bytearray(open("embed_rna.jax_export", "rb").read()))
    embedding = program.call({name: weights[name] for name in NAMES}, inputs)

The numbers of cells, of tokens and of features are symbols, so one program serves all; a program runs on CPU, CUDA and TPU.
StableHLO promises to read programs that are five years old, jax.export those of at least six months; its versions are
written down. What the networks say of the genes is in the weights already ("genes"), as it does not depend on the cells.

Choices and their cost:
- Weights are arguments, not constants: else each modality's program would hold all of them. They are beside the model's
  own because a program needs fewer, and the genes as the network has them: the folder is about as large as the model again.
- Each program embeds one view of a cell; fusion of several is no part of them.
- Tokens are the caller's to make (`index.json` says how): programs take features and values, not counts.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from mofm.axes import Modality
from mofm.batch import LIBRARY_SCALE, PANEL, PLACES, FeatureSpace, TokenBatch
from mofm.batches.spaces import LINKS
from mofm.errors import InputError
from mofm.export.parts import Parts
from mofm.export.tensors import by_name, save_tensors
from mofm.nn import model
from mofm.nn.spec import ModelSpec

PLATFORMS = ("cpu", "cuda", "tpu")
INDEX = "index.json"
ROWS = "genes"
"""Name of the genes' rows among the weights."""
MEANING = {
    "features_BL": "row of genes.parquet (RNA), or number among the features that the other arrays of this program describe",
    "values_BL": f"RNA: log1p(counts / library * {LIBRARY_SCALE:g}); others: see mofm/batches/collate.py; 0 for padding",
    "mask_BL": "true for a token, false for padding",
    "library_B": f"all counts of the cell, of features that are no tokens too; of proteins {PANEL:g} (g - 1), g = exp(mean of "
    "log1p(count) over the panel)",
    "genes_FK": "rows of genes.parquet that a feature is near, or encoded by; 0 where the weight is",
    "weights_FK": "how much each counts; a feature's sum to 1",
    "place_FP": "where a region lies about its genes; of training's features in start.safetensors",
    "bucket_F": "hash of a region's identity",
    "base_F": "methylation: log odds of a methylated read",
}


def write_compiled(parts: Parts, folder: Path) -> None:
    """Write the programs of all modalities that the model was trained on.

    Raises:
      InputError: flatbuffers, in which programs are written, is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise InputError("--compiled needs flatbuffers: pip install flatbuffers, or leave --compiled out") from error
    folder.mkdir()
    graph = parts.network and parts.network.graph(parts.spec.genes)
    weights = {ROWS: model.gene_states(parts.spec, parts.params, graph).rows_GD, **by_name(parts.params)}
    needed: set[str] = set()
    programs = {}
    for modality in parts.spec.modalities:
        program, names, inputs = export_embed(parts.spec, weights, modality)
        file = f"embed_{modality}.jax_export"
        (folder / file).write_bytes(program.serialize())
        needed |= set(names)
        inputs = {
            name: {"dtype": str(leaf.dtype), "shape": [str(size) for size in leaf.shape], "meaning": MEANING[name]}
            for name, leaf in inputs.items()
        }
        programs[modality] = {"file": file, "weights": names, "inputs": inputs}
    save_tensors(folder, "weights", {name: leaf for name, leaf in weights.items() if name in needed}, 2**62)
    index = {
        "call": "jax.export.deserialize(bytearray(FILE)).call({name: weights[name] for name in WEIGHTS}, INPUTS)",
        "returns": {"dtype": "float32", "shape": ["b", str(parts.config.encoder.cell_width)]},
        "symbols": {"b": "cells", "l": "tokens of a cell", "f": "features"},
        "platforms": list(PLATFORMS),
        "jax_version": jax.__version__,
        "calling_convention_version": program.calling_convention_version,
        "programs": programs,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def export_embed(
    spec: ModelSpec, weights: dict[str, jax.Array], modality: Modality
) -> tuple[export.Exported, list[str], dict[str, jax.ShapeDtypeStruct]]:
    """The program that embeds one modality, the names of the weights that it needs, and its other arguments."""
    params = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))
    of_params, structure = list(by_name(params)), jax.tree.structure(params)
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()}
    inputs = _inputs(modality)

    def embed(given: dict[str, jax.Array], view: dict[str, jax.Array]) -> jax.Array:
        # What a program does not need it is not given; what is put in its place is never looked at.
        whole = {name: given.get(name, jnp.zeros(leaf.shape, leaf.dtype)) for name, leaf in shapes.items()}
        tree = jax.tree.unflatten(structure, [whole[name] for name in of_params])
        return model.embed(spec, tree, whole[ROWS], _view(view), modality, _space(view, modality))

    every = [*sorted(shapes), *sorted(inputs)]  # as jax flattens the two dicts
    kept = {every[place] for place in _looked_at(jax.make_jaxpr(embed)(shapes, inputs).jaxpr)}
    used, asked = sorted(kept & set(shapes)), {name: leaf for name, leaf in inputs.items() if name in kept}
    program = export.export(jax.jit(embed), platforms=PLATFORMS)({name: shapes[name] for name in used}, asked)
    return program, used, asked


def _looked_at(jaxpr: Any) -> list[int]:
    """Places of the arguments that the result depends on: the decoder runs along, and nobody looks at what it says."""
    needed = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(variable for variable in equation.invars if not hasattr(variable, "val"))
    return [place for place, variable in enumerate(jaxpr.invars) if variable in needed]


def _inputs(modality: Modality) -> dict[str, jax.ShapeDtypeStruct]:
    """All of a view of one modality, and of its space, that may matter."""
    b, l, f = export.symbolic_shape("b, l, f")  # noqa: E741
    ints, floats = jnp.int32, jnp.float32
    arrays = {
        "features_BL": ((b, l), ints),
        "values_BL": ((b, l), floats),
        "mask_BL": ((b, l), jnp.bool_),
        "library_B": ((b,), floats),
    }
    if modality != "rna":
        arrays |= {
            "genes_FK": ((f, LINKS), ints),
            "weights_FK": ((f, LINKS), floats),
            "place_FP": ((f, PLACES), floats),
            "bucket_F": ((f,), ints),
            "base_F": ((f,), floats),
        }
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in arrays.items()}


def _view(given: dict[str, jax.Array]) -> TokenBatch:
    zeros_BL = jnp.zeros(given["features_BL"].shape, jnp.float32)
    floats_B, ints_B = zeros_BL[:, 0], zeros_BL[:, 0].astype(jnp.int32)
    library_B = given.get("library_B", floats_B)
    return TokenBatch(given["features_BL"], given["values_BL"], zeros_BL, given["mask_BL"], library_B, ints_B, ints_B)


def _space(given: dict[str, jax.Array], modality: Modality) -> FeatureSpace | None:
    if modality == "rna":
        return None
    zeros_F = jnp.zeros(given["genes_FK"].shape[0], jnp.float32)
    place_FP, bucket_F = jnp.broadcast_to(zeros_F[:, None], (*zeros_F.shape, PLACES)), zeros_F.astype(jnp.int32)
    given = {"place_FP": place_FP, "bucket_F": bucket_F, "base_F": zeros_F, "spread_F": zeros_F} | given
    return FeatureSpace(**{name: given[name] for name in FeatureSpace._fields})
