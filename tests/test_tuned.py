"""A run that labels tune, from end to end: what held-out cells are called enters no step, stopped is not stopped, and its best
step is a model as any other."""

from pathlib import Path

import anndata as ad
import jax
import numpy as np
import pytest
from runs import asked_to_stop_after, lines_told

from mofm.batches.stream import Stream
from mofm.cli import main
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.export.parts import read_parts
from mofm.parallel.mesh import make_mesh
from mofm.training.checkpoint import Checkpoints
from mofm.training.optimizer import make_optimizer
from mofm.training.origin import finetune_config
from mofm.training.state import abstract_state
from mofm.training.tuning import TuningSpec, load_heads

pytestmark = pytest.mark.slow

FINETUNE = Path(__file__).parent.parent / "configs" / "finetune.py"


def words_of(trained_model, corpus, place, tune, *more):
    words = ["--config", str(FINETUNE), f"--config.data.corpus={corpus}", "--config.data.holdout_fraction=0.4"]
    words += [
        "--config.data.batch_size=16",
        "--config.run.eval_cells=8",
        "--config.run.steps=6",
        "--config.run.eval_every=2",
    ]
    words += [
        "--config.run.checkpoint_every=2",
        "--config.optimizer.warmup_steps=1",
        "--config.optimizer.learning_rate=1e-2",
    ]
    words += ["--task", "annotation:cell_type", "--tune", tune, "--config.run.log_every=1", "--quiet", *more]
    return ["finetune", str(trained_model.workdir), *words, "--workdir", str(place)]


@pytest.fixture(scope="module")
def tuned(trained, make_cells, tmp_path_factory):
    """(corpus, run) of a small model, tuned by adapters on cells of which some have no label."""
    folder = tmp_path_factory.mktemp("tuned")
    cells = make_cells(96, seed=3)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc[cells.obs_names[::5], "cell_type"] = None
    cells.write_h5ad(folder / "cells.h5ad")
    ingest([folder / "cells.h5ad"], folder / "corpus")
    assert main(words_of(trained, folder / "corpus", folder / "run", "lora")) == 0
    return folder / "corpus", folder / "run"


def test_stopped_and_with_other_labels_of_held_out_cells_it_ends_with_the_same_bits(tuned, trained, tmp_path):
    """What held-out cells are called enters neither the heads that it begins from nor any step, but the scores alone."""
    corpus, run_of = tuned
    cells, config = ad.read_h5ad(corpus.parent / "cells.h5ad"), read_parts(run_of).config
    heldout = Stream(open_corpus(corpus), config.data, config.seed).heldout_cells()
    labels = cells.obs["cell_type"].astype(object).to_numpy().copy()
    labels[heldout] = np.random.default_rng(0).choice(["a", "b"], len(heldout))
    cells.obs["cell_type"] = labels
    cells.write_h5ad(tmp_path / "cells.h5ad")
    ingest([tmp_path / "cells.h5ad"], tmp_path / "corpus")
    words = words_of(trained, tmp_path / "corpus", tmp_path / "run", "lora", "--stopped-code", "7")
    with asked_to_stop_after(3):
        assert main(words) == 7
    assert main([*words, "--config.adapters.rank=3"]) == 2
    assert main(words) == 0
    ours, theirs = (tuned_state(place) for place in (run_of, tmp_path / "run"))
    assert int(ours.step) == int(theirs.step) == 6
    assert ours.tuning.adapters
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    heads = [load_heads(place)["rna"] for place in (run_of, tmp_path / "run")]
    assert heads[0].names == heads[1].names == ("a", "b")
    np.testing.assert_array_equal(heads[0].weight_EC, heads[1].weight_EC)
    scores = [
        {row["heldout/label_nll"] for row in lines_told(place) if "heldout/label_nll" in row}
        for place in (run_of, tmp_path / "run")
    ]
    assert len(scores[0]) == 4
    assert not scores[0] & scores[1]


def test_the_best_step_is_that_of_held_out_labels_and_it_is_a_model_as_any_other(tuned, trained):
    corpus, run_of = tuned
    rows = [row for row in lines_told(run_of) if "heldout/label_nll" in row]
    scores = {row["step"]: row["heldout/label_nll"] for row in rows}
    assert list(scores) == [0, 2, 4, 6]
    assert rows[0]["heldout/label_nll"] == rows[0]["heldout/rna/label_nll"]
    parts = read_parts(run_of)
    assert parts.step == min(scores, key=lambda step: (scores[step], step))
    assert jax.tree.structure(parts.params) == jax.tree.structure(read_parts(trained.workdir).params)
    assert parts.heads.step == parts.step
    # What is tuned was a task of that run, and is none of the next.
    further = finetune_config({"data": {"corpus": str(corpus)}}, [], parts.origin())
    assert (further.objectives.supervised_weight, further.adapters.rank, further.data.label_key) == (0.0, 0, None)


def tuned_state(folder):
    """The newest state of a tuned run, on the host."""
    config = read_parts(folder).config
    tuned = TuningSpec(
        config.adapters.rank, tuple((name, len(head.names)) for name, head in load_heads(folder).items())
    )
    optimizer = make_optimizer(config.optimizer, config.run.steps)
    abstract = abstract_state(read_parts(folder).spec, optimizer, make_mesh(config.mesh), tuned)
    checkpoints = Checkpoints(folder / "checkpoints")
    state = jax.device_get(checkpoints.restore(checkpoints.latest, abstract))
    checkpoints.close()
    return state
