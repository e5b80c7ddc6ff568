"""What a treatment did to groups of a corpus is kept with the model and told of cells that nobody treated: by the command line,
Python and the bundle alike; it is what the groups' own cells say, and what cannot be learned or told is refused at once."""

import json
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from conditions import treat

import mofm
from mofm.cli import main
from mofm.corpus.ingest import ingest
from mofm.errors import InputError
from mofm.evaluation.baselines import log_normalised
from mofm.export.responses import FILE, load_responses
from mofm.inference.model import load
from mofm.inference.response import Recipe, weigh

FINETUNE = Path(__file__).parent.parent.parent / "configs" / "finetune.py"
TASK = ("--task", "perturbation:condition", "--control", "none", "--groups", "group")


class Kept(NamedTuple):
    """The treated cells, a file of new untreated ones, their corpus, the run that knows the response, and a bundle of it."""

    cells: ad.AnnData
    new: Path
    corpus: Path
    workdir: Path
    bundle: Path


def words(trained, corpus, workdir) -> list[str]:
    """The command that fits, but for its task."""
    given = ["--config", FINETUNE, f"--config.data.corpus={corpus}", "--workdir", workdir, "--tune", "probe", "--quiet"]
    return [str(word) for word in ["finetune", trained.workdir, *given]]


@pytest.fixture(scope="module")
def kept(trained, make_cells, tmp_path_factory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    cells = treat(make_cells(560, seed=3))
    cells.write_h5ad(folder / "treated.h5ad")
    make_cells(50, seed=7).write_h5ad(folder / "new.h5ad")
    ingest([folder / "treated.h5ad"], folder / "corpus")
    assert main([*words(trained, folder / "corpus", folder / "run"), *TASK]) == 0
    assert main(["export", str(folder / "run"), str(folder / "bundle")]) == 0
    return Kept(cells, folder / "new.h5ad", folder / "corpus", folder / "run", folder / "bundle")


def test_a_head_holds_what_the_cells_of_each_group_say(kept):
    head = load_responses(kept.workdir)
    assert (head.condition_key, head.control, head.groups_key) == ("condition", "none", "group")
    assert list(head.of) == ["drug"]
    known = head.of["drug"]
    assert known.groups == ("a0", "a1", "b0", "b1")  # few have too few cells
    model, values_NG = load(kept.workdir), log_normalised(kept.cells.X).toarray()
    columns = pd.Index(kept.cells.var["gene_ids"]).get_indexer(model.genes["id"].iloc[head.genes])
    group, condition = (kept.cells.obs[key].to_numpy(str) for key in ("group", "condition"))
    embedding_NE = model.embed(kept.cells, quiet=True).embedding_NE
    for place, name in enumerate(known.groups):
        treated, control = ((group == name) & (condition == one) for one in ("drug", "none"))
        change_G = values_NG[treated].mean(axis=0) - values_NG[control].mean(axis=0)
        np.testing.assert_allclose(known.change_KG[place], change_G[columns], atol=1e-5)
        np.testing.assert_allclose(known.centre_KE[place], embedding_NE[control].mean(axis=0), atol=1e-4)
        move_E = embedding_NE[treated].mean(axis=0) - embedding_NE[control].mean(axis=0)
        np.testing.assert_allclose(known.move_KE[place], move_E, atol=1e-4)
    assert [row["group"] for row in known.held_out] == list(known.groups)
    assert all(0 < row["pearson"] <= 1 for row in known.held_out)


@pytest.fixture(scope="module")
def told(kept):
    model = mofm.load(kept.workdir)
    return model.respond(ad.read_h5ad(kept.new), "drug", groupby="cell_type", progress=False)


def test_cells_are_moved_as_the_groups_were_by_their_weights(kept, told):
    known, new = load_responses(kept.workdir).of["drug"], ad.read_h5ad(kept.new)
    np.testing.assert_allclose(told.X, log_normalised(new[:, told.var_names].X).toarray(), atol=1e-4)
    weight_NK = weigh(told.obsm["X_mofm"], known.centre_KE, Recipe(known.how, known.strength))
    np.testing.assert_allclose(told.layers["response"], np.maximum(told.X + weight_NK @ known.change_KG, 0), atol=1e-4)
    move_NE = told.obsm["X_mofm_response"] - told.obsm["X_mofm"]
    np.testing.assert_allclose(move_NE, weight_NK @ known.move_KE, atol=1e-4)
    raised = (told.layers["response"] - told.X).mean(axis=0)
    assert set(np.argsort(-raised)[:6]) <= set(range(18))
    assert list(told.uns["mofm_response"]["groups"]["group"]) == ["a", "b"]


def test_the_command_line_and_a_bundle_say_the_same(kept, told, tmp_path, capsys):
    for number, place in enumerate((kept.workdir, kept.bundle)):
        out = tmp_path / str(number)
        assert main(["perturb", *map(str, (place, kept.new, out)), "--response", "drug", "--groupby", "cell_type"]) == 0
        assert "held-out groups of training: Pearson of the change" in capsys.readouterr().out
        written = ad.read_h5ad(out / "cells.h5ad")
        np.testing.assert_array_equal(written.layers["response"], told.layers["response"])
        np.testing.assert_array_equal(written.obsm["X_mofm_response"], told.obsm["X_mofm_response"])
        assert set(written.uns["mofm_response"]["held_out"]["group"]) == {"a0", "a1", "b0", "b1"}
        genes = pd.read_parquet(out / "genes.parquet")
        assert len(genes) == 2 * told.n_vars
        change = (told.layers["response"] - told.X)[(told.obs["cell_type"] == "a").to_numpy()].mean(axis=0)
        mine = genes[genes["group"] == "a"].set_index("gene")["change"]
        np.testing.assert_allclose(mine[told.var_names], change, atol=1e-5)
        assert set(pd.read_csv(out / "groups.tsv", sep="\t")["likest"]) <= {"a0", "a1", "b0", "b1"}
    assert "## Responses" in (kept.bundle / "README.md").read_text()


def test_written_in_blocks_it_is_the_same(kept, told, tmp_path):
    model = mofm.load(kept.workdir)
    written = model.respond(
        ad.read_h5ad(kept.new), "drug", groupby="cell_type", output=tmp_path / "told.h5ad", progress=False
    )
    assert written.isbacked
    np.testing.assert_array_equal(written.to_memory().layers["response"], told.layers["response"])


UNLEARNED = {
    "no control": (["--groups", "group"], "--control"),
    "no groups": (["--control", "none"], "--groups"),
    "no such control": (["--control", "nome", "--groups", "group"], "Did you mean 'none'?"),
    "no such column": (["--control", "none", "--groups", "grop"], "Did you mean 'group'?"),
    "groups of one condition": (["--control", "none", "--groups", "alone"], "two groups with 30 control"),
    "labels that move the encoder": (
        ["--control", "none", "--groups", "group", "--tune", "full"],
        "do not move the encoder",
    ),
}


@pytest.mark.parametrize("case", UNLEARNED)
def test_what_cannot_be_learned_is_refused_before_anything_is_trained(trained, kept, tmp_path, capsys, case):
    given, said = UNLEARNED[case]
    assert main([*words(trained, kept.corpus, tmp_path / "run"), *TASK[:2], *given]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_belongs_to_another_task_is_refused(trained, kept, tmp_path, capsys):
    given = ["--task", "annotation:cell_type", "--control", "none"]
    assert main([*words(trained, kept.corpus, tmp_path / "run"), *given]) == 2
    assert "belongs to --task perturbation" in capsys.readouterr().err


def test_what_cannot_be_told_is_refused(trained, kept, tmp_path, capsys):
    cells = ad.read_h5ad(kept.new)
    with pytest.raises(InputError, match="fit one with"):
        mofm.load(trained.workdir).respond(cells, "drug")
    model = mofm.load(kept.workdir)
    with pytest.raises(InputError, match="Did you mean 'drug'"):
        model.respond(cells, "drag")
    cells.X = log_normalised(cells.X)
    with pytest.raises(InputError, match="counts"):
        model.respond(cells, "drug", progress=False)
    command = [
        "perturb",
        *map(str, (kept.workdir, kept.new, tmp_path / "out")),
        "--response",
        "drug",
        "--knock-out",
        "A",
    ]
    assert main(command) == 2
    assert "goes without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_head_is_named(kept, tmp_path):
    for name in (FILE, "response.safetensors"):
        (tmp_path / name).write_bytes((kept.workdir / name).read_bytes())
    record = json.loads((tmp_path / FILE).read_text())
    record["treatments"][0]["groups"].append("more")
    (tmp_path / FILE).write_text(json.dumps(record))
    with pytest.raises(InputError, match="damaged"):
        load_responses(tmp_path)
    record["version"] = 99
    (tmp_path / FILE).write_text(json.dumps(record))
    with pytest.raises(InputError, match="version 99"):
        load_responses(tmp_path)
