"""A run begun from a model has that model's parameters and simple models, leaf by leaf and by gene id; what the model does not
know begins as told; and what a config, a corpus or a command may not change is refused with what differs."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from mofm.axes import GENES
from mofm.batch import FeatureSpace
from mofm.errors import InputError
from mofm.linear.components import SILENT, Components
from mofm.linear.null import NullModel
from mofm.linear.own_components import OwnComponents
from mofm.linear.profiles import Profile
from mofm.linear.start import Start
from mofm.nn import model
from mofm.nn.fusion import FusionConfig
from mofm.nn.grn import GrnConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.nn.translator import TranslatorConfig
from mofm.objectives.translation import Direction
from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.training import adopt as adoption
from mofm.training.adopt import AVERAGE_CELL, adopt, adopt_network, adopt_start, known_basis
from mofm.training.config import build_config
from mofm.training.network import RunNetwork
from mofm.training.optimizer import OptimizerConfig, make_optimizer
from mofm.training.origin import Origin, check_corpus, finetune_config, genes_known
from mofm.training.patience import is_spent, read_losses
from mofm.training.state import create_state

OLD = [f"G{i}" for i in range(130)]
NEW = [f"N{i}" for i in range(4)]
OURS = [*OLD[60:40:-1], *NEW, *OLD[:41], *OLD[61:]]
"""Genes of a corpus, some new among them, and then all others of the model."""
WIDTH = EncoderConfig(width=16, blocks=2, modality_blocks=1, heads=2, ffn=24, cell_width=8, bins=6, region_rows=5)


def spec_of(genes: int, **more) -> ModelSpec:
    made = ModelSpec(WIDTH, genes, GrnConfig(8, heads=2), 2, ("rna", "atac"), TranslatorConfig(1))
    return made._replace(**more)


def shapes_of(spec: ModelSpec):
    return jax.eval_shape(lambda key: model.init(spec, key), jax.random.key(0))


def random(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def named(tree, is_leaf=None):
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    }


def row_of(known, asked):
    return np.array([known.index(gene) if gene in known else -1 for gene in asked], np.int32)


@pytest.fixture(scope="module")
def null():
    rng = np.random.default_rng(5)
    return NullModel(*rng.normal(size=(2, spec_of(len(OURS)).genes)).astype(np.float32))


def test_every_leaf_is_the_models_its_rows_matched_by_gene(null):
    old, ours = spec_of(len(OLD)), spec_of(len(OURS))
    known, axes = random(shapes_of(old)), model.logical_axes(ours)
    row_G = row_of(OLD, OURS)
    adopted = adopt(shapes_of(ours), known, axes, row_G, len(OLD), null)
    wanted, theirs, logical = named(shapes_of(ours)), named(known), named(axes, lambda leaf: isinstance(leaf, tuple))
    assert adopted.keys() == wanted.keys()
    of_genes = {name for name, names in logical.items() if GENES in names}
    assert {"['genes']['table']", "['genes']['loadings']", "['readout']['log_gain']"} < of_genes
    for name, leaf in adopted.items():
        assert (leaf.shape, leaf.dtype) == (wanted[name].shape, np.float32), name
        if name not in of_genes:
            np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
            continue
        for place, gene in enumerate(OURS):
            if gene in OLD:
                np.testing.assert_array_equal(leaf[place], theirs[name][OLD.index(gene)], err_msg=name)
            elif "gene_log_rate" in name or "gene_log_dispersion" in name:
                fitted = null.log_rate_G if "rate" in name else null.log_dispersion_G
                assert leaf[place] == fitted[place]
            elif name == AVERAGE_CELL:
                assert not leaf[place].any()
            else:
                np.testing.assert_allclose(leaf[place], theirs[name][: len(OLD)].mean(axis=0), rtol=1e-4, atol=1e-6)
        assert not leaf[len(OURS) :].any(), name
    assert len(of_genes) == 7


def test_parameters_of_another_make_are_refused_by_name(null):
    old, row_G = spec_of(len(OLD)), row_of(OLD, OURS)
    known = random(shapes_of(old))
    wider = spec_of(len(OURS), encoder=replace(WIDTH, cell_width=12))
    with pytest.raises(InputError, match=r"\['to_cell'\]|\['decoder'\].* are \[.*by the config they would be"):
        adopt(shapes_of(wider), known, model.logical_axes(wider), row_G, len(OLD), null)
    deeper = spec_of(len(OURS), modalities=("rna", "atac", "adt"))
    with pytest.raises(InputError, match=r"no parameters \['own_adt'\]"):
        adopt(shapes_of(deeper), known, model.logical_axes(deeper), row_G, len(OLD), null)


def test_a_contrast_that_the_model_lacks_begins_fresh_and_no_other_leaf(null):
    ours = spec_of(len(OURS), contrasts=True)
    known = random(shapes_of(spec_of(len(OLD))))
    adopted = adopt(shapes_of(ours), known, model.logical_axes(ours), row_of(OLD, OURS), len(OLD), null)
    assert named(shapes_of(ours)).keys() - adopted.keys() == {"['log_temperature']"}


def test_a_model_without_fusion_may_be_given_one_and_one_with_it_keeps_its_own(null, origin):
    ours, row_G = spec_of(len(OURS), fusion=FusionConfig(1)), row_of(OLD, OURS)
    known, axes = random(shapes_of(spec_of(len(OLD)))), model.logical_axes(ours)
    new = named(shapes_of(ours)).keys() - adopt(shapes_of(ours), known, axes, row_G, len(OLD), null).keys()
    assert new == {name for name in named(shapes_of(ours)) if name.startswith("['fusion']")}
    assert len(new) > 5
    known = random(shapes_of(spec_of(len(OLD), fusion=FusionConfig(1))))
    adopted = adopt(shapes_of(ours), known, axes, row_G, len(OLD), null)
    for name in new:
        np.testing.assert_array_equal(adopted[name], named(known)[name])
    words = ["data.corpus=new/", "fusion.blocks=1"]
    assert finetune_config({}, words, origin).fusion == FusionConfig(1)
    assert finetune_config({}, words[:1], origin).fusion == FusionConfig()
    fused = replace(origin, config=replace(origin.config, fusion=FusionConfig(1)))
    assert finetune_config({}, words[:1], fused).fusion == FusionConfig(1)
    with pytest.raises(InputError, match=r"fusion\.blocks is settled by the model blood"):
        finetune_config({}, ["data.corpus=new/", "fusion.blocks=0"], fused)


PEAKS, PROTEINS = ["p0", "p1", "p2", "p3"], ["a0", "a1"]


def space(genes, rng, known) -> FeatureSpace:
    """Features that speak of two genes each."""
    rows_FK = np.array([[known.index(gene) for gene in two] for two in genes], np.int32)
    features = len(rows_FK)
    fitted = rng.normal(size=(2, features)).astype(np.float32)
    return FeatureSpace(rows_FK, np.full((features, 2), 0.5, np.float32), np.zeros((features, 5), np.float32),
                        np.arange(features, dtype=np.int32), *fitted)  # fmt: skip


def start_of(known, spaces, modalities, seed, width=3) -> Start:
    rng = np.random.default_rng(seed)
    rows = -(-len(known) // 128) * 128
    real = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    components = Components(real(rows, width), real(rows), real(), real(rows), real(), real(width), real(rows, width))
    profiles = {name: Profile(real(), real(width), real(rows), real()) for name in spaces}
    sizes = {"rna": rows} | {name: len(some.base_F) for name, some in spaces.items()}
    depths = {name: np.float32(100 + seed) for name in modalities}
    pairs = [(one, other) for one in modalities for other in modalities if one != other]
    linear = {Direction(*pair): real(sizes[pair[1]], width) for pair in pairs}
    own = {name: OwnComponents(real(sizes[name], 2), real(2)) for name in spaces}
    depth_linear = {Direction(*pair): real(width) for pair in pairs}
    return Start(NullModel(real(rows), real(rows)), components, profiles, spaces, depths, own, linear, depth_linear)


@pytest.fixture(scope="module")
def origin():
    rng = np.random.default_rng(1)
    genes_of_peaks = [(OLD[i], OLD[i + 50]) for i in range(4)]
    spaces = {"atac": space(genes_of_peaks, rng, OLD), "adt": space([("G3", "G4"), ("G5", "G6")], rng, OLD)}
    of = [("rna", OLD[:120]), ("atac", PEAKS), ("adt", PROTEINS)]
    features = pd.DataFrame([(name, name, modality) for modality, names in of for name in names])
    features.columns = ["id", "symbol", "modality"]
    genes = pd.DataFrame({"id": OLD, "symbol": OLD, "measured": np.arange(len(OLD)) < 120})
    edges = pd.DataFrame({"tf": [0, 5, 41], "target": [50, 60, 129], "relation": 0, "sign": 1, "weight": 1.0})
    network = RunNetwork(edges.assign(confidence="", split="train"), ("net",))
    config = build_config(
        {
            "data": {"corpus": "old/", "tokens": 77, "expressed_fraction": 0.6, "batch_size": 512},
            "encoder": {"width": 16, "heads": 2, "cell_width": 8},
            "objectives": {"mask_rate": 0.5},
            "run": {"steps": 1_000_000},
        }
    )
    spec = spec_of(len(OLD), modalities=("rna", "atac", "adt"))
    start = start_of(OLD, spaces, ("rna", "atac", "adt"), seed=2)
    return Origin("blood", 40, config, spec, random(shapes_of(spec)), genes, features, network, start, "human")


@pytest.fixture(scope="module")
def begun(origin):
    """(fresh, adopted) simple models of a corpus of RNA and ATAC: peaks p2, p0 and a new one."""
    rng, row_G = np.random.default_rng(3), row_of(OLD, OURS)
    spaces = {"atac": space([("G2", "G52"), ("G0", "G50"), ("N0", "G1")], rng, OURS)}
    fresh = start_of(OURS, spaces, ("rna", "atac"), seed=4)
    features = pd.DataFrame({"id": [*OURS[:24], "p2", "p0", "new"], "modality": ["rna"] * 24 + ["atac"] * 3}).assign(
        symbol=""
    )
    basis = known_basis(origin, spaces, features, row_G, len(fresh.null.log_rate_G))
    fresh = fresh._replace(components=basis.components, profiles=basis.profiles, own=basis.own)
    return fresh, adopt_start(fresh, origin, features, row_G)


def test_the_linear_model_of_cells_is_the_models_by_gene(origin, begun):
    old, found = origin.start.components, begun[1].components
    for place, gene in enumerate(OURS):
        row = OLD.index(gene) if gene in OLD else None
        for name in ("rows_GK", "log_gain_G", "mean_weight_G", "others_GK"):
            wanted = (SILENT if name == "log_gain_G" else 0) if row is None else getattr(old, name)[row]
            np.testing.assert_array_equal(getattr(found, name)[place], wanted, err_msg=name)
    for name in ("scale", "log_depth", "deviation_K"):
        np.testing.assert_array_equal(getattr(found, name), getattr(old, name), err_msg=name)


def test_an_average_cell_is_the_models_by_gene(origin, begun):
    for modality, old in origin.start.profiles.items():
        found = begun[1].profiles[modality]
        np.testing.assert_array_equal(found.scale_K, old.scale_K)
        wanted = [old.mean_weight_G[OLD.index(gene)] if gene in OLD else 0 for gene in OURS]
        np.testing.assert_array_equal(found.mean_weight_G[: len(OURS)], wanted)
        assert not found.mean_weight_G[len(OURS) :].any()


def test_a_modality_s_own_components_are_the_models_by_feature(origin, begun):
    old, found = origin.start.own, begun[1].own
    np.testing.assert_array_equal(found["atac"].axes_FK[:2], old["atac"].axes_FK[[2, 0]])
    # The new peak speaks half of G1, of which the model has one peak, p1, and half of a gene that it does not know.
    np.testing.assert_allclose(found["atac"].axes_FK[2], 0.5 * old["atac"].axes_FK[1], rtol=1e-5)
    np.testing.assert_array_equal(found["atac"].centre_K, old["atac"].centre_K)
    assert found["adt"] is old["adt"]
    np.testing.assert_array_equal(begun[1].depth_linear["rna", "atac"], origin.start.depth_linear["rna", "atac"])


def test_what_the_model_knows_of_a_feature_stays_and_what_is_new_is_fitted(origin, begun):
    fresh, found = begun
    old, direction = origin.start, Direction("rna", "atac")
    for number, theirs in enumerate((2, 0, None)):
        peak_of = lambda which, ours: ours if theirs is None else which  # noqa: B023, E731
        said, row = peak_of(old, fresh), number if theirs is None else theirs
        for name in ("base_F", "spread_F"):
            assert getattr(found.spaces["atac"], name)[number] == getattr(said.spaces["atac"], name)[row]
        np.testing.assert_array_equal(found.linear[direction][number], said.linear[direction][row])
    back = Direction("atac", "rna")
    for place, gene in enumerate(OURS):
        said = old.linear[back][OLD.index(gene)] if gene in OLD else fresh.linear[back][place]
        np.testing.assert_array_equal(found.linear[back][place], said)
    np.testing.assert_array_equal(found.null.log_rate_G, fresh.null.log_rate_G)
    assert found.depths == old.depths | fresh.depths


def test_what_the_corpus_lacks_is_kept_over_the_genes_of_the_run(origin, begun):
    found, old = begun[1], origin.start
    assert [[OURS[row] for row in rows] for rows in found.spaces["adt"].genes_FK] == [["G3", "G4"], ["G5", "G6"]]
    np.testing.assert_array_equal(found.spaces["adt"].base_F, old.spaces["adt"].base_F)
    assert found.depths["adt"] == old.depths["adt"]
    assert found.linear.keys() == old.linear.keys()
    np.testing.assert_array_equal(found.linear["rna", "adt"], old.linear["rna", "adt"])
    # A peak new to the model, told from what the corpus lacks: by its genes, of which the model has peaks of G1 alone.
    np.testing.assert_allclose(found.linear["adt", "atac"][2], 0.5 * old.linear["adt", "atac"][1], rtol=1e-5)
    np.testing.assert_array_equal(found.linear["adt", "atac"][:2], old.linear["adt", "atac"][[2, 0]])


def test_a_corpus_without_rna_keeps_the_models(origin):
    """Its gene table is then the model's, and the genes new to it."""
    ours = [*OLD, "N0"]
    row_G = row_of(OLD, ours)
    fresh = start_of(ours, {"atac": space([("N0", "G1")], np.random.default_rng(0), ours)}, ("atac",), seed=6)
    features = pd.DataFrame({"id": ["new"], "symbol": "", "modality": "atac"})
    found = adopt_start(fresh, origin, features, row_G)
    np.testing.assert_array_equal(found.null.log_rate_G[:130], origin.start.null.log_rate_G[:130])
    assert found.depths["rna"] == origin.start.depths["rna"]


def test_networks_keep_their_edges(origin):
    row_G = row_of(OLD, OURS)
    moved = adopt_network(origin, row_G).edges
    pairs = [(OURS[tf], OURS[target]) for tf, target in zip(moved["tf"], moved["target"], strict=True)]
    assert pairs == [("G0", "G50"), ("G5", "G60"), ("G41", "G129")]
    assert adopt_network(replace(origin, network=None), row_G) is None


def test_the_digest_is_of_the_parameters_and_genes(origin):
    same = replace(origin, name="renamed", step=1)
    other = jax.tree.map(np.copy, origin.params)
    other["to_cell"][0, 0] += 1
    renamed = origin.genes.assign(id=[*OLD[1:], "X"])
    assert origin.digest == same.digest
    assert len({origin.digest, replace(origin, params=other).digest, replace(origin, genes=renamed).digest}) == 3
    assert replace(same, before={"name": "older"}).record() == {
        **{"name": "renamed", "step": 1, "digest": origin.digest},
        "from": {"name": "older"},
    }


def test_the_model_settles_its_sizes_and_the_config_the_rest(origin):
    values = {"data": {"corpus": "new/", "batch_size": 8}, "optimizer": {"learning_rate": 1e-4}, "run": {"steps": 5}}
    config = finetune_config(values, ["encoder.remat=full", "data.tokens=9"], origin)
    assert config.encoder == replace(origin.config.encoder, remat="full")
    assert (config.data.corpus, config.data.batch_size, config.data.tokens) == ("new/", 8, 9)
    assert config.data.expressed_fraction == 0.6
    assert (config.objectives.mask_rate, config.run.steps) == (0.5, 5)
    assert finetune_config(values, [], origin).data.tokens == 77
    more = values | {"objectives": {"pool_weight": 1.0}}
    assert finetune_config(more, [], origin).objectives == replace(origin.config.objectives, pool_weight=1.0)


@pytest.mark.parametrize(
    "key", ["encoder.width", "translator.blocks", "grn.width", "network.tables", "data.expressed_fraction"]
)
def test_what_the_model_settles_cannot_be_set(origin, key):
    group, last = key.split(".")
    with pytest.raises(InputError, match=f"{key} is settled by the model blood"):
        finetune_config({}, ["data.corpus=new/", f"{key}=1"], origin)
    with pytest.raises(InputError, match=f"{key} is settled"):
        finetune_config({"data": {"corpus": "new/"}} | {group: {last: 1}}, [], origin)


class Corpus:
    """As much of a corpus as is looked at."""

    def __init__(self, names, modalities, species="human"):
        self.path, self.modalities = "new/", modalities
        self.manifest = type("Manifest", (), {"species": species})
        self.features = pd.DataFrame({"id": names, "modality": modalities[0]})


def test_another_species_modality_or_naming_is_refused(origin):
    with pytest.raises(InputError, match=r"cells of mouse, and blood is a model of human; .*--orthologs"):
        check_corpus(origin, Corpus(OLD, ("rna",), "mouse"))
    with pytest.raises(
        InputError, match=r"has methylation, which blood never saw \(it was trained on rna, atac, adt\)"
    ):
        check_corpus(origin, Corpus(OLD, ("rna", "methylation")))
    names = [*OLD[:6], *(f"ENSG{i}" for i in range(94))]
    with pytest.raises(InputError, match=r"knows 6 of its 100 genes \(G0, G1, G2, \.\.\.; .* fewer than 20%"):
        genes_known(origin, Corpus(names, ("rna",)), {}, row_of(OLD, names))
    few = [*OLD[:6], "N0"]
    assert genes_known(origin, Corpus(few, ("rna",)), {}, row_of(OLD, few)) == [
        "rna: knows 6 of the corpus's 7 genes",
        "1 genes are new to it",
    ]


def test_features_of_no_known_gene_are_counted(origin):
    ours = [*OLD, "N0", "N1"]
    spaces = {"atac": space([("N0", "N1"), ("N0", "G1"), ("G1", "G2")], np.random.default_rng(0), ours)}
    row_G = row_of(OLD, ours)
    lines = genes_known(origin, Corpus(["p0", "p1", "p2"], ("atac",)), spaces, row_G)
    assert lines[0] == "atac: knows 2 of the corpus's 3 peaks"
    spaces = {"atac": space([("N0", "N1")] * 3, np.random.default_rng(0), ours)}
    with pytest.raises(InputError, match="knows 0 of its 3 peaks"):
        genes_known(origin, Corpus(["p0", "p1", "p2"], ("atac",)), spaces, row_G)


@pytest.mark.parametrize(
    ("losses", "patience", "spent"),
    [
        ((3, 2, 1), 1, False),
        ((1, 2), 1, True),
        ((1, 2), 2, False),
        ((3, 1, 2, 2), 2, True),
        ((1, 1), 1, True),  # no lower one: not better
        ((2, 1, 3, 0), 2, False),
        ((1, 2, 3, 4, 5), 0, False),
        ((), 1, False),
    ],
)
def test_patience_ends_where_evaluations_bring_nothing_lower(losses, patience, spent):
    told = {10 * number: float(loss) for number, loss in enumerate(losses)}
    assert is_spent(told, patience) is spent
    assert is_spent(dict(reversed(told.items())), patience) is spent


def test_losses_are_read_up_to_a_step(tmp_path):
    lines = [
        '{"step": 0, "heldout/loss": 2.0}',
        '{"step": 1, "train/loss": 9}',
        '{"step": 4, "heldout/loss": 1.5}',
        '{"st',
    ]
    assert read_losses(tmp_path, 9) == {}
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_losses(tmp_path, 9) == {0: 2.0, 4: 1.5}
    assert read_losses(tmp_path, 3) == {0: 2.0}


def test_patience_without_evaluations_is_refused(tiny):
    with pytest.raises(InputError, match=r"run\.patience=2: needs evaluations"):
        tiny("run.patience=2", "run.eval_every=0")


def test_leaves_that_may_be_new_are_leaves_of_the_model():
    """Names of leaves are written out in the code: here they are held against the model."""
    names = named(shapes_of(spec_of(len(OURS), contrasts=True, fusion=FusionConfig(1)))).keys()
    assert adoption.FROM_CORPUS.keys() <= names
    assert all(any(name.startswith(beginning) for name in names) for beginning in adoption.MAY_BE_NEW)


@pytest.mark.slow
def test_parameters_lie_over_the_mesh_as_fresh_ones_and_are_the_models(origin):
    """Sharded over eight devices, each has its part; the optimizer begins at nothing."""
    ours = spec_of(len(OURS), modalities=origin.spec.modalities)
    row_G, mesh = row_of(OLD, OURS), make_mesh(MeshConfig(2, 2, 2))
    optimizer = make_optimizer(OptimizerConfig(), 10)
    start = start_of(OURS, {}, ("rna",), seed=7)
    fresh = create_state(ours, optimizer, mesh, 0, start)
    places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    state = adoption.begin_from(fresh, origin, ours, optimizer, row_G, start.null)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == places
    assert any(not place.is_fully_replicated for place in jax.tree.leaves(places.params))
    wanted = adopt(shapes_of(ours), origin.params, model.logical_axes(ours), row_G, len(OLD), start.null)
    for name, leaf in named(jax.device_get(state.params)).items():
        np.testing.assert_array_equal(leaf, wanted[name], err_msg=name)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(state.opt_state)))
    assert int(state.step) == 0
