"""Weight decay is on matrices of layers, and on nothing else."""

import jax
import pytest

from mofm.nn import model
from mofm.nn.fusion import FusionConfig
from mofm.nn.grn import GrnConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.nn.translator import TranslatorConfig
from mofm.training.optimizer import OptimizerConfig, make_optimizer

ENCODER = {"width": 32, "blocks": 2, "modality_blocks": 1, "heads": 2, "ffn": 24, "cell_width": 8, "region_rows": 8}
SPEC = ModelSpec(
    EncoderConfig(**ENCODER),
    known_genes=20,
    grn=GrnConfig(width=16),
    relations=1,
    translator=TranslatorConfig(blocks=1),
    contrasts=True,
    fusion=FusionConfig(blocks=1),
)


@pytest.fixture(scope="module")
def moved():
    """Name -> (logical axes, whether a step without a gradient moves the leaf), of a model of every part."""
    params = jax.tree.map(lambda leaf: leaf + 1, jax.jit(model.init, static_argnums=0)(SPEC, jax.random.key(0)))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5), 10)
    updates, _ = optimizer.update(jax.tree.map(lambda leaf: 0 * leaf, params), optimizer.init(params), params)
    axes = jax.tree_util.tree_leaves_with_path(model.logical_axes(SPEC), is_leaf=lambda leaf: isinstance(leaf, tuple))
    axes = {jax.tree_util.keystr(path): leaf for path, leaf in axes}
    found = jax.tree_util.tree_leaves_with_path(updates)
    return {
        jax.tree_util.keystr(path): (axes[jax.tree_util.keystr(path)], bool(abs(leaf).max() > 0))
        for path, leaf in found
    }


def test_vectors_and_scalars_are_left_alone(moved):
    vectors = [name for name, (axes, _) in moved.items() if len([axis for axis in axes if axis != "blocks"]) < 2]
    assert len(vectors) > 20
    assert not [name for name in vectors if moved[name][1]]
    assert {"['links']['tendency']", "['genes']['own_0']", "['fusion']['weight']"} <= set(vectors)


def test_tables_levels_and_what_begins_as_an_identity_are_left_alone(moved):
    tables = [name for name, (axes, _) in moved.items() if {"genes", "bins"} & set(axes)]
    assert "['genes']['table']" in tables
    assert "['readout']['average']" in tables
    assert not [
        name for name in (*tables, "['to_cell']", "['links']['bias']", "['tokenizer']['place']") if moved[name][1]
    ]


def test_matrices_of_layers_are_decayed(moved):
    layers = [name for name in moved if "['blocks']" in name and "norm" not in name]
    assert len(layers) > 40
    assert not [name for name in (*layers, "['decoder']['cell']", "['genes']['up_target']") if not moved[name][1]]
