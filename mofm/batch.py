"""The data that crosses from the host wing to the device wing: plain NamedTuples of arrays, and nothing else.

On the host the leaves are numpy arrays made by `batches/collate.py`; `parallel/place.py` turns them into global
`jax.Array`s of the same shapes. Both wings import this file and never each other; jax itself is the device wing's, as
a process that only reads cells should not carry it.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mofm.axes import Modality

if TYPE_CHECKING:
    import jax

    Array = np.ndarray | jax.Array
else:
    Array = Any

LIBRARY_SCALE = 1e4
"""Counts are normalised to this many per cell, the field's custom (CP10k). Rates that the model gives are per this."""

PANEL = 100.0
"""Proteins of which an ADT library is the reads, if each had the geometric mean of the cell's."""

WEIGHED_BY_DEPTH = ("rna", "atac")
"""Omics whose linear read-out grows with a cell's depth (see `nn/readout.py`)."""

LEAST_WEIGHT = 1e-3
"""A cell whose tokens weigh about this or less in the linear read-out, where one of a gene is about 1, is read as an average
cell."""


class TokenBatch(NamedTuple):
    """B views of cells in one modality, each a set of L tokens. The order of a cell's tokens carries no meaning.

    A token is a feature of the cell together with its measured value. Features that were measured as zero are
    tokens too, in a stated proportion: a model that never sees a zero cannot learn one. (Methylation has no zeros.) Rows
    of a cell with fewer tokens than L are padded; padding has `mask` False, feature 0, and value and count 0, and
    changes nothing.

    Each omics type has features of its own, counted from 0: a row is identified by the modality and `features_BL` together.

    Attributes:
      features_BL: int32. Row among the model's features of the view's modality, in the order of the feature table.
      values_BL: float32. Normalised value, the model's input; by which formula for each modality is said in
        `batches/collate.py`. RNA: log1p(counts / library * LIBRARY_SCALE).
      counts_BL: float32. The likelihood's target. RNA, ADT: raw counts (UMIs). ATAC: fragments. Methylation:
        methylated reads. Whole numbers.
      mask_BL: bool. True for a token, False for padding.
      library_B: float32. How deep the cell was read in this modality, by all of its features, sampled as tokens or not. RNA,
        ATAC, methylation: total counts (reads). ADT: PANEL * (g - 1), g = exp(mean over the panel of log1p(count)), as one
        protein in abundance, or a clump of antibodies, is most of a total.
      cell_B: int32. Index of the cell in the corpus; two views of one cell share it. -1 for a padded row.
      dataset_B: int32. Index of the cell's dataset in the corpus manifest. -1 for a padded row.
      totals_BL: float32. Methylation: all reads of the region, of which `counts_BL` are methylated; at least 1 for a
        token, as a region without reads was not measured. None for other modalities.
      label_B: int32. Number of the cell's label, such as its type, among those of the run (`Stream.labels`). -1 where it
        is not known, and for a padded row. None in a run that asks for no labels.
      batch_B: int32. Number of the cell's technical batch, such as its donor, among those of the run
        (`Stream.technical_batches`). -1 and None as for `label_B`.
      zero_weight_B: float32. Tokens are a sample, of few of the zeros: how many times as many of the cell's features a zero
        stands for as an expressed token does, (zeros / zeros shown) / (expressed / expressed shown). 1 where zeros and
        others are shown alike, inf where there are zeros and none is shown; 0 for a padded row. None: all shown alike.
    """

    features_BL: Array
    values_BL: Array
    counts_BL: Array
    mask_BL: Array
    library_B: Array
    cell_B: Array
    dataset_B: Array
    totals_BL: Array | None = None
    label_B: Array | None = None
    batch_B: Array | None = None
    zero_weight_B: Array | None = None


class CellBatch(NamedTuple):
    """One training batch: for each modality its views, or None where the batch has none of that modality.

    Views have each their number of rows and of tokens. A cell of which several modalities were measured is a row in
    each of them, identified by its `cell_B`.
    """

    rna: TokenBatch | None = None
    atac: TokenBatch | None = None
    adt: TokenBatch | None = None
    methylation: TokenBatch | None = None


class Paired(NamedTuple):
    """Rows of two views of a CellBatch that are of the same cells, in the same order. Hashable: a static argument.

    A row of padding is no pair; so a pair is one where both rows have the same `cell_B` that is not -1.

    Attributes:
      modalities: of the two views.
      starts: first row in each.
      rows: how many.
    """

    modalities: tuple[Modality, Modality]
    starts: tuple[int, int]
    rows: int


class FeatureSpace(NamedTuple):
    """The F features of one modality as the model knows them: by the rows of the gene table, the one table of identities.

    A region is the weighted mean of the genes near it, a protein the mean of the genes that encode it, so features that
    no training data had are understood all the same. RNA needs none of this: its feature number is the gene's row.

    Attributes:
      genes_FK: int32. Rows of the gene table; 0 where the weight is.
      weights_FK: float32, >= 0. A feature's sum to 1, or are all 0 where it has no gene.
      place_FP: float32. Where a region lies about its genes (`omics/links.py: FEATURES`); 0 for proteins.
      bucket_F: int32, >= 0. A hash of the feature's identity, less the build of a region where that is the genes', for
        rows of its own (`encoder.region_rows`).
      base_F: float32. What the mean predictor says of it: log rate per LIBRARY_SCALE counts (ADT), log odds of being open
        at that depth (ATAC), log odds of a methylated read.
      spread_F: float32. ADT: log inverse dispersion; methylation: log concentration; 0 for ATAC.
    """

    genes_FK: Array
    weights_FK: Array
    place_FP: Array
    bucket_F: Array
    base_F: Array
    spread_F: Array


class GeneGraph(NamedTuple):
    """The regulatory networks of a model as one graph over the rows of its gene table: M directed edges TF -> target.

    Several networks are several relations, and may join the same two genes; such edges share their pair. Edges come
    first, one relation after another, and padding to a fixed M after them: `weight_M` 0, all else 0, and changes nothing.
    An edge can be taken out of the graph for a step by setting its weight to 0.

    Attributes:
      tf_M, target_M: int32. Rows of the gene table.
      relation_M: int32. Number of the network that has the edge.
      sign_M: int32. 1 activates, -1 represses, 0 not known.
      weight_M: float32 in (0, 1]; 0 for what is no edge, or is not to be seen.
      pair_M: int32. Number of the (TF, target) pair among the P <= M pairs: its place in `known_M`.
      regulator_G: int32. Number of a gene among the TFs; -1 for one that regulates nothing.
      known_M: int32, ascending. Keys `regulator * G + target` of all pairs, then 2^31 - 1.
    """

    tf_M: Array
    target_M: Array
    relation_M: Array
    sign_M: Array
    weight_M: Array
    pair_M: Array
    regulator_G: Array
    known_M: Array


class LinkQuestions(NamedTuple):
    """Q directed pairs of genes that a model is asked about: does the first regulate the second, and how?

    Attributes:
      tf_Q, target_Q: int32. Rows of the gene table.
      relation_Q: int32. In which network.
      answer_Q: int32. One of the ANSWERS below.
      mask_Q: bool. False for a question that is not asked.
    """

    tf_Q: Array
    target_Q: Array
    relation_Q: Array
    answer_Q: Array
    mask_Q: Array


class Kinship(NamedTuple):
    """What is known of which genes and which labels are kin, where a run asks for it.

    Attributes:
      family_G: int32. Number of each known gene's family, less than G; -1 for none.
      affinity_YY: float32, >= 0. How near two labels (`Stream.labels`) are by an ontology; 1 on the diagonal.
    """

    family_G: Array | None = None
    affinity_YY: Array | None = None


NO_EDGE, ACTIVATES, REPRESSES, REGULATES = range(4)
"""Answers to a link question; REGULATES is an edge whose sign is not known."""


Spaces = dict[Modality, FeatureSpace]
"""The feature space of each modality that is there, but RNA's."""

PLACES = 5
"""P, columns of `FeatureSpace.place_FP`."""


def log_exposure(library_B: Array) -> Array:
    """log(library / LIBRARY_SCALE): what turns a rate into a mean. 0 for an empty cell, whose tokens are all padding."""
    xp = library_B.__array_namespace__()
    return xp.log(xp.where(library_B > 0, library_B, LIBRARY_SCALE) / LIBRARY_SCALE)


def read_values(view: TokenBatch, modality: Modality, mean_BL: Array) -> tuple[Array, Array]:
    """(value_BL, weight_BL): what the linear read-out (`nn/readout.py`) multiplies a token's row by, and what that is
    a share of. Of padding too, which it leaves out.

    RNA, ADT: the value. ATAC: log1p(fragments), as a rare region's many nats of TF-IDF are mostly its noise. Methylation: the
    value less the region's mean, `mean_BL`, a share of the regions read: which were read says nothing.
    """
    if modality == "methylation":
        return view.values_BL - mean_BL, view.mask_BL
    xp = view.values_BL.__array_namespace__()
    value_BL = xp.log1p(view.counts_BL) if modality == "atac" else view.values_BL
    return value_BL, value_BL


def depth_weight(library_B: Array, modality: Modality) -> Array:
    """weight_B: what the linear read-out of a cell is multiplied by for its depth; 1 at LIBRARY_SCALE, and for other omics."""
    if modality not in WEIGHED_BY_DEPTH:
        return 0 * library_B + 1
    xp = library_B.__array_namespace__()
    return xp.exp(log_exposure(library_B) / 4)


def log_zero_weight(view: TokenBatch) -> Array:
    """log of `zero_weight_B`; 0 for padded rows, and where it is not known."""
    if view.zero_weight_B is None:
        return 0 * view.library_B
    xp = view.zero_weight_B.__array_namespace__()
    return xp.log(xp.where(view.zero_weight_B > 0, view.zero_weight_B, 1.0))
