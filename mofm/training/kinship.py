"""Which genes and which labels are kin, for the contrasts of a run that asks: read before anything is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mofm.batch import Kinship
from mofm.objectives.alignment import AlignmentConfig
from mofm.omics.families import families_by_symbol, read_families
from mofm.omics.genome import GeneTable
from mofm.omics.ontology import label_kinship

BY_SYMBOL = "symbols"


def read_kinship(
    config: AlignmentConfig, genes: pd.DataFrame, labels: tuple[str, ...], species: Callable[[], GeneTable]
) -> tuple[Kinship, tuple[str, ...]]:
    """(kinship, what a person should know of it, a line each).

    Args:
      genes: of the model, columns id and symbol.
      labels: of the run's cells.
      species: reads the genes of its species; asked where a table of families names genes.

    Raises:
      InputError: a table or an ontology cannot be read, or says nothing of these genes or labels.
    """
    kinship, notes = Kinship(), []
    if config.families:
        by_symbol = config.families == BY_SYMBOL and not Path(BY_SYMBOL).exists()
        found = families_by_symbol(genes) if by_symbol else read_families(config.families, genes, species())
        kinship = kinship._replace(family_G=found.family_G)
        notes += found.notes
    if config.ontology:
        near = label_kinship(labels, config.ontology)
        kinship = kinship._replace(affinity_YY=near.affinity_CC.astype(np.float32))
        notes += near.notes
    return kinship, tuple(notes)
