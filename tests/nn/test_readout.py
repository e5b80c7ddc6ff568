"""The linear read-out: an average cell is 0, and cells of two omics types stay about one point, whatever is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spaces import some_space

from mofm.axes import MODALITIES
from mofm.batch import WEIGHED_BY_DEPTH
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
    values_BL, gain_BL = view.values_BL, np.where(view.mask_BL, (links_FG @ np.exp(gain_G))[view.features_BL], 0)
    if modality == "atac":
        values_BL = np.log1p(view.counts_BL)
    whole_B1 = np.sum(values_BL * gain_BL, axis=1, keepdims=True)
    if modality == "methylation":
        whole_B1 = np.sum(gain_BL, axis=1, keepdims=True)
        values_BL = values_BL - 1 / (1 + np.exp(-space.base_F[view.features_BL]))
    share_BG = np.einsum("bl,blg->bg", values_BL * gain_BL / whole_B1, links_FG[view.features_BL])
    depth_B = (view.library_B / 1e4) ** 0.25 if modality in WEIGHED_BY_DEPTH else np.ones(len(share_BG))
    average_GM = np.zeros((GENES, len(MODALITIES)), np.float32)
    average_GM[:, which] = depth_B @ share_BG / depth_B.sum()
    scale_MD = rng.normal(size=(len(MODALITIES), 6)).astype(np.float32)
    variables = {"params": jax.tree.map(jnp.asarray, {"log_gain": gain_G, "scale": scale_MD, "average": average_GM})}

    @jax.jit
    def profile_BD(rows_GD, average_GM=average_GM):
        given = {"params": variables["params"] | {"average": average_GM}}
        rows_BLD = (jnp.asarray(links_FG) @ rows_GD)[view.features_BL]
        on_device = jax.tree.map(jnp.asarray, space)
        return LinearReadout(GENES).apply(given, view, view.mask_BL & False, rows_BLD, rows_GD, modality, on_device)

    plain_GD = rng.normal(size=(GENES, 6)).astype(np.float32)
    wanted_BD = scale_MD[which] * depth_B[:, None] * ((share_BG - average_GM[:, which]) @ plain_GD)
    np.testing.assert_allclose(profile_BD(plain_GD), wanted_BD, rtol=5e-3, atol=5e-3)
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


def rna_read(view, rows_GD):
    """With gains and an average cell of their own."""
    rng = np.random.default_rng(4)
    average_GM = rng.dirichlet(np.ones(GENES), len(MODALITIES)).T.astype(np.float32)
    params = {"log_gain": rng.normal(size=GENES), "scale": np.ones((len(MODALITIES), 6)), "average": average_GM}
    hidden_BL = np.zeros_like(view.mask_BL)
    return np.asarray(
        LinearReadout(GENES).apply(
            {"params": jax.tree.map(jnp.float32, params)},
            view,
            hidden_BL,
            rows_GD[view.features_BL],
            rows_GD,
            "rna",
            None,
        )
    )


def test_a_level_common_to_all_rows_moves_no_cell(make_view):
    rows_GD = np.random.default_rng(5).normal(size=(GENES, 6)).astype(np.float32)
    plain_BD = rna_read(make_view(), rows_GD)
    assert np.abs(plain_BD).max() > 0.1
    np.testing.assert_allclose(rna_read(make_view(), rows_GD + 10), plain_BD, atol=1e-3)


def test_values_that_are_all_higher_and_zeros_that_are_shown_change_nothing(make_view):
    """Depth enters as it is stated, and by nothing else."""
    rows_GD = np.random.default_rng(5).normal(size=(GENES, 6)).astype(np.float32)
    view = make_view()
    plain_BD = rna_read(view, rows_GD)
    np.testing.assert_allclose(
        rna_read(view._replace(values_BL=3 * view.values_BL), rows_GD), plain_BD, rtol=1e-3, atol=1e-4
    )
    without = view._replace(mask_BL=view.mask_BL & (view.values_BL > 0))
    assert (without.mask_BL != view.mask_BL).any()
    np.testing.assert_allclose(rna_read(without, rows_GD), plain_BD, rtol=1e-5, atol=1e-6)
    deeper = view._replace(library_B=16 * view.library_B)
    np.testing.assert_allclose(rna_read(deeper, rows_GD), 2 * plain_BD, rtol=1e-5)


def test_a_cell_of_which_nothing_is_known_is_an_average_one(make_view):
    rows_GD = np.random.default_rng(5).normal(size=(GENES, 6)).astype(np.float32)
    view = make_view()
    empty = view._replace(mask_BL=view.mask_BL & False, library_B=0 * view.library_B)
    np.testing.assert_array_equal(rna_read(empty, rows_GD), 0)


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
    np.testing.assert_allclose(moved.embedding_BE, plain.embedding_BE, atol=1e-6)
    assert np.abs(np.asarray(plain.embedding_BE)).max() > 1e-3
    assert np.abs(np.asarray(moved.states_BLD) - np.asarray(plain.states_BLD)).max() > 0.1
