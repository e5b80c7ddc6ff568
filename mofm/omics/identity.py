"""The identity of a table's features, whatever its modality: genes, antibodies or regions of a genome build."""

import dataclasses
import functools

import numpy as np
import pandas as pd

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.omics.build_evidence import BuildEvidence, build_of_names, check_build
from mofm.omics.builds import SPECIES
from mofm.omics.features import names_in, resolve_var
from mofm.omics.genome import GeneTable
from mofm.omics.modalities import region_share
from mofm.omics.orthologs import Orthologs, check_species, resolve_through
from mofm.omics.proteins import ProteinResolution, resolve_proteins
from mofm.omics.regions import RegionResolution, require_places, resolve_regions, with_build
from mofm.omics.table import CountTable

ID_COLUMN = "gene_ids"
"""Where 10x Genomics keeps the ids of features that its index names: of antibodies too."""


@dataclasses.dataclass(frozen=True, eq=False)
class Resolution:
    """What the features of a table are, in their order.

    Attributes:
      ids: identities: Ensembl ids, names of antibodies, or places: GRCh38_chr1:100-200, chr1:100-200 where the build is
        not known.
      symbols: what to call each; a region by its bare place.
      how: str[N], how each was resolved; "unresolved" where it was not.
      features_from: what named them: "var_names" or a column of var.
      build: the genome build of the places; None for genes and antibodies, or where it is not known.
      build_evidence: how that is known, in one sentence.
      counted: names, each `how`, names merged into another, and more, for a manifest.
      notes: what else a person should know, a line each.
    """

    ids: list[str]
    symbols: list[str]
    how: np.ndarray
    features_from: str
    build: str | None
    build_evidence: str
    counted: dict[str, int | dict[str, int]]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, int | dict[str, int]]:
        """Counts for a manifest."""
        return self.counted


def resolve(
    table: CountTable, genes: GeneTable, build: str | None = None, orthologs: Orthologs | None = None
) -> Resolution:
    """The identities of a table's features.

    RNA is genes, ATAC is regions. Antibodies are named by the index, or by their ids where more of these are known.
    Methylation is regions where most of its names are, else genes.

    Args:
      genes: of the species.
      build: of the regions, by any of its names; None takes it from their names or finds it by evidence.
      orthologs: through which genes of another species become genes of this one. Antibodies and regions do not ask them.

    Raises:
      InputError: genes or regions are of another species; or regions have no place, are not of the build that is given
        or that their names say, or are of one in which `genes` are not placed.
    """
    if holds_regions(table):
        return _regions(table, genes, build)
    if table.modality == "adt":
        return _proteins(table.var, genes, orthologs)
    return _genes(table, genes, orthologs)


def resolve_features(
    var: pd.DataFrame, modality: Modality, genes: GeneTable, build: str | None = None, where: str = "features"
) -> Resolution:
    """`resolve` of features that come without cells: the index of `var` their names, its columns what else identifies them."""
    obs = pd.DataFrame(index=pd.Index([], dtype=str))
    return resolve(CountTable(where, "h5ad", where, modality, "", "", obs, var, source=None), genes, build)


def holds_regions(table: CountTable) -> bool:
    """Whether the features are regions: those of ATAC are, those of methylation where most of their names are."""
    return table.modality == "atac" or (table.modality == "methylation" and region_share(table.var.index) > 0.5)


def _genes(table: CountTable, genes: GeneTable, orthologs: Orthologs | None) -> Resolution:
    through = orthologs and functools.partial(resolve_through, orthologs=orthologs)
    features_from, found = resolve_var(table.var, genes, through)
    if "ortholog" not in found.how and 2 * np.count_nonzero(found.how == "unresolved") > len(found.how):
        for _, names in names_in(table.var):
            check_species(names, genes, table.where, orthologs)
    counted, notes = found.summary(), ()
    if orthologs is not None:
        counted, notes = counted | {"orthologs": orthologs.summary()}, (orthologs.note(found),)
    return Resolution(found.ids, found.symbols, found.how, features_from, None, "", counted, notes)


def _regions(table: CountTable, genes: GeneTable, build: str | None) -> Resolution:
    found = resolve_regions(table.var.index, table.var)
    require_places(found, table.where)
    evidence = build_of_regions(found, genes, build, table.where)
    ids = with_build(found, evidence.build)
    return Resolution(ids, found.symbols, found.how, "var_names", evidence.build, evidence.sentence, found.summary())


def build_of_regions(found: RegionResolution, genes: GeneTable, build: str | None, where: str) -> BuildEvidence:
    """The build of the regions of `where` (a file, a modality), in which `genes` are placed too.

    Args:
      build: as given, by any of its names; None takes it from the regions' names or finds it by evidence.

    Returns:
      The evidence; its `build` is None where the regions are taken to be of the genes' own.

    Raises:
      InputError: the regions are of another species, are not of the build that is given or that their names say, or
        are of one in which `genes` are not placed.
    """
    evidence = _build_evidence(found, genes, build, where)
    if evidence.species not in (None, genes.species):
        raise InputError(
            f"{where}: the regions are of {evidence.build}, a {evidence.species} genome, and {genes.species} ones "
            f"are expected; use --species {evidence.species} with a corpus or model of that species, or give their own "
            "build with --build"
        )
    _check_genes_are_placed(genes, evidence.build, where)
    return evidence


def _build_evidence(found: RegionResolution, genes: GeneTable, build: str | None, where: str) -> BuildEvidence:
    """The build of regions; where it is the genes' own and none that mofm has, it is taken for granted and not named.

    Regions of a species whose builds mofm does not have are of its genes' own where their names say no other.
    """
    named = build_of_names(found, where)
    own = genes.species not in SPECIES.values() if named is None else named == genes.build
    if build is None and own and named not in SPECIES:
        sentence = f"the regions are taken to be of the build of the {genes.species} genes, {genes.release}"
        return BuildEvidence(None, False, sentence, {})
    return check_build(found, build, where)


def _check_genes_are_placed(genes: GeneTable, build: str | None, where: str) -> None:
    """Raises `InputError` where regions of `build` could not be linked to the genes: at once, not when they are used."""
    if build not in (None, *genes.builds):
        placed = f"in {' and '.join(genes.builds)}" if genes.builds else "in no build that their table has"
        raise InputError(
            f"{where}: the regions are of {build}, and the {genes.species} genes of {genes.release!r} are placed "
            f"{placed}; make their table of an annotation of {build}, with --release 'NAME ({build})' of "
            "`python -m mofm.omics.build_gene_table`, or use mofm's own with --species " + genes.species
        )


def _proteins(var: pd.DataFrame, genes: GeneTable, orthologs: Orthologs | None) -> Resolution:
    named = {"var_names": resolve_proteins(list(var.index), genes)}
    if ID_COLUMN in var:
        named[ID_COLUMN] = resolve_proteins(var[ID_COLUMN].astype(str).tolist(), genes)
    source, found = max(named.items(), key=lambda item: _known(item[1]))
    notes = () if orthologs is None else (f"antibodies are read as {genes.species} ones, not through the orthologs",)
    return Resolution(found.ids, found.symbols, found.how, source, None, "", found.summary(), notes)


def _known(found: ProteinResolution) -> int:
    return int(np.count_nonzero(found.how != "unresolved"))
