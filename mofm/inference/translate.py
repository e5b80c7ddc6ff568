"""One modality of a file's cells told from another: mean and uncertainty of every feature asked for, streamed to a file.

Cells go through the encoder a batch at a time, and each batch's states are asked for features a block at a time, so
memory is a batch of cells times a block of features, whatever the file and however many peaks are asked for.

What is written is the likelihood's mean and standard deviation of a cell of the median depth of training (counts of RNA and
ADT, the chance to be open of ATAC, the fraction of methylated reads), moved so that a feature's mean over training's cells
is that of whole cells: training sees few of the zeros. The deviation is what one more measurement of such a cell would
vary by, as learned from cells of training; it does not know of cells that are like none of them.

Of the two answers of the decoder, from token states and from the cell embedding, the mean of their predictors is taken:
one is bolder where much is known of the feature's neighbours, the other steadier.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from mofm.nn import model as nn
from mofm.nn.linear import Reader, linear_predictor, linear_profile
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.objectives.moments import moments
from mofm.omics.readers import Reading, Source
from mofm.omics.table import CountTable
from mofm.progress import cells_progress
from mofm.training import workdir as workdirs
from mofm.training.profiles import make_reader

FEATURES_AT_ONCE = 2048
"""Features asked for together: a block of the output, and of memory."""


@dataclass(frozen=True)
class Told:
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


def translate_file(
    model: PretrainedModel,
    path: Source,
    output: Path,
    targets: Targets,
    reading: Reading | None = None,
    **options,
) -> Told:
    """Write an h5ad of `targets` told from a file's cells: X the means, layers["sd"] the deviations, float32.

    obs is the file's; uns["mofm"] says by which model it was made, and from what. `output` appears whole or not at all.

    Args:
      reading: how the file is read; where it has several modalities, which is translated.
      options: fields of `Options`.

    Raises:
      InputError: the file cannot be used; it has several modalities, or only the one that is asked for.
    """
    chosen = Options(**options)
    with model.opened(path, reading or Reading(None), chosen) as matched, output_file(Path(output)) as temporary:
        table, matching = _source_of(matched, model, targets.modality)
        obs, _ = writable_obs(table.obs)
        with h5py.File(temporary, "w") as file:
            mean, deviation = _begin(file, obs, targets.var)
            report = _fill(mean, deviation, model, table, matching, targets, chosen)
            anndata.io.write_elem(file, "uns", {"mofm": report})
    return Told(table.modality, len(obs), len(targets.var), report["share_of_counts_known"])


def translate_cells(
    model: PretrainedModel, source: Source, targets: Targets, reading: Reading | None = None, **options
) -> anndata.AnnData:
    """What `translate_file` writes, in memory: cells x features x 8 bytes."""
    chosen = Options(**options)
    with model.opened(source, reading or Reading(None), chosen) as matched:
        table, matching = _source_of(matched, model, targets.modality)
        mean, deviation = (np.empty((table.n_cells, len(targets.var)), np.float32) for _ in range(2))
        report = _fill(mean, deviation, model, table, matching, targets, chosen)
        obs, _ = writable_obs(table.obs)
    return anndata.AnnData(mean, obs, targets.var.copy(), uns={"mofm": report}, layers={"sd": deviation})


def _fill(
    mean: h5py.Dataset | np.ndarray,
    deviation: h5py.Dataset | np.ndarray,
    model: PretrainedModel,
    table: CountTable,
    matching: Matching,
    targets: Targets,
    options: Options,
) -> dict[str, object]:
    """Fills the rows of both, a batch of cells at a time; returns the report."""
    totals = np.zeros(2)
    with cells_progress(f"translating {table.modality} to {targets.modality}", table.n_cells, options.quiet) as go:
        for start, mean_BF, deviation_BF, known in _blocks(model, table, matching, targets, options):
            rows = slice(start, start + len(mean_BF))
            mean[rows], deviation[rows] = mean_BF, deviation_BF
            totals += known
            go(len(mean_BF))
    return _report(model, table, matching, targets, float(totals[1] / max(totals[0], 1.0)))


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


def _begin(file: h5py.File, obs: pd.DataFrame, var: pd.DataFrame) -> tuple[h5py.Dataset, h5py.Dataset]:
    """The parts of an h5ad file that are known beforehand, and its X and layers["sd"], to be filled row by row."""
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    anndata.io.write_elem(file, "obs", obs)
    anndata.io.write_elem(file, "var", var)
    for key in ("layers", "obsm", "obsp", "varm", "varp"):
        anndata.io.write_elem(file, key, {})
    shape, chunks = (len(obs), len(var)), (min(64, len(obs)), min(FEATURES_AT_ONCE, len(var)))
    filled = [
        file.create_dataset(key, shape, np.float32, chunks=chunks, compression="lzf") for key in ("X", "layers/sd")
    ]
    for dataset in filled:
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return filled[0], filled[1]


def _blocks(
    model: PretrainedModel, table: CountTable, matching: Matching, targets: Targets, options: Options
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """(first cell, mean_BF, deviation_BF, [total counts, known counts]) of every batch of cells."""
    start = 0
    loading_FR, models, reader = targets.linear.get(table.modality), model.start, None
    if loading_FR is not None:
        reader = make_reader(table.modality, matching.space, models.components, models.profiles.get(table.modality))
    for part, view in model.views(table, matching, options):
        outputs = _see(model.spec, table.modality, model.params, model.states.rows_GD, view, matching.space, reader)
        blocks = []
        for first in range(0, len(targets.rows_F), FEATURES_AT_ONCE):
            of = slice(first, first + FEATURES_AT_ONCE)
            rows_F = targets.rows_F[of]
            lacking = min(FEATURES_AT_ONCE, len(targets.rows_F)) - len(rows_F)  # one shape: one compilation
            told = _tell(
                model.spec,
                table.modality,
                targets.modality,
                model.params,
                model.states.rows_GD,
                outputs,
                view.mask_BL,
                np.pad(rows_F, (0, lacking)),
                np.float32(targets.depth),
                targets.space,
                loading_FR,
            )
            blocks.append([np.asarray(leaf)[: part.n_cells, : len(rows_F)] for leaf in told])
        mean_BF, deviation_BF = (np.concatenate(leaves, axis=1) for leaves in zip(*blocks, strict=True))
        yield start, mean_BF, deviation_BF, counts_known(part, matching.rows_F).sum(axis=0)
        start += part.n_cells


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
def _tell(
    spec: ModelSpec,
    source: Modality,
    target: Modality,
    params: Params,
    genes_GD: jax.Array,
    outputs: nn.Outputs,
    shown_BM: jax.Array,
    rows_F: jax.Array,
    depth: jax.Array,
    space: FeatureSpace | None,
    loading_FR: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """mean_BF and deviation_BF of features `rows_F` in cells of one depth."""
    cells, features = shown_BM.shape[0], rows_F.shape[0]
    zeros_BF, zeros_B = jnp.zeros((cells, features)), jnp.zeros(cells, jnp.int32)
    features_BF = jnp.broadcast_to(rows_F, (cells, features))
    asked = TokenBatch(
        features_BF,
        zeros_BF,
        zeros_BF,
        zeros_BF == 0,
        jnp.full(cells, depth, jnp.float32),
        zeros_B,
        zeros_B,
        zeros_BF + 1,
    )
    linear_BF = None if loading_FR is None else linear_predictor(outputs.linear_BR, loading_FR, features_BF, target)
    told = nn.translate(spec, params, genes_GD, outputs, shown_BM, asked, source, target, space, linear_BF).prediction
    predictor_BF = (told.token_BL + told.cell_BL) / 2
    mean_BF, variance_BF = moments(told, predictor_BF, asked.library_B, target)
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
        "depth": targets.depth,
        "species": model.named_by.species,
        "source_build": matching.build or "",
        "target_build": targets.build or "",
        "share_of_counts_known": share,
        "features_not_known": np.array(targets.unknown, dtype=str),
        "notes": np.array([*table.notes, *matching.notes], dtype=str),
    }
