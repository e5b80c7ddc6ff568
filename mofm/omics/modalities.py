"""Which omics type a thing is: by the word that a file has for it, or by the names of its features.

Words are those that people and tools write: `feature_types` of 10x Genomics, names of modalities in MuData. A word that
is not here names something that mofm does not model (hashtags, CRISPR guides, custom captures): it is reported and left
out. Hashtags are often stored among the antibodies, where only their names show them: these are left out too.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mofm.axes import Modality
from mofm.omics.builds import PREFIX
from mofm.sampling import evenly

_WORDS: dict[Modality, tuple[str, ...]] = {
    "rna": ("rna", "gex", "gene expression", "gene", "genes", "expression", "transcriptome", "mrna", "scrna"),
    "atac": ("atac", "peaks", "peak", "chromatin", "chromatin accessibility", "accessibility", "scatac", "tiles"),
    "adt": (
        "adt",
        "prot",
        "protein",
        "proteins",
        "antibody",
        "antibodies",
        "antibody capture",
        "ab",
        "surface protein",
    ),
    "methylation": ("methylation", "meth", "dna methylation", "dnam", "mc", "mcg", "methyl", "5mc"),
}
_MODALITY_OF: dict[str, Modality] = {word: modality for modality, words in _WORDS.items() for word in words}
_HASHTAG = re.compile(r"hto([\W_\d].*)?|.*[\W_]hto[\W_]?\d*|.*hash[\W_]?tag.*|cmo\d+", re.IGNORECASE)
# Narrower than what `regions` reads: names of cells ("slide1_100_200") and genes must not look like places.
_REGION = re.compile(rf"{PREFIX}(?:chr\w+?|\d{{1,2}}|[XYM]|MT|[A-Za-z]{{2}}\w*\.\d)[:_-]\d+[_-]\d+", re.IGNORECASE)
_SAMPLED = 1000

HASHTAG = "hashtag (an antibody by its type)"


def modality_of(word: str) -> Modality | None:
    """The omics type that a word such as "Gene Expression" or "prot" names, None for what mofm does not model."""
    return _MODALITY_OF.get(re.sub(r"[\W_]+", " ", word).strip().lower())


def has_types(var: pd.DataFrame) -> bool:
    """Whether `var` has the types of its features."""
    return "feature_types" in var and not var["feature_types"].isna().all()


def feature_kinds(var: pd.DataFrame, default: str) -> pd.Series:
    """The feature type of each row of `var`, as the file writes it; `default` where the file has none at all.

    A single missing type counts as gene expression. An antibody whose name is a hashtag's becomes `HASHTAG`.
    """
    if has_types(var):
        kinds = var["feature_types"].astype(object)
        kinds = kinds.where(kinds.notna(), "Gene Expression").astype(str)
    else:
        kinds = pd.Series(default, index=var.index, dtype=object)
    antibodies = np.flatnonzero(kinds.isin([kind for kind in kinds.unique() if modality_of(kind) == "adt"]))
    tags = antibodies[are_hashtags(var.index[antibodies])]
    kinds.iloc[tags] = HASHTAG
    return kinds


def modalities_of_types(var: pd.DataFrame) -> set[Modality | None]:
    """What the types of the features are, None for those that are not modelled; RNA where there are no types."""
    return {modality_of(kind) for kind in feature_kinds(var, "Gene Expression").unique()}


def columns_of(var: pd.DataFrame, modality: Modality, others: Sequence[Modality]) -> tuple[np.ndarray, dict[str, int]]:
    """(mask of the features of `modality`, number of those that neither it nor one of `others` takes, by type)."""
    kinds = feature_kinds(var, modality)
    meant = kinds.map({kind: modality_of(kind) for kind in kinds.unique()})
    left = kinds[~meant.isin([modality, *others])]
    return (meant == modality).to_numpy(bool), {str(kind): int(count) for kind, count in left.value_counts().items()}


def are_hashtags(names: Sequence[str]) -> np.ndarray:
    """bool, one for each name: whether it is that of a hashtag antibody, such as HTO_1, Hashtag3 or CMO301."""
    return np.array([bool(_HASHTAG.fullmatch(str(name))) for name in names], bool)


def region_share(names: Sequence[str]) -> float:
    """Share (0 to 1) of a sample of `names` that are genomic intervals, such as chr1:100-200, chr1_100_200, 1-100-200.

    A build may stand before them (`builds.PREFIX`).
    """
    some = [str(names[place]) for place in evenly(len(names), _SAMPLED)]
    return sum(bool(_REGION.fullmatch(name)) for name in some) / max(1, len(some))
