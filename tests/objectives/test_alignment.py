"""The parts of alignment together: augmented draws, families that part them, and labels that an ontology has near."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm.batch import CellBatch, Kinship
from mofm.errors import InputError
from mofm.nn.assembly import Outputs
from mofm.nn.decoder import Prediction
from mofm.objectives.alignment import AlignmentConfig, align, two_draws
from mofm.objectives.invariance import adversary, group_hsic, mmd

GENES, WIDTH = 40, 6


def seer(table_GE):
    """A model that adds up its genes' rows, each times its value."""

    def see(view, hidden_BL, modality):
        embedding_BE = jnp.einsum("bl,ble->be", view.values_BL * view.mask_BL, table_GE[view.features_BL])
        nothing_BL = jnp.zeros_like(view.values_BL)
        return Outputs(embedding_BE, embedding_BE, embedding_BE[..., None], Prediction(*[nothing_BL] * 5))

    return see


@pytest.fixture
def view(make_view):
    return jax.tree.map(jnp.asarray, make_view(cells=8, tokens=20, genes=GENES)._replace(
        label_B=np.array([0, 0, 1, 1, 2, 2, -1, -1], np.int32)
    ))  # fmt: skip


TABLE_GE = jnp.asarray(np.random.default_rng(0).normal(size=(GENES, WIDTH)), jnp.float32)
FAMILY_G = jnp.asarray(np.arange(GENES) // 4 - 1, jnp.int32)


def loss_of(config, view, table_GE=TABLE_GE, kinship=None, seed=0):
    see = seer(table_GE)
    seen = {"rna": see(view, jnp.zeros_like(view.mask_BL), "rna")}
    kinship = Kinship() if kinship is None else kinship
    return align(config, CellBatch(rna=view), seen, see, kinship, WIDTH, jnp.log(0.1), jax.random.key(seed), None)


def tokens_of(view):
    return [set(features[mask].tolist()) for features, mask in zip(*map(np.asarray, (view.features_BL, view.mask_BL)))]  # noqa: B905


def test_draws_keep_their_own_share_of_molecules_and_of_tokens(view):
    config = AlignmentConfig(augment_weight=1.0, keep_least=0.5, drop_rate=0.3)
    one, other = two_draws(config, view, "rna", None, jax.random.key(1))
    assert not np.array_equal(one.library_B, other.library_B)
    for draw in (one, other):
        share_B = np.asarray(draw.library_B / view.library_B)
        assert (share_B < 1).all()
        assert (share_B > 0.35).all()
        assert share_B.std() > 0.05
        assert 0.1 < 1 - draw.mask_BL.sum() / view.mask_BL.sum() < 0.5
        assert all(mine <= whole for mine, whole in zip(tokens_of(draw), tokens_of(view), strict=True))
    again = two_draws(config, view, "rna", None, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, (one, other), again)


def test_draws_of_families_share_no_gene_and_no_family(view):
    config = AlignmentConfig(augment_weight=1.0, drop_rate=0.0, keep_least=1.0)
    one, other = two_draws(config, view, "rna", FAMILY_G, jax.random.key(2))
    for mine, theirs, whole in zip(*map(tokens_of, (one, other, view)), strict=True):
        assert mine | theirs == whole
        families = [{int(FAMILY_G[gene]) for gene in genes if FAMILY_G[gene] >= 0} for genes in (mine, theirs)]
        assert not families[0] & families[1]


@pytest.mark.parametrize("families", [None, FAMILY_G])
def test_draws_are_brought_together(view, families):
    """Descent on the contrast alone makes the draws of a cell find each other."""
    config = AlignmentConfig(augment_weight=2.0, keep_least=0.3, drop_rate=0.5)
    kinship = Kinship(families)
    grad = jax.jit(jax.grad(lambda table, seed: loss_of(config, view, table, kinship, seed)[0]))
    table_GE = TABLE_GE
    for seed in range(60):
        table_GE -= 0.3 * grad(table_GE, seed)
    (before, told), (after, _) = (loss_of(config, view, table, kinship, 1_000) for table in (TABLE_GE, table_GE))
    assert before == pytest.approx(2 * float(told["rna/augment_loss"]), rel=1e-6)
    assert float(told["rna/augment_queries"]) == 16
    assert after < 0.7 * before


def test_labels_near_each_other_are_positives_by_how_near_they_are(view):
    """Nearness 0 changes nothing; with it a cell is pulled to those of near labels, and to no others."""
    plain, near = (
        AlignmentConfig(augment_weight=1.0, ontology=o, ontology_weight=w) for o, w in ((None, 0.0), ("o", 2.0))
    )
    none_YY = jnp.eye(3)
    near_YY = none_YY.at[0, 1].set(0.5).at[1, 0].set(0.5)
    same, pulled = (loss_of(near, view, kinship=Kinship(None, some))[0] for some in (none_YY, near_YY))
    assert same == pytest.approx(float(loss_of(plain, view)[0]), rel=1e-6)
    assert abs(pulled - same) > 1e-3
    slope = jax.grad(lambda table: loss_of(near, view, table, Kinship(None, near_YY))[0])(TABLE_GE)
    assert np.isfinite(slope).all()
    moved = loss_of(near, view, TABLE_GE - 1e-3 * slope, Kinship(None, near_YY))[0]
    assert moved < pulled


@pytest.mark.parametrize(("name", "measure"), [("mmd", mmd), ("hsic", group_hsic), ("adversary", adversary)])
def test_batches_are_compared_by_the_measure_that_is_named(view, name, measure):
    view = view._replace(label_B=None, batch_B=jnp.arange(8, dtype=jnp.int32) % 2)
    embedding_BE = seer(TABLE_GE)(view, None, "rna").embedding_BE
    embedding_BE += 3 * embedding_BE.std() * view.batch_B[:, None]
    seen = {"rna": Outputs(embedding_BE, embedding_BE, embedding_BE[..., None], None)}
    config = AlignmentConfig(batch_weight=2.0, batch_by=name)
    loss, told = align(config, CellBatch(rna=view), seen, None, Kinship(), WIDTH, None, jax.random.key(0), None)
    assert float(told[f"rna/batch_{name}"]) == pytest.approx(float(measure(embedding_BE, view.batch_B)), rel=1e-4)
    assert float(loss) == pytest.approx(2 * float(told[f"rna/batch_{name}"]), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_by": "advesary"}, "give one of mmd, hsic, adversary.*adversary"),
        ({"families": "symbols"}, "set it above 0"),
        ({"ontology": "cl.obo"}, "belong together"),
        ({"ontology_weight": 1.0}, "belong together"),
        ({"augment_weight": 1.0, "keep_least": 0.0}, "keep_least=0.0"),
        ({"augment_weight": 1.0, "drop_rate": 1.0}, "drop_rate=1.0"),
        ({"augment_weight": -1.0}, "augment_weight"),
    ],
)
def test_what_does_not_go_together_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        AlignmentConfig(**values)


def test_an_ontology_needs_labels():
    with pytest.raises(InputError, match=r"set data\.label_key"):
        AlignmentConfig(ontology="cl.obo", ontology_weight=1.0).check_keys(None, None)
