"""The joint embedding of a file's cells: each cell's own, whatever the order of cells and tables, told of all of its views."""

from dataclasses import replace
from functools import partial

import anndata as ad
import jax
import jax.numpy as jnp
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mofm.inference.api import Model
from mofm.inference.joint import Joint, evenly, mean_of_views
from mofm.inference.model import Embedding, gene_states, load
from mofm.inference.output import rows_of_cells, write_embedding
from mofm.nn import model
from mofm.nn.fusion import FusionConfig
from mofm.omics.rows import CountRows

TOLERANCE = 1e-5
PRIVATE = 2


@pytest.fixture(scope="module")
def fusing(trained):
    """The tiny trained model's genes, and parameters drawn for a model that fuses RNA and proteins."""
    known = load(trained.workdir)
    encoder = replace(known.spec.encoder, private_width=PRIVATE)
    spec = known.spec._replace(encoder=encoder, modalities=("rna", "adt"), fusion=FusionConfig(1))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(model.init, spec), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes)
    return replace(known, spec=spec, params=params, states=gene_states(spec, params, None))


@pytest.fixture(scope="module")
def both(make_cells):
    """30 cells of RNA, and proteins of ten of them and of five others, in another order."""
    rna = make_cells(cells=30, seed=7)
    rng = np.random.default_rng(3)
    names = [*rna.obs_names[[20, 3, 11, 29, 0, 7, 8, 9, 15, 16]], *(f"other{i}" for i in range(5))]
    order = rng.permutation(15)
    protein = ad.AnnData(sparse.csr_matrix(rng.poisson(5.0, (15, 3)).astype(np.float32)), pd.DataFrame(index=names))
    protein.var_names = rna.var_names[[4, 8, 15]].tolist()
    return mudata.MuData({"rna": rna[:, :200].copy(), "adt": protein[order].copy()})


def joint_of(fusing, both, **options):
    found = fusing.embed_cells(both, quiet=True, **options)
    return found, pd.DataFrame(found.joint.embedding_NE, found.joint.cells)


def test_cells_of_both_views_are_fused_and_others_are_their_view_s(fusing, both):
    found, joint = joint_of(fusing, both)
    shared = fusing.spec.shared_width
    assert joint.shape == (35, shared)
    assert found.joint.fused == 10
    views = {name: pd.DataFrame(one.embedding_NE[:, :shared], one.cells) for name, one in found.views.items()}
    twice = views["rna"].index.intersection(views["adt"].index)
    for one in views.values():
        alone = one.index.difference(twice)
        np.testing.assert_array_equal(joint.loc[alone], one.loc[alone])
    mean = (views["rna"].loc[twice] + views["adt"].loc[twice]) / 2
    assert np.abs(joint.loc[twice] - mean).min(axis=1).max() > 100 * TOLERANCE
    changed = both.copy()
    changed["adt"].X = (
        changed["adt"].X.toarray() + 40 * (np.arange(15) == list(changed["adt"].obs_names).index("cell3"))[:, None]
    )
    moved = (joint_of(fusing, changed)[1] - joint).abs().max(axis=1)
    assert list(moved.index[moved > 100 * TOLERANCE]) == ["cell3"]


@pytest.mark.slow
def test_order_and_batch_size_change_nothing(fusing, both):
    _, joint = joint_of(fusing, both)
    turned = mudata.MuData({"rna": both["rna"][::-1].copy(), "adt": both["adt"][::-1].copy()})
    for other, options in ((turned, {}), (both, {"batch_size": 3})):
        found = joint_of(fusing, other, **options)[1].loc[joint.index]
        np.testing.assert_allclose(found, joint, atol=TOLERANCE)


def test_what_is_written_is_the_joint_embedding_and_each_view_s(fusing, both, tmp_path):
    found, joint = joint_of(fusing, both)
    both.write(tmp_path / "in.h5mu")
    write_embedding(tmp_path / "in.h5mu", tmp_path / "out.h5mu", found)
    written, held = mudata.read_h5mu(tmp_path / "out.h5mu"), both.copy()
    Model(fusing).embed(held, progress=False)
    for some in (written, held):
        np.testing.assert_array_equal(some.obsm["X_mofm"], joint.loc[some.obs_names])
        assert some.obsm["X_mofm_adt"].shape == (35, 8)
        lacks = ~some.obs_names.isin(both["adt"].obs_names)
        np.testing.assert_array_equal(np.isnan(some.obsm["X_mofm_adt"]).all(axis=1), lacks)
        assert {name: int(value) for name, value in some.uns["mofm"]["joint"].items()} == {
            "fused_cells": 10,
            "columns": 6,
        }
        assert set(some.uns["mofm"]) == {"rna", "adt", "joint"}
    assert "fuses" in repr(Model(fusing))


def test_without_fusion_it_is_the_mean_of_what_there_is():
    cells = pd.Index(["a", "b", "c"])
    one = Embedding("rna", cells[:2], np.array([[1, 2], [3, 4]], np.float32), {})
    other = Embedding("adt", cells[[2, 1]], np.array([[5, 6], [7, 8]], np.float32), {})
    joint = mean_of_views({"rna": one, "adt": other})
    found = rows_of_cells(joint.embedding_NE, joint.cells, pd.Index(["c", "x", "b", "a"]))
    np.testing.assert_array_equal(found, [[5, 6], [np.nan] * 2, [5, 6], [1, 2]])
    first = mean_of_views({"rna": one, "adt": other}, 1)
    np.testing.assert_array_equal(rows_of_cells(first.embedding_NE, first.cells, cells), [[1], [5], [5]])
    assert joint.fused is None
    assert isinstance(joint, Joint)


@pytest.mark.parametrize("cells", [1, 3, 4, 100])
def test_blocks_are_cut_evenly(cells):
    dense = np.random.default_rng(0).poisson(1.0, (11, 5))
    whole = sparse.csr_matrix(dense)
    blocks = []
    for part in (whole[:2], whole[2:3], whole[3:10], whole[10:]):
        blocks.append(CountRows(part.indptr.astype(np.int64), part.indices, part.data))
    found = list(evenly(blocks, cells))
    assert [rows.n_cells for rows in found[:-1]] == [cells] * (len(found) - 1)
    joined = np.vstack(
        [
            sparse.csr_matrix((rows.data, rows.indices, rows.indptr_N), shape=(rows.n_cells, 5)).toarray()
            for rows in found
        ]
    )
    np.testing.assert_array_equal(joined, dense)
