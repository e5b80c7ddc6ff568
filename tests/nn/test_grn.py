"""The graph network against dense matrices in float64; what changes nothing in it, how far it reaches, how it is laid out."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from networks import GENES, some_edges

from mofm.axes import EDGES
from mofm.batches.graph import make_graph
from mofm.errors import InputError
from mofm.nn import grn, model
from mofm.nn.grn import AGAINST, ALONG, SIGNS, Genes, GrnConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.place import place_graph
from mofm.parallel.rules import RULES, sharding

WIDTH, RELATIONS, BUDGET = 8, 2, 256
KINDS = ("convolution", "attention")


def config_of(kind="convolution", layers=1):
    return GrnConfig(width=6, layers=layers, kind=kind, heads=2)


def genes_of(config, relations=RELATIONS):
    return Genes(GENES, WIDTH, config, relations)


def fresh_params(config, relations=RELATIONS):
    graph = graph_of() if relations else None
    return nn.meta.unbox(genes_of(config, relations).init(jax.random.key(0), graph))["params"]


def noisy(params, scale=0.5):
    """Many weights start at zero or one; random ones leave no path untested."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def graph_of(edges=None, budget=BUDGET):
    return make_graph(some_edges() if edges is None else edges, GENES, budget)


def tell(config, params, graph):
    return genes_of(config).apply({"params": params}, graph)


def assert_close(ours, theirs, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[1, 2])
def config(request, kind):
    return config_of(kind, request.param)


def dense_heard(config, params, start, state_GR, edges, receiver, sender):
    """What each gene hears, by sums over all pairs of genes."""
    weight_NSGJ = np.zeros((RELATIONS, SIGNS, GENES, GENES))
    for edge in edges.itertuples():
        weight_NSGJ[edge.relation, edge.sign + 1, getattr(edge, receiver), getattr(edge, sender)] = edge.weight
    heads = 1
    odds_NGJH = np.ones((RELATIONS, GENES, GENES, 1))
    if config.kind == "attention":
        heads = config.heads
        x_GJH = (state_GR @ params["receiver"])[:, None] + (state_GR @ params["sender"])[None]
        odds_NGJH = np.exp(np.where(x_GJH > 0, x_GJH, 0.2 * x_GJH) * params["slope"][:, None, None, :])
    share_NSGJH = weight_NSGJ[..., None] * odds_NGJH[:, None]
    total_NGH = share_NSGJH.sum(axis=(1, 3))
    share_NSGJH /= np.where(total_NGH > 0, total_NGH, 1)[:, None, :, None]
    factor_NSR = params["factor"].reshape(RELATIONS, SIGNS, -1) + np.array(start)[None, :, None] / RELATIONS
    share_NSGJR = np.repeat(share_NSGJH, config.width // heads, axis=-1)
    return np.einsum("nsgjr,jr,nsr->gr", share_NSGJR, state_GR, factor_NSR)


def dense(config, params, edges):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    row_GR = params["table"][:, : config.width] + params["loadings"]
    target_GR = row_GR
    for layer in range(config.layers):
        hear = partial(dense_heard, config, edges=edges)
        regulon_GR = hear(params[f"against_{layer}"], AGAINST, target_GR, receiver="tf", sender="target")
        regulator_GR = row_GR * params[f"own_{layer}"] + regulon_GR
        target_GR = row_GR + hear(params[f"along_{layer}"], ALONG, regulon_GR, receiver="target", sender="tf")
    rows_GD = params["table"] + regulator_GR @ params["up_regulator"] + target_GR @ params["up_target"]
    return rows_GD, regulator_GR, target_GR


def test_matches_dense_matrices(config):
    params = noisy(fresh_params(config))
    assert_close(tuple(tell(config, params, graph_of()))[:3], dense(config, params, some_edges()))


def test_order_of_edges_changes_nothing(config):
    params, edges = noisy(fresh_params(config)), some_edges()
    turned = graph_of(edges.sample(frac=1, random_state=3))
    # Not even where one relation's edges lie among another's.
    order_M = np.random.default_rng(0).permutation(BUDGET)
    mixed = graph_of()._asdict() | {
        name: leaf[order_M] for name, leaf in graph_of()._asdict().items() if name[-2:] == "_M" and name != "known_M"
    }
    for graph in (turned, graph_of()._replace(**mixed)):
        assert_close(tell(config, params, graph), tell(config, params, graph_of()))


def test_padding_changes_nothing(config):
    params = noisy(fresh_params(config))
    plain = tell(config, params, graph_of(budget=len(some_edges())))
    assert_close(tell(config, params, graph_of(budget=BUDGET)), plain, rtol=1e-6, atol=1e-6)


def test_an_edge_of_weight_0_is_as_if_absent(config):
    """Whatever else it says: edges are hidden for a step by their weight alone."""
    params, edges = noisy(fresh_params(config)), some_edges()
    is_hidden = np.random.default_rng(0).random(len(edges)) < 0.4
    graph = graph_of(edges)
    hidden = graph._replace(weight_M=np.where(np.pad(is_hidden, (0, BUDGET - len(edges))), 0, graph.weight_M))
    absent = tell(config, params, graph_of(edges[~is_hidden]))
    assert_close(tell(config, params, hidden), absent, rtol=1e-6, atol=1e-6)
    assert not np.allclose(absent.rows_GD, tell(config, params, graph).rows_GD, atol=1e-2)


def test_attention_starts_as_the_convolution_and_departs_from_it():
    plain, attending = config_of("convolution"), config_of("attention")
    params = fresh_params(attending)
    moved = noisy(params)

    def told(params):
        shared = {name: leaf for name, leaf in params.items() if name not in ("against_0", "along_0")}
        shared |= {name: {"factor": params[name]["factor"]} for name in ("against_0", "along_0")}
        return tell(attending, params, graph_of()), tell(plain, shared, graph_of())

    assert_close(*told(params), rtol=1e-5, atol=1e-6)
    ours, theirs = told(moved)
    assert not np.allclose(ours.regulator_GR, theirs.regulator_GR, atol=1e-2)
    assert not np.allclose(ours.target_GR, theirs.target_GR, atol=1e-2)


def shares_of(monkeypatch, config, params, graph):
    """(edges in their direction, shares) of each hearing, in the order of hearing."""
    told, shares = [], grn.Hearing._shares

    def keep(self, graph):
        told.append((graph, shares(self, graph)))
        return told[-1][1]

    monkeypatch.setattr(grn.Hearing, "_shares", keep)
    tell(config, params, graph)
    return told


def test_shares_sum_to_one_and_hidden_edges_have_none(config, monkeypatch):
    graph = graph_of()
    weight_M = np.where(np.random.default_rng(0).random(BUDGET) < 0.4, 0, graph.weight_M).astype(np.float32)
    weight_M[: BUDGET // 8] *= 1e-30  # a network may have edges of next to no weight; they are all that some hear
    told = shares_of(monkeypatch, config, noisy(fresh_params(config)), graph._replace(weight_M=weight_M))
    assert len(told) == 2 * config.layers
    for heard, share_MH in told:
        share_MH = np.asarray(share_MH)
        assert (share_MH[weight_M == 0] == 0).all()
        assert (share_MH[weight_M > 1e-3] > 0).all()
        sums_NGH = np.zeros((RELATIONS, GENES, share_MH.shape[1]))
        np.add.at(sums_NGH, (graph.relation_M, heard.receivers), share_MH)
        is_heard_NG = np.zeros((RELATIONS, GENES), bool)
        is_heard_NG[graph.relation_M[weight_M > 0], np.asarray(heard.receivers)[weight_M > 0]] = True
        np.testing.assert_allclose(sums_NGH, is_heard_NG[..., None] * np.ones(share_MH.shape[1]), atol=1e-6)
        assert is_heard_NG.any()
        assert not is_heard_NG.all()


def test_a_gene_without_neighbours_hears_nothing(config):
    params, edges = noisy(fresh_params(config)), some_edges()
    states = tell(config, params, graph_of())
    own_R = params[f"own_{config.layers - 1}"]
    row_GR = params["table"][:, : config.width] + params["loadings"]
    no_tf, no_target = (np.setdiff1d(np.arange(GENES), edges[end]) for end in ("tf", "target"))
    assert GENES - 1 in no_tf
    assert GENES - 1 in no_target
    np.testing.assert_array_equal(states.regulator_GR[no_tf], (own_R * row_GR)[no_tf])
    np.testing.assert_array_equal(states.target_GR[no_target], row_GR[no_target])
    for end, state_GR, plain_GR in (("tf", states.regulator_GR, own_R * row_GR), ("target", states.target_GR, row_GR)):
        heard_GR = np.abs(state_GR - plain_GR)[edges[end].unique()]
        assert (heard_GR.max(axis=1) > 0).all()


def test_tokens_start_as_without_the_network(config):
    params = fresh_params(config)
    states = tell(config, params, graph_of())
    np.testing.assert_array_equal(states.rows_GD, params["table"])
    assert not np.allclose(states.regulator_GR, params["table"][:, : config.width], atol=1e-4)
    without = genes_of(config, relations=0).apply({"params": {"table": params["table"]}}, None)
    np.testing.assert_array_equal(without.rows_GD, params["table"])
    assert without.regulator_GR is without.target_GR is None
    assert set(fresh_params(config, relations=0)) == {"table"}


@pytest.mark.parametrize("hidden", ["none", "some", "all"])
def test_gradients_are_right_whatever_is_hidden(config, hidden):
    graph = graph_of()
    share = {"none": 0.0, "some": 0.5, "all": 1.0}[hidden]
    weight_M = np.where(np.random.default_rng(0).random(BUDGET) < share, 0, graph.weight_M)
    answers = [np.random.default_rng(1).normal(size=(GENES, n)) for n in (WIDTH, config.width, config.width)]

    def loss(params):
        states = tell(config, params, graph._replace(weight_M=weight_M))
        return sum(jnp.mean(jnp.square(state - answer)) for state, answer in zip(states[:3], answers, strict=True))

    params = noisy(fresh_params(config))
    read = {name: params.pop(name) for name in ("table", "loadings")}  # and not written by the network: see below
    gradient = jax.grad(lambda params: loss(params | read))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    factors = [np.abs(gradient[name]["factor"]).max() for name in ("against_0", "along_0")]
    assert (min(factors) == 0) if hidden == "all" else (min(factors) > 0)
    with jax.enable_x64(True):  # a difference of float32 losses is mostly rounding
        params, read = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, read))
        check_grads(lambda params: loss(params | read), (params,), order=1, modes=["rev"])


def test_the_network_reads_the_rows_and_does_not_write_them(config):
    params = noisy(fresh_params(config))

    def gradient(of):
        return jax.grad(lambda table: jnp.sum(jnp.sin(of(tell(config, params | {"table": table}, graph_of())))))(
            params["table"]
        )

    for role in ("regulator_GR", "target_GR"):
        assert (gradient(lambda states, role=role: getattr(states, role)) == 0).all()
    rows_GD = tell(config, params, graph_of()).rows_GD
    np.testing.assert_allclose(gradient(lambda states: states.rows_GD), jnp.cos(rows_GD), rtol=1e-5)


def test_a_fresh_network_learns_from_its_first_step(kind):
    """Zeros at the start are no dead ends: what is zero has a gradient of its own."""
    config = config_of(kind)

    def loss(params):
        return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in tell(config, params, graph_of()))

    gradient = jax.grad(loss)(fresh_params(config))
    assert (gradient.pop("loadings") == 0).all()  # they are given, and read
    if kind == "attention":  # their slope is 0, and learns first
        for name in ("against_0", "along_0"):
            for part in ("sender", "receiver"):
                assert (gradient[name].pop(part) == 0).all()
    assert all((np.abs(leaf).max() > 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("layers", [1, 2])
def test_how_far_a_message_reaches(layers):
    """A TF hears its targets; a target hears the other targets of its TFs, and no TF's own row. A layer more: theirs."""
    config, edges = config_of(layers=layers), some_edges(edges=14, tfs=6)
    params = noisy(fresh_params(config))
    graph = graph_of(edges)
    mix_2R = np.random.default_rng(0).normal(size=(2, config.width))

    def mixed(table):
        states = tell(config, params | {"table": table}, graph)
        return states.regulator_GR @ mix_2R[0], states.target_GR @ mix_2R[1]

    plain_2G = mixed(params["table"])
    moved_2GG = jax.vmap(lambda gene: mixed(params["table"].at[gene].add(0.5)), out_axes=1)(jnp.arange(GENES))
    reached = [np.abs(moved - plain[:, None]) > 1e-5 for moved, plain in zip(moved_2GG, plain_2G, strict=True)]
    edge_GG = np.zeros((GENES, GENES), int)
    edge_GG[edges["tf"], edges["target"]] = 1
    target_GG = np.eye(GENES, dtype=int)
    for _ in range(layers):
        regulon_GG = edge_GG @ target_GG
        target_GG = np.eye(GENES, dtype=int) + edge_GG.T @ regulon_GG
    np.testing.assert_array_equal(reached[0], (regulon_GG + np.eye(GENES)) > 0)
    np.testing.assert_array_equal(reached[1], target_GG > 0)
    assert 0 < (target_GG > 0).sum() - GENES < GENES**2 / 2


def test_a_tfs_tendency_is_the_mean_sign_of_its_edges(config):
    edges = some_edges()
    tendency_GN = np.asarray(tell(config, noisy(fresh_params(config)), graph_of(edges)).tendency_GN)
    expected_GN = np.zeros_like(tendency_GN)
    for (tf, relation), part in edges.groupby(["tf", "relation"]):
        expected_GN[tf, relation] = np.average(part["sign"], weights=part["weight"])
    np.testing.assert_allclose(tendency_GN, expected_GN, rtol=1e-5, atol=1e-6)
    assert np.abs(expected_GN).max() > 0


def test_jit_equals_no_jit(config):
    params = noisy(fresh_params(config))
    assert_close(jax.jit(partial(tell, config))(params, graph_of()), tell(config, params, graph_of()), rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), *(pytest.param(one, marks=pytest.mark.slow) for one in ((8, 1, 1), (1, 8, 1)))]
)
def test_one_device_equals_eight(kind, shape):
    """States and gradients, the edges laid over data x fsdp and every weight where its rule says."""
    encoder = EncoderConfig(width=16, blocks=1, heads=2, ffn=24, cell_width=8, bins=6, compute_dtype="float32")
    spec = ModelSpec(encoder, GENES, GrnConfig(width=8, layers=2, kind=kind, heads=2), RELATIONS)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(model.init, spec), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    graph = make_graph(some_edges(), spec.genes, BUDGET)

    def told(params, graph):
        loss = lambda params: sum(jnp.sum(jnp.sin(x)) for x in model.gene_states(spec, params, graph))  # noqa: E731
        return model.gene_states(spec, params, graph), jax.grad(loss)(params)["genes"]

    alone = jax.jit(told)(params, graph)
    mesh = make_mesh(MeshConfig(*shape))
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    places = jax.tree.map(lambda axes: sharding(mesh, axes), model.logical_axes(spec), is_leaf=is_axes)
    with jax.set_mesh(mesh):
        laid = place_graph(graph, mesh)
        assert {part.data.shape[0] for part in laid.weight_M.addressable_shards} == {BUDGET // (shape[0] * shape[1])}
        together = jax.jit(told)(jax.device_put(params, places), laid)
    assert_close(jax.device_get(together), jax.device_get(alone))
    assert RULES[EDGES] == ("data", "fsdp")


def test_edges_that_the_mesh_cannot_divide_are_refused_with_what_can():
    mesh = make_mesh(MeshConfig(2, 4, 1))
    graph = graph_of(budget=250)
    with pytest.raises(InputError, match=r"250 edges .* data x fsdp = 8 .* network\.edge_budget=256"):
        place_graph(graph, mesh)
    assert place_graph(graph_of(budget=256), mesh).known_M.sharding.is_fully_replicated


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"width": 0}, "grn.width=0"), ({"layers": 0}, "grn.layers=0"), ({"width": 6}, "not divisible by grn.heads=4")],
)
def test_impossible_sizes_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        GrnConfig(**wrong)


def test_a_network_wider_than_the_rows_is_refused():
    spec = ModelSpec(EncoderConfig(width=16, heads=2), GENES, GrnConfig(width=20), 1)
    with pytest.raises(InputError, match=r"grn\.width=20 is more than encoder\.width=16"):
        spec.check()
    spec._replace(relations=0).check()  # without a network it is of no matter
    spec._replace(grn=replace(spec.grn, width=16)).check()
