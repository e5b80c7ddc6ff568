"""The linear read-out: an average cell is 0, and cells of two omics types stay about one point, whatever is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spaces import some_space

from mofm.axes import MODALITIES
from mofm.batch import WEIGHED_BY_DEPTH, log_exposure
from mofm.nn import model
from mofm.nn.readout import LinearReadout
from mofm.nn.spec import EncoderConfig, ModelSpec

GENES = 40
SPEC = ModelSpec(
    EncoderConfig(width=16, blocks=1, heads=2, ffn=24, cell_width=8, bins=6, region_rows=7, compute_dtype="float32"),
    known_genes=GENES,
)


def space_of(modality):
    return None if modality == "rna" else some_space(np.random.default_rng(3), GENES, genes=GENES)


@pytest.fixture(params=MODALITIES)
def modality(request):
    return request.param


@pytest.fixture
def read(make_view, modality):
    """(what rows of genes, with gains, are read as of three cells; what their average cell weighs by gene)."""
    view, space = make_view(), space_of(modality)
    view = view._replace(totals_BL=view.counts_BL + view.mask_BL) if modality == "methylation" else view
    rng, which = np.random.default_rng(0), MODALITIES.index(modality)
    gain_G = rng.normal(size=GENES).astype(np.float32)
    links_FG = np.eye(GENES, dtype=np.float32)
    if space is not None:
        links_FG = np.zeros((GENES, GENES), np.float32)
        np.add.at(links_FG, (np.arange(GENES)[:, None], space.genes_FK), space.weights_FK)
    values_BL = np.where(view.mask_BL, view.values_BL, 0)
    if modality == "methylation":
        values_BL = np.where(view.mask_BL, view.values_BL - 1 / (1 + np.exp(-space.base_F[view.features_BL])), 0)
    weight_BL = values_BL * (links_FG @ np.exp(gain_G))[view.features_BL] / view.mask_BL.sum(axis=1, keepdims=True)
    if modality in WEIGHED_BY_DEPTH:
        weight_BL = weight_BL * np.exp(log_exposure(view.library_B) / 2)[:, None]
    average_GM = np.zeros((GENES, len(MODALITIES)), np.float32)
    average_GM[:, which] = np.einsum("bl,blg->bg", weight_BL, links_FG[view.features_BL]).mean(axis=0)
    scale_MD = rng.normal(size=(len(MODALITIES), 6)).astype(np.float32)
    variables = {"params": jax.tree.map(jnp.asarray, {"log_gain": gain_G, "scale": scale_MD, "average": average_GM})}

    @jax.jit
    def profile_BD(rows_GD, average_GM=average_GM):
        given = {"params": variables["params"] | {"average": average_GM}}
        rows_BLD = (jnp.asarray(links_FG) @ rows_GD)[view.features_BL]
        on_device = jax.tree.map(jnp.asarray, space)
        return LinearReadout(GENES).apply(given, view, view.mask_BL & False, rows_BLD, rows_GD, modality, on_device)

    return profile_BD


def test_an_average_cell_is_zero_whatever_becomes_of_the_rows(read):
    rng = np.random.default_rng(1)
    rows_GD = rng.normal(size=(GENES, 6)).astype(np.float32)
    profile_BD = np.asarray(read(rows_GD))
    assert np.abs(profile_BD).max() > 0.1
    for moved_GD in (rows_GD, rows_GD + 30.0, rows_GD * 3):
        np.testing.assert_allclose(np.asarray(read(moved_GD)).mean(axis=0), 0, atol=2e-4)


def test_the_average_cell_is_not_trained_and_the_rows_are(read):
    rows_GD, average_GM = np.ones((GENES, 6), np.float32), np.ones((GENES, len(MODALITIES)), np.float32)
    of_rows, of_average = jax.grad(lambda *given: (read(*given) ** 2).sum(), argnums=(0, 1))(rows_GD, average_GM)
    assert np.abs(of_rows).max() > 0
    assert not np.abs(of_average).any()


def test_places_and_rows_of_their_own_are_not_read(make_view):
    """They are of the tokens. With a pool that adds nothing, the embedding of a region's cell is its genes' alone."""
    view, space = make_view(), space_of("atac")
    params = jax.jit(model.init, static_argnums=0)(SPEC, jax.random.key(0))
    params |= {"pool": params["pool"] | {"value": 0 * params["pool"]["value"]}}
    rows_GD = model.gene_states(SPEC, params).rows_GD
    rng, tokenizer = np.random.default_rng(2), params["tokenizer"]
    other = {name: rng.normal(size=tokenizer[name].shape).astype(np.float32) for name in ("place", "region_table")}

    def outputs(tokenizer):
        return model.apply(SPEC, params | {"tokenizer": tokenizer}, rows_GD, view, view.mask_BL & False, "atac", space)

    plain, moved = outputs(tokenizer), outputs(tokenizer | other)
    np.testing.assert_allclose(moved.embedding_BE, plain.embedding_BE, atol=1e-5)
    assert np.abs(np.asarray(plain.embedding_BE)).max() > 0.01
    assert np.abs(np.asarray(moved.states_BLD) - np.asarray(plain.states_BLD)).max() > 0.1
