"""One modality of a file's cells predicted from another: mean and uncertainty of every feature asked for, streamed to a file.

Cells go through the encoder a batch at a time, and each batch's states are asked for features a block at a time, so
memory is a batch of cells times a block of features, whatever the file and however many peaks are asked for.

What is written is the likelihood's mean and standard deviation (counts of RNA and ADT, the chance to be open of ATAC, the
fraction of methylated reads) of a cell of the median depth of training, or of the depth that the cell's source predicts, by
pairs (`linear/translation.py`). The deviation is what one more measurement of such a cell would
vary by, as learned from cells of training; it does not know of cells that are like none of them.

Of the two answers of the decoder, from token states and from the cell embedding, the mean of their predictors is taken:
one is bolder where much is known of the feature's neighbours, the other steadier.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anndata
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import mofm
from mofm.axes import Modality
from mofm.batch import FeatureSpace, TokenBatch
from mofm.corpus.tables import writable_obs
from mofm.errors import InputError
from mofm.files import output_file
from mofm.inference.matching import Matching
from mofm.inference.model import Options, PretrainedModel, counts_known
from mofm.inference.targets import Targets
from mofm.linear.components import rows_by_feature
from mofm.linear.profiles import make_reader
from mofm.nn import model as nn
from mofm.nn.linear import Reader, linear_answer, linear_profile
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.objectives.moments import moments
from mofm.omics.features import places_among
from mofm.omics.readers import Reading, Source
from mofm.omics.table import CountTable
from mofm.progress import cells_progress
from mofm.training import workdir as workdirs

FEATURES_AT_ONCE = 2048
"""Features asked for together: a block of the output, and of memory."""
MOST_NATS = 2.0
"""By how much at most a predicted depth differs from the median: cells unlike all of training could be anywhere."""


@dataclass(frozen=True)
class Translated:
    """What was written, for people.

    Attributes:
      source: the modality that was read.
      cells, features: how many.
      share_of_counts_known: of the source's counts, those in features that the model knows.
    """

    source: Modality
    cells: int
    features: int
    share_of_counts_known: float


class _Block(NamedTuple):
    """What is predicted of a batch of cells. `counts`: in all, and in features that the model knows."""

    mean_BF: np.ndarray
    deviation_BF: np.ndarray
    depth_B: np.ndarray
    counts: np.ndarray


def translate_file(
    model: PretrainedModel,
    path: Source,
    output: Path,
    targets: Targets,
    reading: Reading | None = None,
    **options,
) -> Translated:
    """Write an h5ad of `targets` predicted from a file's cells: X the means, layers["sd"] the deviations, float32.

    obs is the file's, and "mofm_depth", the depth at which each cell was predicted; uns["mofm"] says by which model it was
    made, and from what. `output` appears whole or not at all.

    Args:
      reading: how the file is read; where it has several modalities, which is translated.
      options: fields of `Options`.

    Raises:
      InputError: the file cannot be used; it has several modalities, or only the one that is asked for.
    """
    chosen = Options(**options)
    with model.opened(path, reading or Reading(None), chosen) as matched, output_file(Path(output)) as temporary:
        table, matching = _source_of(matched, model, targets.modality)
        with h5py.File(temporary, "w") as file:
            mean, deviation = _begin(file, table.n_cells, targets.var)
            depth_N, report = _fill(mean, deviation, model, table, matching, targets, chosen)
            anndata.io.write_elem(file, "obs", _with_depth(table, depth_N))
            anndata.io.write_elem(file, "uns", {"mofm": report})
    return Translated(table.modality, table.n_cells, len(targets.var), report["share_of_counts_known"])


def translate_cells(
    model: PretrainedModel, source: Source, targets: Targets, reading: Reading | None = None, **options
) -> anndata.AnnData:
    """What `translate_file` writes, in memory: cells x features x 8 bytes."""
    chosen = Options(**options)
    with model.opened(source, reading or Reading(None), chosen) as matched:
        table, matching = _source_of(matched, model, targets.modality)
        mean, deviation = (np.empty((table.n_cells, len(targets.var)), np.float32) for _ in range(2))
        depth_N, report = _fill(mean, deviation, model, table, matching, targets, chosen)
        obs = _with_depth(table, depth_N)
    return anndata.AnnData(mean, obs, targets.var.copy(), uns={"mofm": report}, layers={"sd": deviation})


def _fill(
    mean: h5py.Dataset | np.ndarray,
    deviation: h5py.Dataset | np.ndarray,
    model: PretrainedModel,
    table: CountTable,
    matching: Matching,
    targets: Targets,
    options: Options,
) -> tuple[np.ndarray, dict[str, object]]:
    """Fills the rows of both, a batch of cells at a time. Returns the cells' depths, float32, and the report."""
    totals, depth_N = np.zeros(2), np.empty(table.n_cells, np.float32)
    with cells_progress(f"translating {table.modality} to {targets.modality}", table.n_cells, options.quiet) as go:
        for start, predicted in _blocks(model, table, matching, targets, options):
            rows = slice(start, start + len(predicted.depth_B))
            mean[rows], deviation[rows], depth_N[rows] = predicted.mean_BF, predicted.deviation_BF, predicted.depth_B
            totals += predicted.counts
            go(len(predicted.depth_B))
    return depth_N, _report(model, table, matching, targets, float(totals[1] / max(totals[0], 1.0)))


def _with_depth(table: CountTable, depth_N: np.ndarray) -> pd.DataFrame:
    """The cells' obs, as it can be written, and the depth at which each was predicted."""
    obs, _ = writable_obs(table.obs)
    return obs.assign(mofm_depth=depth_N)


def _source_of(
    matched: list[tuple[CountTable, Matching]], model: PretrainedModel, target: Modality
) -> tuple[CountTable, Matching]:
    """The one table that is translated."""
    path = matched[0][0].path
    usable = [(table, matching) for table, matching in matched if table.modality != target]
    if len(usable) == 1 and usable[0][0].modality in model.spec.modalities:
        return usable[0]
    found = ", ".join(table.modality for table, _ in matched)
    if len(usable) > 1:
        raise InputError(f"{path}: has {found}: say with --modality which of them is to be translated to {target}")
    if not usable:
        raise InputError(f"{path}: has {found} alone, which is what it is to be translated to: nothing to do")
    raise InputError(f"{path}: {found} is nothing that {model.name} was trained on: {model.spec.modalities}")


def _begin(file: h5py.File, cells: int, var: pd.DataFrame) -> tuple[h5py.Dataset, h5py.Dataset]:
    """The parts of an h5ad file that are known beforehand, and its X and layers["sd"], to be filled row by row."""
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    anndata.io.write_elem(file, "var", var)
    for key in ("layers", "obsm", "obsp", "varm", "varp"):
        anndata.io.write_elem(file, key, {})
    shape, chunks = (cells, len(var)), (min(64, cells), min(FEATURES_AT_ONCE, len(var)))
    filled = [
        file.create_dataset(key, shape, np.float32, chunks=chunks, compression="lzf") for key in ("X", "layers/sd")
    ]
    for dataset in filled:
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return filled[0], filled[1]


def _blocks(
    model: PretrainedModel, table: CountTable, matching: Matching, targets: Targets, options: Options
) -> Iterator[tuple[int, _Block]]:
    """The first cell of every batch of cells, and what is predicted of them."""
    start, loading_FR = 0, targets.linear.get(table.modality)
    reader = None if loading_FR is None else _reader(model, table.modality, matching)
    depth_R = _depth_loading(model, targets, table.modality)
    for part, view in model.views(table, matching, options):
        outputs = _see(model.spec, table.modality, model.params, model.states.rows_GD, view, matching.space, reader)
        depth_B = np.full(len(view.cell_B), targets.depth, np.float32)
        if depth_R is not None:
            nats_B = np.clip(np.asarray(outputs.linear_BR) @ depth_R, -MOST_NATS, MOST_NATS)
            depth_B *= np.exp(nats_B)
        blocks = []
        for first in range(0, len(targets.rows_F), FEATURES_AT_ONCE):
            of = slice(first, first + FEATURES_AT_ONCE)
            rows_F = targets.rows_F[of]
            lacking = min(FEATURES_AT_ONCE, len(targets.rows_F)) - len(rows_F)  # one shape: one compilation
            predicted = _predict(
                model.spec,
                table.modality,
                targets.modality,
                model.params,
                model.states.rows_GD,
                outputs,
                view.mask_BL,
                np.pad(rows_F, (0, lacking)),
                depth_B,
                targets.space,
                loading_FR,
            )
            blocks.append([np.asarray(leaf)[: part.n_cells, : len(rows_F)] for leaf in predicted])
        mean_BF, deviation_BF = (np.concatenate(leaves, axis=1) for leaves in zip(*blocks, strict=True))
        counts = counts_known(part, matching.rows_F).sum(axis=0)
        yield start, _Block(mean_BF, deviation_BF, depth_B[: part.n_cells], counts)
        start += part.n_cells


def _reader(model: PretrainedModel, source: Modality, matching: Matching) -> Reader:
    """How the linear translation reads the file's features."""
    start, own = model.start, model.start.own.get(source)
    if own is not None:
        number_C = places_among(model.features(source)["id"], matching.ids)
        known = (matching.space, number_C, start.spaces[source], own.axes_FK, len(model.genes))
        own = rows_by_feature(*known), own.centre_K
    return make_reader(source, matching.space, start.components, start.profiles.get(source), own)


def _depth_loading(model: PretrainedModel, targets: Targets, source: Modality) -> np.ndarray | None:
    """loading_R of the log depth, or None where all cells are predicted at one."""
    if targets.depth_linear is None:
        return None
    if source not in targets.depth_linear:
        raise InputError(
            f"{model.name} cannot predict the depth of {targets.modality} from {source}: it was trained without cells that "
            "have both, or without translator.linear. Ask for the median depth"
        )
    return targets.depth_linear[source]


@partial(jax.jit, static_argnames=("spec", "source"))  # one cache a process, not one a file
def _see(
    spec: ModelSpec,
    source: Modality,
    params: Params,
    genes_GD: jax.Array,
    view: TokenBatch,
    space: FeatureSpace | None,
    reader: Reader | None,
) -> nn.Outputs:
    outputs = nn.apply(spec, params, genes_GD, view, jnp.zeros_like(view.mask_BL), source, space)
    return outputs if reader is None else outputs._replace(linear_BR=linear_profile(reader, view, source))


@partial(jax.jit, static_argnames=("spec", "source", "target"))
def _predict(
    spec: ModelSpec,
    source: Modality,
    target: Modality,
    params: Params,
    genes_GD: jax.Array,
    outputs: nn.Outputs,
    shown_BM: jax.Array,
    rows_F: jax.Array,
    depth_B: jax.Array,
    space: FeatureSpace | None,
    loading_FR: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """mean_BF and deviation_BF of features `rows_F` in cells of these depths."""
    cells, features = shown_BM.shape[0], rows_F.shape[0]
    zeros_BF, zeros_B = jnp.zeros((cells, features)), jnp.zeros(cells, jnp.int32)
    features_BF = jnp.broadcast_to(rows_F, (cells, features))
    asked = TokenBatch(
        features_BF,
        zeros_BF,
        zeros_BF,
        zeros_BF == 0,
        depth_B,
        zeros_B,
        zeros_B,
        zeros_BF + 1,
    )
    linear = None if loading_FR is None else linear_answer(outputs.linear_BR, loading_FR, features_BF, target)
    predicted = nn.translate(spec, params, genes_GD, outputs, shown_BM, asked, source, target, space, linear).prediction
    predictor_BF = (predicted.token_BL + predicted.cell_BL) / 2
    mean_BF, variance_BF = moments(predicted, predictor_BF, asked.library_B, target)
    return mean_BF, jnp.sqrt(variance_BF)


def _report(
    model: PretrainedModel, table: CountTable, matching: Matching, targets: Targets, share: float
) -> dict[str, object]:
    return {
        "version": mofm.__version__,
        "model": model.name,
        "step": model.step,
        "config_hash": workdirs.config_hash(model.config),
        "source": table.modality,
        "target": targets.modality,
        "depth": "median" if targets.depth_linear is None else "predicted",
        "species": model.named_by.species,
        "source_build": matching.build or "",
        "target_build": targets.build or "",
        "share_of_counts_known": share,
        "features_not_known": np.array(targets.unknown, dtype=str),
        "notes": np.array([*table.notes, *matching.notes], dtype=str),
    }
