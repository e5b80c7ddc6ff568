"""Families and ontologies of a run: read by its genes and labels, refused where they tell nothing, and in its program."""

import jax
import numpy as np
import pytest

from mofm.errors import InputError
from mofm.training.config import build_config
from mofm.training.loop import train
from mofm.training.prepare import prepare

OBO = """format-version: 1.2

[Term]
id: X:1
name: a

[Term]
id: X:2
name: b
is_a: X:1 ! a
"""


@pytest.fixture
def config(trained, tmp_path):
    """A function (overrides...) -> Config of the tiny model, with an ontology of its labels and families of its genes."""
    (tmp_path / "types.obo").write_text(OBO)

    def make(*overrides):
        values = trained.config.to_dict()
        values["data"]["label_key"] = "cell_type"
        values["objectives"]["alignment"] |= {
            **{"augment_weight": 1.0, "families": "symbols"},
            **{"ontology": str(tmp_path / "types.obo"), "ontology_weight": 1.0},
        }
        return build_config(values, list(overrides))

    return make


def test_they_are_read_by_the_genes_and_the_labels_of_the_run(config, tmp_path):
    prepared = prepare(config("mesh.data=1", "mesh.fsdp=-1"), tmp_path / "run", None)
    kinship = jax.device_get(prepared.known.kinship)
    np.testing.assert_array_equal(kinship.affinity_YY, [[1, 0.5], [0.5, 1]])
    assert kinship.family_G.shape == (300,)
    assert kinship.family_G.max() >= 0
    assert any("families by their symbols" in note for note in prepared.notes)
    assert any("types.obo: 2 of 2 labels are terms" in note for note in prepared.notes)


@pytest.mark.slow
def test_a_run_learns_by_them(config, tmp_path):
    """Also its evaluation; and it is another run than one without."""
    made = config("run.steps=2", "run.eval_every=2")
    assert train(made, tmp_path / "run", quiet=True) == 2
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert rows.count('rna/augment_matched"') >= 3
    with pytest.raises(InputError, match="augment_weight"):
        train(config("run.steps=2", "objectives.alignment.augment_weight=0.5"), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objectives.alignment.families=nowhere.tsv", "nowhere.tsv"),
        ("objectives.alignment.ontology=nowhere.obo", "nowhere.obo: no such file"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_is_written(config, tmp_path, override, words):
    with pytest.raises(InputError, match=words):
        prepare(config(override), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
