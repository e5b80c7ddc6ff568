"""An evaluation's batches together: a mean is over what was counted, and padding counts nothing."""

import numpy as np
import pytest

from mofm.objectives.alignment import AlignmentConfig
from mofm.objectives.total import ObjectivesConfig, loss_weights
from mofm.training.heldout import pooled

CONFIG = ObjectivesConfig(token_weight=2.0, cell_weight=0.5, pool_weight=0.1)


def masked(modality: str, hidden: int, token: float, cell: float = 0.0) -> dict[str, np.ndarray]:
    parts = {
        "token_nll": token,
        "cell_nll": cell,
        "pool_size": 0.0,
        "null_nll": 3.0 if hidden else 0.0,
        "hidden": hidden,
    }
    return {f"{modality}/{name}": np.float32(value) for name, value in parts.items()}


def test_each_modality_weighs_by_its_own_tokens_and_padding_not_at_all():
    rows = [
        {"loss": np.float32(9)} | masked("rna", 100, 1.0, 4.0) | masked("adt", 10, 5.0),
        {"loss": np.float32(9)} | masked("rna", 300, 2.0, 8.0) | masked("adt", 0, 0.0),
    ]
    means = pooled(CONFIG, rows)
    assert means["rna/token_nll"] == 1.75
    assert means["rna/cell_nll"] == 7.0
    assert means["adt/token_nll"] == 5.0  # by all tokens together it would be 1.34
    assert means["adt/null_nll"] == 3.0
    assert means["loss"] == pytest.approx(2.0 * (1.75 + 5.0) + 0.5 * 7.0)
    assert "rna/hidden" not in means


def test_translations_weigh_by_their_pairs_which_are_summed():
    def row(pairs, nll, came_back, drift):
        parts = {"token_nll": nll, "cell_nll": 0.0, "pairs": pairs, "drift": drift, "came_back": came_back}
        parts |= {"back_token_nll": 1.0, "back_cell_nll": 1.0}
        return masked("rna", 50, 1.0) | {f"rna_to_adt/{name}": np.float32(value) for name, value in parts.items()}

    means = pooled(CONFIG, [row(2, 6.0, 1, 0.5), row(6, 2.0, 3, 0.1), row(0, 0.0, 0, 0.0)])
    assert means["rna_to_adt/token_nll"] == pytest.approx(3.0)
    assert means["rna_to_adt/pairs"] == 8
    assert means["rna_to_adt/drift"] == pytest.approx(0.2)


def test_what_counts_nothing_is_not_told():
    rows = [
        masked("rna", 10, 1.0) | masked("adt", 0, 0.0) | {"adt/labelled": np.int32(0), "adt/label_nll": np.float32(0)}
    ]
    means = pooled(CONFIG, rows)
    assert not [name for name in means if name.startswith("adt") or name == "label_nll"]
    assert means["loss"] == pytest.approx(2.0)


def test_labels_are_of_labelled_cells_and_modalities_alike():
    def row(rna, adt):
        told = {"rna/labelled": rna[0], "rna/label_nll": rna[1], "adt/labelled": adt[0], "adt/label_nll": adt[1]}
        return masked("rna", 10, 1.0) | masked("adt", 10, 1.0) | {name: np.float32(x) for name, x in told.items()}

    means = pooled(CONFIG, [row((1, 4.0), (2, 1.0)), row((3, 0.0), (0, 0.0))])
    assert (means["rna/label_nll"], means["adt/label_nll"], means["label_nll"]) == (1.0, 1.0, 1.0)


def test_pairs_and_views_share_the_weight_of_their_part():
    config = ObjectivesConfig(alignment=AlignmentConfig(contrast_weight=3.0, depth_weight=4.0))
    views = ("rna", "adt", "atac")
    names = [f"{view}/{part}" for view in views for part in ("token_nll", "depth_hsic")]
    names += [f"{pair}/contrast_{part}" for pair in ("rna+adt", "rna+atac", "adt+atac") for part in ("loss", "matched")]
    weights = loss_weights(config, names)
    assert weights["rna+adt/contrast_loss"] == pytest.approx(1.0)
    assert weights["atac/depth_hsic"] == pytest.approx(4 / 3)
    assert "rna+adt/contrast_matched" not in weights
