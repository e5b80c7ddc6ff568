"""A run with a regulatory network: what is held out stays out, and it resumes, scales and loads as one without."""

import json
import shutil
from dataclasses import replace
from functools import partial

import anndata as ad
import jax
import numpy as np
import pandas as pd
import pytest
from networks import pairs_of, some_edges
from runs import asked_to_stop_after, final_state, lines_told

from mofm.batch import NO_EDGE, REGULATES
from mofm.batches.graph import make_graph
from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.inference.model import load
from mofm.nn.spec import ModelSpec
from mofm.objectives.total import ObjectivesConfig
from mofm.omics.genome import gene_table
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.place import place_batch, place_graph
from mofm.training import workdir
from mofm.training.fit_start import fit_start
from mofm.training.loop import train
from mofm.training.network import FILE, RunNetwork, load_network, read_network, save_network
from mofm.training.optimizer import make_optimizer
from mofm.training.state import create_state
from mofm.training.step import Knowledge, Recipe, train_step, training_loss

GENES = 50
LINKS = {"link_nll", "link_auroc", "link_sign_accuracy"}


def write_table(path, seed):
    """A network of the corpus's genes, which are known by names of their own."""
    edges = some_edges(seed, GENES, tfs=9, edges=220, relations=1)
    names = {end: [f"G{row}" for row in edges[end]] for end in ("tf", "target")}
    pd.DataFrame(names | {"sign": edges["sign"], "weight": edges["weight"]}).to_csv(path, sep="\t", index=False)
    return edges


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """Paths of two networks; the first by name comes last."""
    folder = tmp_path_factory.mktemp("networks")
    for seed, name in enumerate(("z.tsv", "a.tsv")):
        write_table(folder / name, seed)
    return [str(folder / name) for name in ("z.tsv", "a.tsv")]


@pytest.fixture(scope="session")
def netted(tiny, tables):
    """A function (overrides...) -> Config of `tiny` with both networks."""
    own = [f"network.tables={tables!r}", "grn.width=8", "grn.heads=2", "objectives.links_per_step=32"]
    return lambda *overrides: tiny(*own, "network.held_out_edges=0.1", *overrides)


def read(config, seed=0):
    corpus = open_corpus(config.data.corpus)
    genes = corpus_spaces(corpus)[0]
    return read_network(config.network, genes, gene_table("human"), seed), genes


@pytest.fixture(scope="module")
def unbroken(netted, tmp_path_factory):
    """(config, workdir) of a whole run. Leave its files as they are."""
    config, folder = netted(), tmp_path_factory.mktemp("run") / "unbroken"
    assert train(config, folder, quiet=True) == config.run.steps
    return config, folder


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("network.held_out_edges=1.0", r"network\.held_out_edges=1\.0: .* less than 1"),
        ("network.held_out_tfs=-0.1", r"network\.held_out_tfs=-0\.1"),
        ("network.edge_budget=0", r"network\.edge_budget=0: must be at least 1"),
        ("network.tables=net.tsv", "expected a list"),
        ("network.table=['net.tsv']", "Did you mean 'tables'"),
        ("grn.kind=gat", "must be one of convolution, attention"),
        ("grn.width=9", r"grn\.heads"),
        ("objectives.edge_dropout=1.0", r"objectives\.edge_dropout=1\.0"),
        ("objectives.links_per_step=0", r"objectives\.links_per_step=0"),
        ("objectives.link_weight=-1.0", r"objectives\.link_weight=-1\.0: must not be negative"),
        ("objectives.link_warmup_steps=-1", r"objectives\.link_warmup_steps=-1"),
    ],
)
def test_a_mistake_is_named(tiny, override, said):
    with pytest.raises(InputError, match=said):
        tiny(override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("grn.width=20", r"grn\.width=20 is more than encoder\.width=16"),
        ("network.edge_budget=10", r"network\.edge_budget=10: .* edges; raise it"),
        ("network.edge_budget=1001", r"set network\.edge_budget=1008"),
        ("network.tables=['nowhere.tsv']", "nowhere.tsv"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(netted, tmp_path, override, said):
    with pytest.raises(InputError, match=said):
        train(netted(override), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_no_tables_is_no_network(tiny):
    assert read(tiny())[0] is None


def test_a_network_comes_back_as_it_was_kept(netted, tmp_path):
    network, genes = read(netted("network.held_out_tfs=0.2"))
    assert set(network.edges["split"]) == {"train", "held_out_edge", "held_out_tf"}
    save_network(tmp_path, network, genes)
    back = load_network(tmp_path)
    pd.testing.assert_frame_equal(back.edges, network.edges)
    assert back.relations == network.relations == ("z", "a")
    assert back.digest == network.digest
    kept = pd.read_parquet(tmp_path / FILE)
    assert (kept["tf_id"].to_numpy() == genes["id"].to_numpy()[kept["tf"]]).all()
    assert (kept["target_symbol"].to_numpy() == genes["symbol"].to_numpy()[kept["target"]]).all()
    assert load_network(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("column", ["tf", "target", "relation", "sign", "weight", "split"])
def test_the_digest_tells_networks_apart(netted, column):
    network, _ = read(netted())
    values = network.edges[column].to_numpy().copy()
    if column in ("tf", "target", "relation"):
        values[[0, -1]] = values[[-1, 0]]
    elif column == "split":
        values[0] = "held_out_tf"
    else:
        values[0] = 0 if values[0] else 1
    assert replace(network, edges=network.edges.assign(**{column: values})).digest != network.digest


def test_training_knows_nothing_of_what_is_held_out(netted):
    """Not even that it is: the graph is that of a network which never had these edges, in any of its relations."""
    network, _ = read(netted("network.held_out_tfs=0.2"))
    is_held = network.edges["split"] != "train"
    graph = network.graph(GENES)
    never = make_graph(network.edges[~is_held].drop(columns="split"), GENES)
    jax.tree.map(np.testing.assert_array_equal, graph, never)
    count = np.count_nonzero(graph.weight_M)
    trained = set(zip(graph.tf_M[:count].tolist(), graph.target_M[:count].tolist(), strict=True))
    assert trained.isdisjoint(pairs_of(network.edges[is_held]))
    assert len(trained) + len(pairs_of(network.edges[is_held])) == len(pairs_of(network.edges))
    whole = network.edges[network.edges["split"] == "held_out_tf"]["tf"].unique()
    assert len(whole)
    assert (graph.regulator_G[whole] == -1).all()


def test_questions_of_held_out_edges_stand_beside_pairs_that_are_none(netted):
    network, _ = read(netted("network.held_out_edges=0.3"))
    held = network.edges[network.edges["split"] != "train"]
    questions = network.held_out(GENES, seed=0)
    count = len(held)
    np.testing.assert_array_equal(questions.tf_Q[:count], held["tf"])
    np.testing.assert_array_equal(questions.target_Q[:count], held["target"])
    tf_Q, target_Q, relation_Q, answer_Q, mask_Q = (leaf[count:] for leaf in questions)
    np.testing.assert_array_equal(tf_Q, held["tf"])
    np.testing.assert_array_equal(mask_Q, questions.mask_Q[:count])
    assert mask_Q.mean() > 0.8
    assert (answer_Q == NO_EDGE).all()
    assert (questions.answer_Q[:count] != NO_EDGE).all()
    asked = pd.DataFrame({"tf": tf_Q, "target": target_Q})[mask_Q]
    assert pairs_of(asked).isdisjoint(pairs_of(network.edges))
    assert (asked["tf"] != asked["target"]).all()
    for relation, ours in held.groupby("relation"):  # a target's degree among what is held out, not in all: see there
        assert set(target_Q[mask_Q & (relation_Q == relation)]) <= set(ours["target"])
    again = network.held_out(GENES, seed=0)
    jax.tree.map(np.testing.assert_array_equal, questions, again)


def test_an_edge_with_nothing_beside_it_is_not_asked():
    """TF 0 regulates every other gene; TF 1 a few."""
    edges = pd.DataFrame({"tf": [0] * 5 + [1] * 3, "target": [1, 2, 3, 4, 5, 2, 3, 4]}, dtype=np.int32)
    edges = edges.assign(relation=np.int16(0), sign=np.int8(0), weight=np.float32(1), confidence="", split="train")
    edges.loc[[4, 6], "split"] = "held_out_edge"
    questions = RunNetwork(edges, ("one",)).held_out(6, seed=0)
    np.testing.assert_array_equal(questions.mask_Q, [False, True, False, True])
    np.testing.assert_array_equal(questions.answer_Q, [REGULATES, REGULATES, NO_EDGE, NO_EDGE])
    assert (questions.tf_Q[3], questions.target_Q[3]) == (1, 5)
    edges.loc[6, "split"] = "train"
    assert RunNetwork(edges, ("one",)).held_out(6, seed=0) is None
    edges["split"] = "train"
    assert RunNetwork(edges, ("one",)).held_out(6, seed=0) is None


def test_links_are_measured_in_training_and_held_out(unbroken):
    config, folder = unbroken
    lines = lines_told(folder)
    training = [line for line in lines if "train/loss" in line]
    heldout = [line for line in lines if "heldout/loss" in line]
    assert len(training) == config.run.steps
    assert len(heldout) == 3
    for kind, some in (("train", training), ("heldout", heldout)):
        for line in some:
            links = {name: line[f"{kind}/{name}"] for name in LINKS}
            assert links["link_nll"] > 0
            assert 0 <= links["link_auroc"] <= 1
            assert 0 <= links["link_sign_accuracy"] <= 1
    assert len({line["heldout/link_nll"] for line in heldout}) == 3
    assert len({line["train/link_nll"] for line in training}) == config.run.steps


@pytest.mark.slow
def test_a_run_without_a_network_knows_none(tiny, tmp_path):
    train(tiny("run.steps=2", "run.eval_every=1"), tmp_path / "run", quiet=True)
    assert not any("link" in key for line in lines_told(tmp_path / "run") for key in line)
    assert not (tmp_path / "run" / FILE).exists()
    assert "network_digest" not in json.loads((tmp_path / "run" / "config.json").read_text())


def test_a_run_that_was_stopped_ends_with_the_same_bits(unbroken, tmp_path):
    config, whole = unbroken
    with asked_to_stop_after(3):
        assert 3 <= train(config, tmp_path / "stopped", quiet=True) < config.run.steps
    assert train(config, tmp_path / "stopped", quiet=True) == config.run.steps
    jax.tree.map(np.testing.assert_array_equal, final_state(config, whole), final_state(config, tmp_path / "stopped"))
    assert lines_told(tmp_path / "stopped") == lines_told(whole)


def test_a_run_of_another_network_is_refused_untouched(unbroken, netted, tiny, tables, tmp_path, snapshot):
    _, whole = unbroken
    for name in ("z.tsv", "a.tsv"):
        shutil.copy(next(path for path in tables if path.endswith(name)), tmp_path / name)
    moved = [str(tmp_path / name) for name in ("z.tsv", "a.tsv")]
    workdir_of = partial(train, workdir=whole, quiet=True)
    assert workdir_of(netted(f"network.tables={moved!r}")) == 8  # what they hold counts, not where they lie
    before = snapshot(whole)
    lines = (tmp_path / "a.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join(lines[:-1]) + "\n")
    for wrong in (netted(f"network.tables={moved!r}"), netted(f"network.tables={tables[::-1]!r}"), tiny()):
        with pytest.raises(InputError, match=r"network\.tables hold other edges than they did"):
            workdir_of(wrong)
    with pytest.raises(InputError, match=r"grn\.kind was convolution, is attention"):
        workdir_of(netted("grn.kind=attention"))
    assert snapshot(whole) == before


def test_a_start_that_was_cut_short_can_begin_again(netted, tiny, tmp_path):
    """Wherever it was killed; a network that it wrote does not stay where the next start has none."""
    config, bare = netted(), tiny()
    network, genes = read(config)
    corpus = open_corpus(config.data.corpus)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".{FILE}.123.tmp").write_bytes(b"half")
    workdir.open_workdir(tmp_path / "run", config, corpus, genes, network)
    assert load_network(tmp_path / "run").digest == network.digest
    (tmp_path / "run" / "config.json").unlink()
    workdir.open_workdir(tmp_path / "run", bare, corpus, genes)
    assert load_network(tmp_path / "run") is None


def test_a_config_of_before_networks_is_of_the_same_run(tiny):
    """Keys that came with networks are no part of what decides the bits of a run without one."""
    science = tiny().science()
    assert "network" not in science
    assert "grn" not in science
    assert not any("link" in key or "edge" in key for key in science["objectives"])
    assert tiny("grn.width=4", "objectives.link_weight=0.7").science() == science


def test_the_model_of_a_network_embeds(unbroken, tmp_path):
    config, folder = unbroken
    model = load(folder)
    assert model.network.relations == ("z", "a")
    assert model.states.regulator_GR.shape == model.states.target_GR.shape == (128, config.grn.width)
    assert np.abs(model.states.rows_GD - model.params["genes"]["table"]).max() > 1e-4  # the network tells the tokens
    counts = np.random.default_rng(0).poisson(2.0, (6, GENES)).astype(np.float32)
    adata = ad.AnnData(counts)
    adata.var_names = [f"G{i}" for i in range(GENES)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    embedding_NE = model.embed(tmp_path / "cells.h5ad", quiet=True).embedding_NE
    assert embedding_NE.shape == (6, config.encoder.cell_width)
    assert np.isfinite(embedding_NE).all()
    states = model.states._replace(rows_GD=model.params["genes"]["table"])
    without_NE = replace(model, states=states).embed(tmp_path / "cells.h5ad", quiet=True).embedding_NE
    assert np.abs(without_NE - embedding_NE).max() > 1e-4


@pytest.fixture(scope="module")
def parts(netted):
    """(recipe, start, graph, batches) of a config with a network."""
    config = netted("optimizer.learning_rate=1e-3")
    network, genes = read(config)
    corpus = open_corpus(config.data.corpus)
    stream = Stream(corpus, config.data, config.seed)
    spec = ModelSpec(config.encoder, len(genes), config.grn, len(network.relations))
    recipe = Recipe(spec, config.objectives, make_optimizer(config.optimizer, config.run.steps), config.seed)
    start = fit_start(corpus, stream, config, spec, {})
    return recipe, start, network.graph(spec.genes, 512), [stream.batch(step) for step in range(3)]


def run(parts, shape):
    recipe, start, graph, batches = parts
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: np.prod(shape)])
    state = create_state(recipe.spec, recipe.optimizer, mesh, recipe.seed, start)
    with jax.set_mesh(mesh):
        known = Knowledge({}, place_graph(graph, mesh))
        step = jax.jit(partial(train_step, recipe))
        rows = []
        for batch in batches:
            state, metrics = step(known, state, place_batch(batch, mesh))
            rows.append(jax.device_get(metrics))
    return jax.device_get(state), rows


@pytest.fixture(scope="module")
def alone(parts):
    return run(parts, (1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_one_device_equals_eight(parts, alone, shape):
    one_state, one_rows = alone
    state, rows = run(parts, shape)
    for ours, theirs in zip(one_rows, rows, strict=True):
        assert set(ours) >= LINKS
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-4, atol=1e-5), ours, theirs)
    # As in test_step: Adam takes a step of full size on a gradient that is all rounding.
    ours, theirs = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.params)]) for s in (one_state, state))
    assert np.mean(np.abs(ours - theirs) > 3e-3) < 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.05)


def test_every_weight_of_the_network_is_trained(parts, alone):
    recipe, start, _, _ = parts
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    fresh = jax.device_get(create_state(recipe.spec, recipe.optimizer, mesh, recipe.seed, start).params)
    for name in ("genes", "links"):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), fresh[name], alone[0].params[name])
        assert name != "genes" or moved.pop("loadings") == 0  # they are what was measured before training
        assert min(jax.tree.leaves(moved)) > 1e-5, moved


def test_link_prediction_warms_up(parts):
    recipe, start, graph, batches = parts
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    params = create_state(recipe.spec, recipe.optimizer, mesh, recipe.seed, start).params
    known = jax.device_put(Knowledge({}, graph))

    def loss(**links):
        objectives = replace(recipe.objectives, **links)
        of = jax.jit(partial(training_loss, replace(recipe, objectives=objectives)))
        return lambda step: of(known, params, batches[0], jax.random.key(0), np.int32(step))

    without, weighed = loss(link_weight=0.0), loss(link_weight=2.0, link_warmup_steps=10)
    for step in (0, 4, 9, 30):
        total, metrics = weighed(step)
        expected = 2.0 * min((step + 1) / 10, 1) * float(metrics["link_nll"])
        assert float(total - without(step)[0]) == pytest.approx(expected, rel=1e-4)
        assert float(metrics["loss"]) == pytest.approx(float(total))


def test_without_warmup_the_weight_is_whole_at_once():
    assert float(ObjectivesConfig(link_weight=0.3).link_weight_at(0)) == pytest.approx(0.3)
    weights = [float(ObjectivesConfig(link_weight=1.0, link_warmup_steps=4).link_weight_at(n)) for n in range(6)]
    np.testing.assert_allclose(weights, [0.25, 0.5, 0.75, 1, 1, 1])


def test_held_out_loss_counts_links(unbroken):
    config, folder = unbroken
    for line in lines_told(folder):
        if "heldout/loss" in line:
            cells = line["heldout/loss"] - config.objectives.link_weight * line["heldout/link_nll"]
            parts = line["heldout/rna/token_nll"] + line["heldout/rna/cell_nll"]
            parts += config.objectives.pool_weight * line["heldout/rna/pool_size"]
            assert cells == pytest.approx(parts, rel=1e-4)


@pytest.mark.slow
def test_a_run_of_another_version_is_told(tiny, tmp_path):
    train(tiny("run.steps=1"), tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    del record["parameters"]
    path.write_text(json.dumps(record))
    for use in (lambda: load(tmp_path / "run"), lambda: train(tiny("run.steps=1"), tmp_path / "run", quiet=True)):
        with pytest.raises(InputError, match=rf"are of version 1, this mofm reads version {workdir.PARAMETERS}"):
            use()


@pytest.mark.slow
def test_what_became_of_the_lines_is_kept(netted, tmp_path, capfd):
    train(netted("run.steps=1"), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "network.json").read_text())
    assert list(report) == ["z", "a"]
    said = capfd.readouterr().err
    for name, one in report.items():
        assert one["lines"] >= one["edges"] > 0
        assert f"{name}: {one['edges']} edges of {one['tfs']} TFs" in said
