"""mofm in the benchmark of translation: a config of `configs/` trained on a split, and asked as a user would."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
from common import config_of
from translation_tasks import Direction, Embeddings, Split, Task, write

from mofm.configs import mosaic, multiome, unpaired
from mofm.corpus.ingest import ingest
from mofm.evaluation.translation_baselines import values_at_depth
from mofm.inference.model import PretrainedModel, load
from mofm.inference.targets import find_targets, measured_depth
from mofm.inference.translate import translate_file
from mofm.omics.readers import Reading
from mofm.training.loop import train

CONFIGS = {"paired": multiome, "tenth": mosaic, "unpaired": unpaired}


class Models(NamedTuple):
    """Attributes: overrides, of the config of a setting."""

    overrides: tuple[str, ...] = ()

    def translate(self, of: Task, one: Split, folder: Path) -> Iterator[tuple[str, Direction, np.ndarray]]:
        """One model for all directions."""
        model, paths = self._model(of, one, folder)
        for source, target in of.directions:
            every = one.test[target].var_names
            names = list(every[of.judged[target]])  # of 100,000 peaks 5,000 are judged
            targets = find_targets(model, target, names, of.build, of.name, measured_depth(model, source, target))
            told = folder / "told.h5ad"
            translate_file(model, paths[source], told, targets, Reading(source), build=of.build, quiet=True)
            answer = ad.read_h5ad(told)
            told.unlink()
            predicted_NF = np.zeros((answer.n_obs, len(every)), np.float32)
            asked = np.flatnonzero(every.isin(answer.var_names))
            predicted_NF[:, asked] = values_at_depth(target, np.asarray(answer.X), answer.obs["mofm_depth"].to_numpy())
            yield "mofm", (source, target), predicted_NF

    def align(self, of: Task, one: Split, folder: Path) -> Iterator[tuple[str, Embeddings]]:
        """Embeddings of the same model."""
        model, paths = self._model(of, one, folder)
        for other in of.omics:
            if other != "rna":
                read = {name: Reading(name) for name in ("rna", other)}
                yield (
                    "mofm",
                    {
                        name: model.embed(paths[name], how, build=of.build, quiet=True).embedding_NE
                        for name, how in read.items()
                    },
                )

    def _model(self, of: Task, one: Split, folder: Path) -> tuple[PretrainedModel, dict[str, Path]]:
        """The model of a split; trained once, as a split's folder is told by its test cells."""
        setting = _setting(one)
        place = folder / f"mofm-{setting}-{hash(tuple(next(iter(one.test.values())).obs_names)):x}"
        place.mkdir(exist_ok=True)
        paths = write(one, place)
        if not (place / "run" / "done").exists():
            ingest([paths["train"]], place / "corpus", build=of.build, unpaired=setting == "unpaired")
            train(config_of(place / "corpus", list(self.overrides), CONFIGS[setting]), place / "run", quiet=True)
            (place / "run" / "done").touch()
        return load(place / "run"), paths


def _setting(one: Split) -> str:
    first, *others = (set(adata.obs_names) for adata in one.train.values())
    shared = len(first.intersection(*others))
    return "unpaired" if not shared else "paired" if shared == len(first) else "tenth"
