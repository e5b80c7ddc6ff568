"""The files of a corpus beside its stores: manifest, feature table, gene table."""

from pathlib import Path

import pandas as pd

from mofm.corpus.features import features_from_bytes, with_builds
from mofm.corpus.manifest import FEATURES, GENE_TABLE, MANIFEST, Manifest
from mofm.corpus.places import join, read_file
from mofm.errors import InputError
from mofm.omics.genome import GeneTable, bundled_species, gene_table, read_gene_table


def read_manifest(path: str | Path) -> Manifest | None:
    """The manifest of the corpus at `path`; None where there is none."""
    content = read_file(path, MANIFEST)
    return None if content is None else Manifest.from_json(content, join(path, MANIFEST))


def read_features(path: str | Path, manifest: Manifest) -> pd.DataFrame:
    """The feature table of the corpus at `path`, as long as its manifest says, and as the newest format has it."""
    where = join(path, FEATURES)
    features = features_from_bytes(read_file(path, FEATURES), manifest.n_features, where)
    return with_builds(features, manifest, str(path))


def read_gene_table_of(path: str | Path, manifest: Manifest) -> GeneTable:
    """The gene table of the corpus at `path`: its own copy, or else the one that mofm ships of its species.

    Raises:
      InputError: the copy is damaged, or is missing and mofm ships none.
    """
    where, content = join(path, GENE_TABLE), read_file(path, GENE_TABLE, optional=True)
    if content is not None:
        return read_gene_table(where, content)
    if manifest.species not in bundled_species():
        raise InputError(
            f"{where}: the gene table of its species {manifest.species!r} is missing; copy the corpus again"
        )
    return gene_table(manifest.species)
