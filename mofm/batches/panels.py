"""What the stores of a corpus measure, as the making of tokens needs it: features by modality, columns, idf, widths."""

from collections.abc import Mapping

import numpy as np

from mofm.axes import MODALITIES, Modality
from mofm.batches.collate import KnownFeatures, join_known, known_features
from mofm.batches.idf import corpus_idf
from mofm.corpus.features import rows_by_modality
from mofm.corpus.store import Corpus, Store


class Panels:
    """The features of a corpus, and of each of its stores.

    Attributes:
      features: modality -> number of the corpus's features of it, in the order of `MODALITIES`.
      idf: float32, one for each ATAC feature of the corpus (see `idf.py`).
      known: modality -> the features of the stores of it.
      widest: modality -> most features that a store of it measures.

    Raises:
      InputError: a store is damaged, or has one feature twice.
    """

    def __init__(self, corpus: Corpus):
        counts = corpus.features["modality"].value_counts()
        self.features = {modality: int(counts[modality]) for modality in MODALITIES if modality in counts}
        rows_F = rows_by_modality(corpus.features)
        rows_of = {_key(store): rows_F[store.feature_rows] for store in corpus.stores}
        atac = [store for store in corpus.stores if store.modality == "atac"]
        self.idf = corpus_idf(atac, [rows_of[_key(store)] for store in atac], self.features.get("atac", 0))
        parts: dict[Modality, dict[int, KnownFeatures]] = {}
        for store in corpus.stores:
            rows_G = rows_of[_key(store)]
            idf_G = self.idf[rows_G] if store.modality == "atac" else None
            known = known_features(rows_G, f"dataset {store.name!r}", store.modality, idf_G)
            parts.setdefault(store.modality, {})[store.dataset] = known
        self.known = {modality: join_known(some) for modality, some in parts.items()}
        self.widest = dict.fromkeys(self.features, 1)
        for modality, known in self.known.items():
            self.widest[modality] = max(1, int(known.panels_D["known"].max()))

    def measured(self, dataset: int, modality: Modality) -> np.ndarray:
        """Which of the corpus's features of a modality a dataset measures, bool; none after the last one known."""
        return self.known[modality].measured_by(dataset)[: self.features[modality]].astype(bool)

    def tokens(self, most: int, given: Mapping[Modality, int | None]) -> dict[Modality, int]:
        """Tokens of a cell in each modality: those given; else `most`, or as many as the widest store has features."""
        return {modality: given.get(modality) or min(most, widest) for modality, widest in self.widest.items()}


def _key(store: Store) -> tuple[int, Modality]:
    return store.dataset, store.modality
