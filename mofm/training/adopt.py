"""A new run's parameters and simple models, taken over from a pretrained model: at step 0 the run is that model.

Leaf by leaf, by the logical axes that the model gives each: along "genes" rows are matched by gene id; all else is taken
as it is and has one shape. The genes of the run are the corpus's RNA features, then all others that the model knows, then
those new to both that regions speak of; so nothing that the model knew is lost, and a file of genes that it knows is embedded
as by the model (of a cell's zeros others are drawn, where not all are shown: their sample goes by the order of the rows).

Choices and their cost:
- A gene that the model does not know begins as an average gene: at the mean of the model's rows, from which it departs as
  cells show (for new words of language models Hewitt 2021 shows that this bounds what they can do to the others'
  predictions). Its mean rate and dispersion are those of the new corpus.
- The linear model of cells (`Basis`) stays the model's: loadings of the linear translation are expressed in it, and the
  translator was trained on what they leave. What the model knows of a feature (its loading, what the mean predictor says of
  it) stays as well; only new features are fitted on the new corpus, read by the old profiles. Refitting all would be a better
  linear model under a translator that corrects another one. The cost: where the cells are of another kind than those of
  pretraining, what is new is fitted off the old centre, which training has to take up.
- So "null_nll" of other omics than RNA is that of the model's own mean predictor where it knows the feature.
- Depths, at which translations are given, are the new corpus's.
- Modalities of the model that the corpus lacks are kept, and not trained but for weight decay.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd

from mofm.axes import GENES, Modality
from mofm.batch import FeatureSpace, Spaces
from mofm.errors import InputError
from mofm.linear.basis import Basis
from mofm.linear.components import SILENT, rows_by_feature
from mofm.linear.null import NullModel
from mofm.linear.own_components import OwnComponents
from mofm.linear.start import Start
from mofm.linear.translation import LinearTranslation
from mofm.nn import model
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.omics.features import places_among
from mofm.training.network import RunNetwork
from mofm.training.origin import Origin
from mofm.training.state import TrainState

FROM_CORPUS = {"['decoder']['gene_log_rate']": "log_rate_G", "['decoder']['gene_log_dispersion']": "log_dispersion_G"}
"""Leaves whose rows of new genes are the mean predictor's."""
AVERAGE_CELL = "['readout']['average']"
"""In what the model calls an average cell no new gene is expressed: its cells are read as they were."""
MAY_BE_NEW = ("['log_temperature']", "['fusion']")
"""Leaves, by how their names begin, that a run may ask for and a model may lack. They begin fresh, and change nothing yet."""


def rows_of(origin: Origin, genes: pd.DataFrame) -> np.ndarray:
    """row_G, int32: the model's row of each gene; -1 for one that it does not know."""
    return places_among(origin.genes["id"], genes["id"])


def adopt(
    fresh: Params, known: Params, axes: Params, row_G: np.ndarray, known_genes: int, null: NullModel
) -> dict[str, np.ndarray]:
    """The leaves of `fresh` with a model's values, by their names as `jax.tree_util.keystr` writes them. Pure.

    Args:
      fresh: anything with shapes: the tree that is wanted.
      known: the model's parameters, on the host.
      axes: of `fresh`, for each leaf the tuple of its logical axes.
      row_G: of each of the wanted genes the model's row, or -1; rows past its end are padding, and 0.
      known_genes: of the model; its rows past them are padding.
      null: of the new corpus, padded as `fresh` is.

    Raises:
      InputError: leaves that are missing, or of another shape but for the genes'.
    """
    ours, theirs = _by_name(fresh), _by_name(known)
    logical = _by_name(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    adopted = {}
    for name, leaf in ours.items():
        if name not in theirs:
            if name.startswith(MAY_BE_NEW):
                continue
            raise InputError(f"the model has no parameters {name}: it is of another make than the config says")
        old, place = theirs[name], logical[name].index(GENES) if GENES in logical[name] else None
        _check_shape(name, leaf.shape, old.shape, place)
        if place is None:
            adopted[name] = old
            continue
        old_first = np.moveaxis(old, place, 0)
        begin = 0.0 if name == AVERAGE_CELL else old_first[:known_genes].mean(axis=0, dtype=np.float64)
        new = _rows(old_first, row_G, leaf.shape[place], begin)
        if name in FROM_CORPUS:
            is_new_G = np.flatnonzero(row_G < 0)
            new[is_new_G] = getattr(null, FROM_CORPUS[name])[is_new_G]
        adopted[name] = np.moveaxis(new, 0, place)
    return adopted


def begin_from(
    state: TrainState,
    origin: Origin,
    spec: ModelSpec,
    optimizer: optax.GradientTransformation,
    row_G: np.ndarray,
    null: NullModel,
) -> TrainState:
    """A fresh state with the model's parameters, each laid where the fresh one lies: none is ever whole on one device.

    Raises:
      InputError: as `adopt`.
    """
    adopted = adopt(state.params, origin.params, model.logical_axes(spec), row_G, len(origin.genes), null)

    def placed(path, leaf: jax.Array) -> jax.Array:
        if (new := adopted.get(jax.tree_util.keystr(path))) is None:
            return leaf
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda part: np.asarray(new[part], leaf.dtype))

    params = jax.tree_util.tree_map_with_path(placed, state.params)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    return TrainState(state.step, params, jax.jit(optimizer.init, out_shardings=places)(params))


def known_basis(origin: Origin, spaces: Spaces, features: pd.DataFrame, row_G: np.ndarray, rows: int) -> Basis:
    """How the model reads cells, over the genes and features of the run; new genes do not enter.

    Args:
      spaces, features: of the corpus; features with columns id, symbol, modality.
      rows: of the gene table, with padding.
    """
    old = origin.start.components
    nothing = {"log_gain_G": SILENT}
    along_genes = {name: leaf for name, leaf in old._asdict().items() if name.split("_")[-1].startswith("G")}
    components = old._replace(
        **{name: _rows(leaf, row_G, rows, nothing.get(name, 0.0)) for name, leaf in along_genes.items()}
    )
    known, number_of = _spaces_over_run(origin, row_G), _numbers_of(origin, features)
    own = {}
    for modality, space in spaces.items():
        if modality in origin.start.own:
            axes_FK, centre_K = origin.start.own[modality]
            moved_FK = rows_by_feature(space, number_of[modality], known[modality], axes_FK, rows)
            own[modality] = OwnComponents(moved_FK, centre_K)
    profiles = {
        modality: profile._replace(mean_weight_G=_rows(profile.mean_weight_G, row_G, rows, 0.0))
        for modality, profile in origin.start.profiles.items()
    }
    return Basis(components, profiles, own)


def adopt_start(fresh: Start, origin: Origin, features: pd.DataFrame, row_G: np.ndarray) -> Start:
    """The simple models of a run: the model's where it knows a feature, and those fitted on the corpus where not.

    Args:
      fresh: fitted on the corpus, cells being read as the model reads them (`known_basis`).
      features: of the corpus, columns id, symbol, modality.
      row_G: as `rows_of` gives it.
    """
    old, rows = origin.start, len(fresh.null.log_rate_G)
    spaces, number_of = _spaces_over_run(origin, row_G), _numbers_of(origin, features)
    known = spaces | {
        name: _with_known(space, old.spaces[name], number_of[name]) for name, space in fresh.spaces.items()
    }
    null = fresh.null
    if "rna" not in number_of:
        null = NullModel(*(_rows(leaf, row_G, rows, leaf[: len(origin.genes)].mean()) for leaf in old.null))
    return Start(
        null,
        fresh.components,
        fresh.profiles,
        known,
        old.depths | fresh.depths,
        old.own | fresh.own,
        _adopt_linear(fresh, old, spaces, number_of, row_G),
        fresh.depth_linear | old.depth_linear,
    )


def adopt_network(origin: Origin, row_G: np.ndarray) -> RunNetwork | None:
    """The model's networks over the genes of the run: the same edges, held out as they were."""
    if origin.network is None:
        return None
    edges, row_of = origin.network.edges, _row_in_run(origin, row_G)
    moved = {end: row_of[edges[end].to_numpy()] for end in ("tf", "target")}
    return replace(origin.network, edges=edges.assign(**moved))


def _adopt_linear(
    fresh: Start,
    old: Start,
    spaces: Mapping[Modality, FeatureSpace],
    number_of: Mapping[Modality, np.ndarray],
    row_G: np.ndarray,
) -> LinearTranslation:
    """Loadings of every direction of the model; `spaces` are its own, over the genes of the run."""
    found, genes = {}, len(fresh.null.log_rate_G)
    for direction, loading_FK in old.linear.items():
        target = direction.target
        if target == "rna":
            new_FK = fresh.linear.get(direction, 0.0)
            found[direction] = _rows(loading_FK, row_G, genes, new_FK if np.ndim(new_FK) == 0 else new_FK[: len(row_G)])
        elif target not in number_of:
            found[direction] = loading_FK
        elif direction in fresh.linear:
            new_FK = fresh.linear[direction]
            found[direction] = _rows(loading_FK, number_of[target], len(new_FK), new_FK)
        else:
            of = (fresh.spaces[target], number_of[target], spaces[target])
            found[direction] = rows_by_feature(*of, loading_FK, genes)
    return found


def _row_in_run(origin: Origin, row_G: np.ndarray) -> np.ndarray:
    """Of each of the model's genes its row in the run, which has all of them."""
    row_of = np.zeros(len(origin.genes), np.int32)
    row_of[row_G[row_G >= 0]] = np.flatnonzero(row_G >= 0)
    return row_of


def _spaces_over_run(origin: Origin, row_G: np.ndarray) -> Spaces:
    """The model's own features, spoken of in the genes of the run."""
    row_of = _row_in_run(origin, row_G)
    return {name: space._replace(genes_FK=row_of[space.genes_FK]) for name, space in origin.start.spaces.items()}


def _numbers_of(origin: Origin, features: pd.DataFrame) -> dict[Modality, np.ndarray]:
    """By modality, the model's number of each of the corpus's features; -1 for one that it does not know."""
    known = origin.features
    return {
        modality: places_among(known.loc[known["modality"] == modality, "id"], some["id"])
        for modality, some in features.groupby("modality", sort=False)
    }


def _with_known(space: FeatureSpace, old: FeatureSpace, number_F: np.ndarray) -> FeatureSpace:
    """The space with what the model's mean predictor says of the features that it knows."""
    is_known_F = number_F >= 0
    said = {
        name: np.where(is_known_F, getattr(old, name)[number_F], getattr(space, name))
        for name in ("base_F", "spread_F")
    }
    return space._replace(**said)


def _rows(leaf: np.ndarray, row_G: np.ndarray, rows: int, new: Any) -> np.ndarray:
    """`rows` rows: those of `leaf` by row_G, `new` (one for all, or of each) where it is -1, and 0 past its end."""
    out = np.zeros((rows, *leaf.shape[1:]), leaf.dtype)
    out[: len(row_G)] = new
    is_known = np.flatnonzero(row_G >= 0)
    out[is_known] = leaf[row_G[is_known]]
    return out


def _check_shape(name: str, wanted: tuple[int, ...], found: tuple[int, ...], genes_axis: int | None) -> None:
    same = [a == b or axis == genes_axis for axis, (a, b) in enumerate(zip(wanted, found, strict=False))]
    if len(wanted) != len(found) or not all(same):
        raise InputError(f"the model's parameters {name} are {list(found)}, by the config they would be {list(wanted)}")


def _by_name(tree: Any, is_leaf=None) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
