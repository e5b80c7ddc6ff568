"""The plan: the real train step compiled by XLA:TPU for chips that are not there, estimates for GPUs, and what is refused."""

import dataclasses
import importlib.util
import json
import types
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mofm.axes import CELLS, HEADS
from mofm.cli import main
from mofm.corpus.ingest import ingest
from mofm.errors import InputError
from mofm.nn.attend import attend
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.parallel.rules import sharding
from mofm.planning import compiled
from mofm.planning.chips import CHIPS, GIB, parse_topology
from mofm.planning.collectives import sent
from mofm.planning.compiled import Memory, TooLargeError, tpu_devices
from mofm.planning.hlo import parse
from mofm.planning.nearest import as_options, nearest_fit
from mofm.planning.plan import Plan, Planner
from mofm.planning.report import as_json, as_text
from mofm.planning.shapes import find_facts, make_step, on_mesh
from mofm.planning.traffic import memory_traffic

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (pip install 'mofm[tpu]'): compiling for TPUs was NOT tested",
)


@pytest.fixture(scope="module")
def v5e():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (pip install 'mofm[tpu]'): compiling for TPUs was NOT tested")
    return Planner(parse_topology("v5e:4x4"), {"rna": 500})


@pytest.fixture(scope="module")
def planned(v5e, small):
    """The plan of the small config on 16 TPU v5e chips, data 8 x fsdp 2."""
    return v5e.plan(small())


def test_a_real_step_is_compiled_for_tpus(planned, small):
    config = small()
    assert planned.fits
    assert planned.compiler.startswith("XLA:TPU of jax ")
    assert planned.mesh == {"data": 8, "fsdp": 2, "tensor": 1}
    step = make_step(config, find_facts(config, {"rna": 500}, None), Planner(parse_topology("a100:16")).mesh(config))
    state = sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(step.arguments)
    )
    assert state <= planned.memory.arguments <= 2.5 * state  # tiles of 8 x 128 round small arrays up
    assert planned.memory.limit == CHIPS["v5e"].memory
    assert planned.unknown_loops == 0
    assert planned.traffic > 2 * state  # at least, it reads and writes its state


def test_what_is_sent_goes_along_the_axes_that_have_devices(planned):
    by_axes = planned.sent_by_axes
    assert set(by_axes) <= {"data", "fsdp", "data+fsdp"}
    kinds = {(one.kind, one.axes) for one in planned.sent}
    assert ("all-gather", "fsdp") in kinds  # of weights
    blocks = 3 * (4 * 64**2 + 3 * 64 * 128)
    assert (
        by_axes["data"] > 2 * 7 / 8 * blocks / 2 * 2
    )  # gradients of a device's half of the blocks, in bfloat16 at least


@needs_libtpu
def test_attention_keeps_no_logits_on_a_tpu(monkeypatch):
    """Splash attention, compiled: value and gradient over a mesh take less memory and traffic than logits in full."""
    mesh = make_mesh(MeshConfig(8, 1, 2), tpu_devices(parse_topology("v5e:4x4")))

    def compiled():
        states, mask = sharding(mesh, (CELLS, None, HEADS, None)), sharding(mesh, (CELLS, None))
        qkv = [jax.ShapeDtypeStruct((256, 1024, 4, 128), jnp.bfloat16, sharding=states)] * 3
        mask_BM = jax.ShapeDtypeStruct((256, 1024), jnp.bool_, sharding=mask)
        slope = jax.grad(lambda q, k, v, mask: jnp.sum(attend(q, k, v, mask).astype(jnp.float32)), argnums=(0, 1, 2))
        with on_mesh(mesh):
            made = jax.jit(slope, out_shardings=(states,) * 3).trace(*qkv, mask_BM)
            made = made.lower(lowering_platforms=("tpu",)).compile()
        text = made.as_text()
        return "splash" in text, made.memory_analysis().temp_size_in_bytes, memory_traffic(parse(text))[0]

    kernel = compiled()
    monkeypatch.setattr("mofm.nn.attend.fits_splash", lambda q, k: False)
    full = compiled()
    assert (kernel[0], full[0]) == (True, False)
    assert kernel[1] < full[1] / 2
    assert kernel[2] < full[2]


def test_the_plan_is_told_in_lines_and_as_json(planned):
    text = as_text(planned, CHIPS["v5e"], steps=1000)
    assert "16 x TPU v5e" in text
    assert "nothing of it has run" in text
    assert "32,000 cells (run.steps=1,000)" in text
    told = json.loads(json.dumps(as_json(planned)))
    assert told["fits"] is True
    assert told["memory"]["total"] == planned.memory.total
    assert told["cells_per_s"][0] < told["cells_per_s"][1]


def test_a_step_too_large_is_refused_with_what_it_needs(v5e, small):
    plan = v5e.plan(small("data.batch_size=16384", "data.tokens=8192"))
    assert not plan.fits
    assert plan.memory is None
    assert plan.required > 2 * CHIPS["v5e"].memory
    assert "DOES NOT FIT: needs" in as_text(plan, CHIPS["v5e"], 10)


@needs_libtpu
def test_a_slice_that_libtpu_does_not_know_is_refused(monkeypatch):
    odd = dataclasses.replace(parse_topology("v5e:4x4"), name="v5e:3x5")
    with pytest.raises(InputError, match="libtpu does not know this slice"):
        tpu_devices(odd)


@needs_libtpu
@pytest.mark.parametrize("shape", [(8, 4, 2), (2, 32, 1), (64, 1, 1), (1, 16, 4)])
def test_a_mesh_need_not_follow_the_sides_of_a_slice(shape):
    devices = tpu_devices(parse_topology("v6e:8x8"))
    mesh = make_mesh(MeshConfig(*shape), devices)
    assert tuple(mesh.shape.values()) == shape
    assert sorted(device.id for device in mesh.devices.flat) == sorted(device.id for device in devices)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "mofm\[tpu\]"'):
        Planner(parse_topology("v5e:4x4"))


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (17.63G) exceeds "
        "available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.63G of 15.75G "
        "hbm. Exceeded hbm capacity by 1.88G.",
        "RESOURCE_EXHAUSTED: total HBM required 17.63G exceeds available HBM (15.75G)",
    ],
)
def test_what_the_compiler_needs_is_read_from_its_refusal(message):
    assert TooLargeError(message).required == pytest.approx(17.63 * GIB)


def test_a_refusal_that_gives_no_number():
    assert TooLargeError("RESOURCE_EXHAUSTED: no more").required is None


@pytest.fixture(scope="module")
def estimates(small):
    """Plans of the small config on 16 H100, data 8 x fsdp 2, by its remat: "none" and "full"."""
    planner = Planner(parse_topology("h100:16"), {"rna": 500})
    return {remat: planner.plan(small("data.batch_size=512", f"encoder.remat={remat}")) for remat in ("none", "full")}


def test_gpus_are_estimated_and_it_says_so(estimates):
    plan = estimates["none"]
    assert plan.compiler is None
    assert plan.fits
    text = as_text(plan, CHIPS["h100"], 10)
    assert "an ESTIMATE by arithmetic" in text
    assert plan.sent_by_axes.keys() == {"data", "fsdp"}
    weights = plan.parameters * 4
    # Gradients: scattered over fsdp and then reduced over data. Weights: gathered twice, in bfloat16.
    assert plan.sent_by_axes["data"] == pytest.approx(2 * 7 / 8 * weights / 2, rel=0.05)
    assert plan.sent_by_axes["fsdp"] == pytest.approx((2 * 1 / 2 / 2 + 1 / 2) * weights, rel=0.05)


def test_remat_takes_less_memory_and_more_products(estimates):
    none, full = estimates["none"], estimates["full"]
    assert full.memory.temporaries < none.memory.temporaries
    assert full.memory.arguments == none.memory.arguments
    assert sum(full.device_flops.values()) > sum(none.device_flops.values()) == none.model_flops == full.model_flops


def test_a_batch_in_parts_takes_less_memory_and_the_same_products(estimates, small):
    whole = estimates["none"]
    planner = Planner(parse_topology("h100:16"), {"rna": 500})
    parts = planner.plan(small("data.batch_size=512", "encoder.remat=none", "optimizer.accumulate=4"))
    assert whole.memory.temporaries / 4 < parts.memory.temporaries < whole.memory.temporaries / 2
    # Each part reads the average cell for itself, which is no matter of how many cells it has.
    assert whole.model_flops <= parts.model_flops < 1.0001 * whole.model_flops


def test_all_that_a_config_can_ask_for_has_shapes(small):
    """Omics that are paired in part, a network, translation, and alignment with labels, over a mesh: the step is traced."""
    config = small(
        "data.quotas={'rna+atac': 2, 'rna': 1, 'methylation': 1}",
        "data.quota_multiple=8",
        "data.label_key=cell_type",
        "network.tables=['a.tsv']",
        "network.edge_budget=4096",
        "objectives.alignment.contrast_weight=1.0",
        "objectives.alignment.label_weight=0.1",
    )
    features = {"rna": 600, "atac": 900, "methylation": 20}
    facts = find_facts(config, features, None)
    assert facts.rows == {"rna": 24, "atac": 16, "methylation": 8}
    assert facts.tokens == {"rna": 32, "atac": 32, "methylation": 20}
    assert facts.edges == 4096
    mesh = Planner(parse_topology("h100:8")).mesh(config)
    step = make_step(config, facts, mesh)
    with on_mesh(mesh):
        state, metrics = jax.eval_shape(step.function, *step.arguments)
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(lambda leaf: leaf.shape, step.arguments[1])
    assert {"link_nll", "rna+atac/contrast_loss", "methylation/token_nll"} <= set(metrics)


def test_a_corpus_that_is_there_says_what_it_has(make_cells, tmp_path, small):
    corpus = tmp_path / "corpus"
    make_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    ingest([tmp_path / "cells.h5ad"], corpus)
    facts = find_facts(small(f"data.corpus={corpus}"), {}, None)
    assert facts.genes == facts.features["rna"] == 300
    assert facts.rows == {"rna": 32}
    assert str(corpus) in facts.source
    with pytest.raises(InputError, match="--features"):
        find_facts(small(f"data.corpus={corpus}"), {"rna": 10}, None)


def test_a_corpus_that_is_not_there_is_told(small):
    assert find_facts(small("data.corpus=nowhere/corpus"), {}, None).source.startswith("nowhere/corpus is not there; ")


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("v5:4x4", "no chip 'v5' is known"),
        ("v5ee:4x4", "Did you mean 'v5e'?"),
        ("h10:8", "Did you mean 'h100'?"),
        ("v5e", "write v5e:4x4"),
        ("v5e:16", "write v5e:4x4"),
        ("v5e:4x4x4", "write v5e:4x4"),
        ("h100:2x4", "write h100:8"),
        ("v5e:32x32", "256 at most"),
        ("v5e:3x4", "Did you mean 'v5e:4x4'?"),
        ("v5p:0x2x2", "write v5p:4x4 or v5p:2x2x4"),
    ],
)
def test_a_topology_that_there_is_not_is_refused_with_the_nearest(topology, words):
    with pytest.raises(InputError) as told:
        parse_topology(topology)
    assert words in str(told.value)


def test_slices_are_of_tpus():
    topology = parse_topology("v5e:16x16", 4)
    assert (topology.devices, topology.title) == (1024, "4 x v5e:16x16")
    with pytest.raises(InputError, match="of GPUs write h100:16"):
        parse_topology("h100:8", 2)


@needs_libtpu
def test_sums_of_gradients_alone_go_from_slice_to_slice():
    """XLA:TPU's own program for two slices: weights are gathered within each, a device's part of the sum goes to the other."""
    mesh = make_mesh(MeshConfig(2, 4, 1), tpu_devices(parse_topology("v5e:2x2", 2)))
    place = partial(NamedSharding, mesh)
    weight_DF = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=place(P("fsdp")))
    x_BD = jax.ShapeDtypeStruct((64, 512), jnp.float32, sharding=place(P(("data", "fsdp"))))
    gradient = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w))), out_shardings=place(P("fsdp")))
    compiled = gradient.trace(weight_DF, x_BD).lower(lowering_platforms=("tpu",)).compile()
    found = {one.axes: one for one in sent(parse(compiled.as_text()), dict(mesh.shape))}
    assert set(found) == {"fsdp", "slices"}
    assert found["slices"].bytes == 512 * 512 * 4 / 4


@pytest.mark.parametrize(("name", "devices"), [("v5e:16x16", 256), ("V5P:2x2x4", 16), ("h200:3", 3), ("v5e:1x1", 1)])
def test_topologies(name, devices):
    assert parse_topology(name).devices == devices


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--topology", "h100:8", "--config.mesh.data=3"], "mesh data=3 x fsdp=1 x tensor=1 does not fit 8 device(s)"),
        (["--topology", "h100:16", "--config.data.batch_size=24"], "data.batch_size=24 cannot be divided"),
        (["--topology", "h100:8", "--config.mesh.tensor=8", "--config.encoder.heads=4"], "mesh.tensor=8 does not"),
        (["--topology", "h100:8", "--features", "dna=3"], "no such modality"),
        (["--topology", "h100:8", "--features", "rna"], "write MODALITY=N"),
        (["--topology", "h100:8", "--config.encoder.widht=3"], "Did you mean 'width'?"),
    ],
)
def test_what_does_not_go_together_is_one_line(options, words, capsys):
    config = ["--config", str(Path(__file__).parents[2] / "configs" / "base.py")]
    assert main(["plan", *config, *options]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


class _Pretended:
    """A planner whose configs need what a formula says: 16 GiB of state over fsdp, and of activations up to 1 GiB a cell."""

    topology = parse_topology("v5e:4x4")

    def __init__(self, most_fsdp: int = 16):
        self.most_fsdp = most_fsdp

    def state_bytes(self, config) -> float:
        if config.mesh.fsdp > self.most_fsdp:
            raise InputError("mesh.fsdp does not divide the model")
        return 16 * GIB / config.mesh.fsdp

    def plan(self, config) -> Plan:
        kept = {"none": 1.0, "dots": 0.5, "full": 0.25}[config.encoder.remat]
        memory = Memory(self.state_bytes(config), kept * config.data.batch_size * GIB, 0, 15.75 * GIB)
        plan = types.SimpleNamespace(memory=memory, required=memory.total, limit=memory.limit)
        plan.fits = memory.total <= memory.limit
        return plan


@pytest.mark.parametrize(
    ("overrides", "expected", "tries"),
    [
        (("data.batch_size=16", "mesh.fsdp=4"), "--config.encoder.remat=dots", 1),
        (("data.batch_size=32", "mesh.fsdp=4"), "--config.encoder.remat=full", 2),
        (("data.batch_size=32", "mesh.fsdp=1"), "--config.encoder.remat=full --config.mesh.fsdp=4", 4),
        (("data.batch_size=128", "mesh.fsdp=4"), "--config.encoder.remat=full --config.data.batch_size=32", 3),
        (
            ("data.batch_size=512", "mesh.fsdp=1", "mesh.data=16"),
            "--config.encoder.remat=full --config.mesh.fsdp=16 --config.mesh.data=1 --config.data.batch_size=32",
            4,
        ),
        (("data.batch_size=4096", "encoder.remat=full", "mesh.fsdp=16"), "--config.data.batch_size=32", 2),
    ],
)
def test_the_nearest_config_that_fits(small, overrides, expected, tries):
    planner, said = _Pretended(), []
    config = small("encoder.remat=none", *overrides)
    found = nearest_fit(planner, config, planner.plan(config), said.append)
    assert as_options(found.changes) == expected
    assert found.plan.fits
    assert len(said) <= tries
    assert said[-1].startswith(expected)


def test_no_further_than_the_mesh_divides_the_model(small):
    planner = _Pretended(most_fsdp=4)
    config = small("encoder.remat=full", "data.batch_size=512", "mesh.fsdp=1")
    found = nearest_fit(planner, config, planner.plan(config))
    assert found.changes == {"mesh.fsdp": 4, "data.batch_size": 32}


def test_where_nothing_fits_nothing_is_told(small):
    planner = _Pretended()
    config = small("mesh.data=16", "mesh.fsdp=1", "data.batch_size=31")  # it cannot be halved
    planner.state_bytes = lambda _: 20 * GIB
    assert nearest_fit(planner, config, planner.plan(config)) is None
