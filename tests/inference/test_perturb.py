"""TFs knocked out and overexpressed: what follows goes the way of the edges, and nothing else than the TF is touched."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from mofm.cli import main
from mofm.errors import InputError
from mofm.inference.model import RNA, Options
from mofm.inference.perturb import EVERY_CELL, Change, perturb, with_counts


@pytest.fixture(scope="module")
def tf(regulated_model) -> int:
    """The row of the TF with most edges in training."""
    edges = regulated_model.network.edges
    return int(edges[edges["split"] == "train"]["tf"].value_counts().sort_index().idxmax())


@pytest.fixture(scope="module")
def name(regulated_model, tf) -> str:
    return regulated_model.genes["symbol"].iloc[tf]


@pytest.fixture(scope="module")
def knocked_out(regulated, regulated_model, name):
    return perturb(regulated_model, regulated.source, [Change(name)], "group", quiet=True)


def told(model, tf) -> dict[str, int]:
    edges = model.network.edges
    edges = edges[(edges["tf"] == tf) & (edges["split"] == "train")]
    return dict(zip(model.genes["symbol"].to_numpy()[edges["target"]], edges["sign"], strict=True))


def test_targets_follow(regulated_model, knocked_out, tf):
    """Activated ones go down, repressed ones up, and they are before all others."""
    signs = told(regulated_model, tf)
    for _, part in knocked_out.genes.groupby("group"):
        shift = part.set_index("gene")["network"]
        for gene, sign in signs.items():
            assert np.sign(shift[gene]) == -sign
        assert len(set(part["gene"].head(len(signs))) & set(signs)) > 0.8 * len(signs)


def test_overexpression_is_the_other_way(regulated, regulated_model, knocked_out, name, tf):
    more = perturb(regulated_model, regulated.source, [Change(name, 10)], "group", quiet=True)
    signs = told(regulated_model, tf)
    for group, part in more.genes.groupby("group"):
        shift = part.set_index("gene")["network"]
        assert all(np.sign(shift[gene]) == sign for gene, sign in signs.items()), group
    assert more.shift_N.mean() > 0


def test_shapes_and_keys(regulated_model, knocked_out, tf):
    genes = knocked_out.genes
    assert len(genes) == 4 * len(regulated_model.genes)
    assert np.isfinite(genes[["network", "model", "confidence"]]).all(axis=None)
    assert set(genes["known"]) == {"training", "held out", ""}
    known = genes[genes["known"] == "training"]
    assert set(known["gene"]) == set(told(regulated_model, tf))
    for _, part in genes.groupby("group"):
        assert (np.diff(part["network"].abs()) <= 0).all()
    groups = knocked_out.groups
    assert groups["group"].tolist() == ["type_1", "type_2", "type_3", "type_4"]
    assert groups["cosine"].between(-1.001, 1.001).all()
    assert (groups["toward"] != groups["group"]).all()
    assert knocked_out.shift_N.shape == (400,)


def test_a_cell_that_has_more_of_it_is_moved_further(regulated, regulated_model, tf):
    """By the counts alone: the graph is the same for all cells, so it is left as it is."""
    name = regulated_model.genes["symbol"].iloc[tf]
    mild, strong = (perturb(regulated_model, regulated.source, [Change(name, fold)], quiet=True) for fold in (2, 50))
    assert strong.shift_N.mean() > 2 * mild.shift_N.mean()
    assert mild.groups["group"].tolist() == [EVERY_CELL]
    np.testing.assert_array_equal(mild.embedding.embedding_NE, strong.embedding.embedding_NE)


def test_batch_size_changes_nothing(regulated, regulated_model, knocked_out, name):
    other = perturb(regulated_model, regulated.source, [Change(name)], "group", batch_size=41, quiet=True)
    np.testing.assert_allclose(other.changed_NE, knocked_out.changed_NE, atol=1e-4)
    other = other.genes.sort_values(["group", "gene"])
    np.testing.assert_allclose(other["model"], knocked_out.genes.sort_values(["group", "gene"])["model"], atol=1e-4)


def test_only_the_tokens_of_the_gene_are_touched(regulated, regulated_model, tf):
    with regulated_model.opened(regulated.source, RNA, Options(quiet=True)) as matched:
        _, view = next(regulated_model.views(*matched[0], Options(quiet=True)))
    counts_BK = np.arange(64, dtype=np.float32)[:, None]
    changed = with_counts(view, np.array([tf]), counts_BK)
    length = view.mask_BL.shape[1]
    others_BL = ~((view.features_BL == tf) & view.mask_BL)
    for old, new in zip(view[:4], changed[:4], strict=True):
        np.testing.assert_array_equal(new[:, :length][others_BL], old[others_BL])
    is_it_BL = (changed.features_BL == tf) & changed.mask_BL
    np.testing.assert_array_equal(is_it_BL.sum(axis=1), 1)
    np.testing.assert_array_equal((changed.counts_BL * is_it_BL).sum(axis=1), counts_BK[:, 0])
    value_B = np.log1p(counts_BK[:, 0] / view.library_B * 1e4)
    np.testing.assert_allclose((changed.values_BL * is_it_BL).sum(axis=1), value_B, rtol=1e-5)


def test_names_that_are_no_tfs(regulated, regulated_model, name):
    target = next(gene for gene in regulated_model.genes["symbol"] if gene not in set(tf_names(regulated_model)))
    for wrong in (target, name + "X"):
        with pytest.raises(InputError, match=rf"'{wrong}' is none of the \d+ TFs.*Did you mean 'SIMG"):
            perturb(regulated_model, regulated.source, [Change(wrong)], quiet=True)
    with pytest.raises(InputError, match="each once"):
        perturb(regulated_model, regulated.source, [Change(name), Change(name.lower(), 5)], quiet=True)
    with pytest.raises(InputError, match="above 1"):
        Change(name, 0.5)


def tf_names(model) -> list[str]:
    return model.genes["symbol"].iloc[model.network.edges["tf"].unique()].tolist()


def test_through_the_command_line(regulated, knocked_out, name, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["perturb", regulated.workdir, regulated.source, out, "--knock-out", name, "--groupby", "group"]
    words = [str(word) for word in words]
    assert main(words) == 0
    assert "type_1" in capsys.readouterr().out
    genes = pd.read_parquet(out / "genes.parquet")
    np.testing.assert_array_equal(genes["network"], knocked_out.genes["network"])
    written = ad.read_h5ad(out / "cells.h5ad")
    np.testing.assert_array_equal(written.obs["mofm_shift"], knocked_out.shift_N)
    np.testing.assert_array_equal(written.obsm["X_mofm_perturbed"], knocked_out.changed_NE)
    assert pd.read_table(out / "groups.tsv")["group"].tolist() == knocked_out.groups["group"].tolist()
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words[:4], "--overwrite"]) == 2
    assert "--knock-out or --overexpress" in capsys.readouterr().err
    assert main([*words[:4], "--overwrite", "--overexpress", f"{name}=lots"]) == 2
    assert "FOLD a number above 1" in capsys.readouterr().err
