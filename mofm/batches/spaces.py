"""What the features of each omics type are to a model: rows of its gene table, with weights.

The gene table is the table of all identities. Its first rows are the corpus's RNA features, in their order; then come
the genes of regions and proteins that speak of none of those, and then the features that speak of no gene (isotype
controls, antibodies that nobody could map), each with a row of its own.

    gene       the gene itself
    protein    the mean of the genes that encode it
    region     the genes near it in its own genome build, by `omics/links.py`

A feature near a gene whose RNA was measured speaks of those alone. Half of the genes near a peak are pseudogenes and the
like, of which no expression is known: given their share of its weight, they only made it quieter, and a peak among many
of them the quietest. (Simulated chromatin, read out by the linear start: types transferred from RNA .739 with all
genes, .777 with those measured.)

Methylation is of genes or of regions, also of both in one corpus.

A space can be made of any features at any time, for any gene table: that is how a trained model reads a data set whose
peaks it never saw. What the model's table does not have is left out, and the rest of a feature's weights sum to 1.
"""

import zlib
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import pandas as pd

from mofm.axes import MODALITIES, Modality
from mofm.batch import FeatureSpace, Spaces
from mofm.corpus.contents import read_gene_table_of
from mofm.corpus.store import Corpus
from mofm.omics.genome import GeneTable, in_build
from mofm.omics.links import FEATURES, link_regions
from mofm.omics.proteins import resolve_proteins
from mofm.omics.regions import RegionResolution, resolve_regions

LINKS = 8
"""K, most genes of a feature."""


class Identities(NamedTuple):
    """The identities that features speak of, E in all.

    Attributes:
      feature_E: int64. Number of the feature, ascending.
      identity_E: object, str. An Ensembl id; "adt:NAME" for an antibody's own.
      weight_E: float32, > 0.
      place_FP: float32. Distance features of each of the F features.
      name_F: object, str. What each feature is called where it has rows of its own (`bucket_F`).
    """

    feature_E: np.ndarray
    identity_E: np.ndarray
    weight_E: np.ndarray
    place_FP: np.ndarray
    name_F: np.ndarray


def corpus_spaces(corpus: Corpus, before: pd.DataFrame | None = None) -> tuple[pd.DataFrame, Spaces]:
    """The gene table of a model of this corpus, and the spaces of its other omics.

    The table has a row a gene, columns id, symbol and measured: whether it is an RNA feature of the corpus.

    Args:
      before: the gene table of a model that is trained further. Its genes are kept, after the corpus's RNA features, and
        what it says was measured is what counts as measured: so a region speaks of the genes that it spoke of.

    The spaces' base_F and spread_F are 0, until a mean predictor is fitted.

    Raises:
      InputError: regions of a build in which the species' genes are not placed.
    """
    table = read_gene_table_of(corpus.path, corpus.manifest)
    of = {modality: corpus.features[corpus.features["modality"] == modality] for modality in MODALITIES}
    found = {
        modality: identities(modality, features["id"].tolist(), table)
        for modality, features in of.items()
        if modality != "rna" and len(features)
    }
    known = dict(zip(of["rna"]["id"], of["rna"]["symbol"], strict=True))
    measured = frozenset(known)
    if before is not None:
        measured = frozenset(before["id"][before["measured"]])
        for identity, symbol in zip(before["id"], before["symbol"], strict=True):
            known.setdefault(identity, symbol)
    found = {modality: of_measured(some, measured) for modality, some in found.items()}
    for some in found.values():
        for identity in some.identity_E:
            row = table.row_of_id.get(identity)
            known.setdefault(identity, identity if row is None else table.symbols[row])
    genes = pd.DataFrame({"id": list(known), "symbol": list(known.values())}, dtype=object)
    genes["measured"] = genes["id"].isin(measured)
    row_of = {identity: row for row, identity in enumerate(known)}
    return genes, {modality: make_space(some, row_of) for modality, some in found.items()}


def identities(modality: Modality, ids: Sequence[str], table: GeneTable) -> Identities:
    """What some features (ids as a corpus has them) speak of.

    Args:
      table: the genes of the species. Regions are linked to them as placed in the build that their ids name, or in the
        table's own where they name none.

    Raises:
      InputError: regions of a build in which the species' genes are not placed.
    """
    if modality == "adt":
        return _of_proteins(ids, table)
    regions = resolve_regions(ids)
    found = _of_regions(regions, table)
    return _with_genes(found, regions, table) if modality == "methylation" else found


def of_measured(found: Identities, measured: Set[str]) -> Identities:
    """The same, where features that speak of any of the `measured` genes speak of no other."""
    is_measured_E = np.array([identity in measured for identity in found.identity_E], bool)
    speaks_F = np.bincount(found.feature_E[is_measured_E], minlength=len(found.place_FP)) > 0
    kept_E = is_measured_E | ~speaks_F[found.feature_E]
    return found._replace(
        feature_E=found.feature_E[kept_E], identity_E=found.identity_E[kept_E], weight_E=found.weight_E[kept_E]
    )


def make_space(found: Identities, row_of: Mapping[str, int]) -> FeatureSpace:
    """The features as rows of a gene table, by `row_of` its identities."""
    features = len(found.place_FP)
    row_E = np.array([row_of.get(identity, -1) for identity in found.identity_E], np.int64)
    known = row_E >= 0
    feature_E, row_E, weight_E = found.feature_E[known], row_E[known], found.weight_E[known]
    place_E = np.arange(len(feature_E)) - np.searchsorted(feature_E, feature_E)
    total_F = np.bincount(feature_E, weight_E, features)
    genes_FK, weights_FK = np.zeros((features, LINKS), np.int32), np.zeros((features, LINKS), np.float32)
    genes_FK[feature_E, place_E] = row_E
    weights_FK[feature_E, place_E] = weight_E / total_F[feature_E]
    bucket_F = np.fromiter((zlib.crc32(name.encode()) & 0x7FFFFFFF for name in found.name_F), np.int32, features)
    zeros_F = np.zeros(features, np.float32)
    return FeatureSpace(genes_FK, weights_FK, found.place_FP, bucket_F, zeros_F, zeros_F.copy())


def known_share(space: FeatureSpace) -> np.ndarray:
    """bool of each feature: whether the model has a row for any of its identities."""
    return space.weights_FK.sum(axis=1) > 0


def _of_proteins(ids: Sequence[str], table: GeneTable) -> Identities:
    genes_of = [list(genes[:LINKS]) or [f"adt:{name}"] for name, genes in zip(ids, _genes(ids, table), strict=True)]
    count_F = np.array([len(genes) for genes in genes_of])
    identity_E = np.array([gene for genes in genes_of for gene in genes], dtype=object)
    weight_E = np.repeat(1.0 / np.maximum(count_F, 1), count_F).astype(np.float32)
    name_F = np.array(ids, dtype=object)
    return Identities(np.repeat(np.arange(len(ids)), count_F), identity_E, weight_E, _nowhere(len(ids)), name_F)


def _genes(ids: Sequence[str], table: GeneTable) -> list[tuple[str, ...]]:
    return resolve_proteins(ids, table).genes


def _with_genes(found: Identities, regions: RegionResolution, table: GeneTable) -> Identities:
    """The same, and the features that are genes each speak of themselves, whether regions stand beside them or not.

    Of names that are no gene of the table a gene-wise corpus keeps those that it has; beside regions they are likelier
    regions without a place, and as such speak of nothing.
    """
    is_gene = np.array([name in table.row_of_id for name in regions.ids], bool)
    genes = np.flatnonzero(~regions.placed & (is_gene | ~regions.placed.any()))
    place_FP = found.place_FP.copy()
    place_FP[genes] = 0
    return _in_order(
        np.append(found.feature_E, genes),
        np.append(found.identity_E, found.name_F[genes]),
        np.append(found.weight_E, np.ones(len(genes), np.float32)),
        place_FP,
        found.name_F,
    )


def _of_regions(regions: RegionResolution, table: GeneTable) -> Identities:
    """Links of each build's regions, joined in the order of the regions; a species' genes have the same rows in all."""
    codes_F, builds = pd.factorize(regions.builds)
    place_FP, parts = _nowhere(len(regions.ids)), [(np.empty(0, int), np.empty(0, int), np.empty(0, np.float32))]
    for code, build in enumerate(builds):
        rows = np.flatnonzero(codes_F == code)
        chrom, start, end = regions.chrom[rows], regions.start[rows], regions.end[rows]
        placed = in_build(table, build or None)
        links = link_regions(chrom, start, end, placed, top=LINKS)
        place_FP[rows] = links.features
        parts.append((rows[links.region], links.gene, links.weight))
    feature_E, gene_E, weight_E = map(np.concatenate, zip(*parts, strict=True))
    identity_E = np.array(table.gene_ids, dtype=object)[gene_E]
    return _in_order(feature_E, identity_E, weight_E, place_FP, _names(regions, table))


def _names(regions: RegionResolution, table: GeneTable) -> np.ndarray:
    """Bare places, but for a build that is not the table's own.

    A region whose build is unknown is taken to be of the table's build. It then has the same row as where the
    build is known, in another file or by another model; so has one of a corpus whose ids did not name builds yet.
    """
    is_other = np.isin(regions.builds, ["", table.build or ""], invert=True)
    names = [
        f"{build}_{name}" if here else name
        for build, name, here in zip(regions.builds, regions.ids, is_other, strict=True)
    ]
    return np.array(names, dtype=object)


def _in_order(
    feature_E: np.ndarray, identity_E: np.ndarray, weight_E: np.ndarray, place_FP: np.ndarray, name_F: np.ndarray
) -> Identities:
    order_E = np.argsort(feature_E, kind="stable")
    return Identities(feature_E[order_E], identity_E[order_E], weight_E[order_E], place_FP, name_F)


def _nowhere(features: int) -> np.ndarray:
    return np.zeros((features, len(FEATURES)), np.float32)
