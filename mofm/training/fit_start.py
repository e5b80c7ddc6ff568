"""The simple models that a run begins from, fitted on the first training cells that it will see."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from mofm.axes import Modality
from mofm.batch import CellBatch, Spaces, TokenBatch
from mofm.batches.stream import Stream
from mofm.corpus.store import Corpus
from mofm.linear.basis import Basis
from mofm.linear.batch_directions import fit_off_batches
from mofm.linear.components import fit_components, gene_activity, read_cells
from mofm.linear.null import fit_null, whole_cells, with_mean_predictor
from mofm.linear.own_components import fit_own_components
from mofm.linear.profiles import fit_profile
from mofm.linear.start import Start
from mofm.linear.translation import Views, fit_linear_translation
from mofm.nn.spec import ModelSpec
from mofm.training.config import Config

COMPONENT_CELLS = 8_192
"""Training cells on which they are fitted, or all where there are fewer."""
COMPONENT_BATCH, COMPONENT_TOKENS = 256, 4_096
"""They are read in batches of this many cells and of all the genes that a cell expresses, up to this many."""


def fit_start(
    corpus: Corpus,
    stream: Stream,
    config: Config,
    spec: ModelSpec,
    spaces: Spaces,
    basis: Basis | None = None,
    report: Callable[[str], object] = print,
) -> Start:
    """The simple models of a run, fitted on training cells: the first that it will see.

    Args:
      basis: a linear model of cells, and how each modality is read, that stay as they are (see `adopt.py`). None: these
        are fitted too.
      report: is given what a person should know of the corpus, a line each.
    """
    data = replace(config.data, label_key=None, batch_key=None)  # they are fitted on counts
    known = min(COMPONENT_CELLS, stream.n_train_cells)
    batches = -(-known // COMPONENT_BATCH)
    cells = known // batches  # of 357 cells two batches of 178, where one of 256 would leave out the rest
    tokens = dict.fromkeys(("tokens", "atac_tokens", "adt_tokens", "methylation_tokens"), COMPONENT_TOKENS)
    whole = replace(data, batch_size=cells, quota_multiple=1, **tokens)
    expressed = replace(whole, expressed_fraction=1.0)
    # Streams of their own: not this host's part alone.
    whole, expressed = (_views(Stream(corpus, some, config.seed).batches(0, batches)) for some in (whole, expressed))

    features = {"rna": spec.genes} | {modality: len(space.base_F) for modality, space in spaces.items()}
    shown = {
        modality: whole_cells(expressed.get(modality, []), count, partial(stream.measured, modality=modality))
        for modality, count in features.items()
    }
    spaces = {
        modality: with_mean_predictor(space, modality, expressed[modality], shown[modality])
        for modality, space in spaces.items()
    }
    basis = basis or _fit_basis(stream, config, spec, spaces, whole, expressed, report)
    null = fit_null(shown["rna"])
    depths = {modality: np.float32(shown[modality].depth) for modality in expressed}
    linear, depth_linear = {}, {}
    if spec.translates and spec.translator.linear:
        linear, depth_linear = fit_linear_translation(whole, expressed, spaces, basis, stream.measured, report)
    return Start(null, basis.components, basis.profiles, spaces, depths, basis.own, linear, depth_linear)


def _fit_basis(
    stream: Stream,
    config: Config,
    spec: ModelSpec,
    spaces: Spaces,
    whole: Views,
    expressed: Views,
    report: Callable[[str], object],
) -> Basis:
    """The linear model of cells, and how each other modality is read."""
    if "rna" in expressed:
        fitted = read_cells(expressed["rna"], spec.genes)
    else:
        most = max(spaces, key=stream.rows.__getitem__)
        fitted = gene_activity(expressed[most], most, spaces[most], spec.genes)
    width = min(config.encoder.width, config.encoder.cell_width)
    fit = partial(fit_components, fitted, width)
    components = fit()
    if stream.technical_batches:
        components, directions = fit_off_batches(fit, whole, spaces, components, stream.technical_batch)
        report(
            f"data.batch_key={config.data.batch_key!r}: {len(stream.technical_batches):,} batches, the embedding begins off "
            f"the {directions} directions in which they differ"
        )
    profiles = {
        modality: fit_profile(whole[modality], modality, space, components) for modality, space in spaces.items()
    }
    own = {}
    if spec.translates and spec.translator.linear:
        own = {modality: fit_own_components(whole[modality], modality, space) for modality, space in spaces.items()}
    return Basis(components, profiles, own)


def _views(batches: Iterable[CellBatch]) -> dict[Modality, list[TokenBatch]]:
    """The views of some batches by their modality."""
    views: dict[Modality, list[TokenBatch]] = {}
    for batch in batches:
        for modality, view in batch._asdict().items():
            if view is not None:
                is_there = view.cell_B >= 0  # a row that is padding is of no dataset
                whole = is_there.all()
                view = view if whole else TokenBatch(*(None if leaf is None else leaf[is_there] for leaf in view))
                views.setdefault(modality, []).append(view)
    return views
