"""What is needed of a trained model, wherever it lies: in a run's directory or in a bundle.

Both hold the same tables in the same files, so most is read by the same functions. They differ in the parameters (Orbax's
checkpoints, of several steps, laid out over a mesh; or safetensors, of one) and in the simple models that the run began
from (start.npz or safetensors). From here on nothing knows which of the two it was.
"""

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd
from jax.sharding import SingleDeviceSharding

from mofm.axes import Modality
from mofm.errors import InputError
from mofm.export.checksums import AGAIN, CHECKSUMS, verify
from mofm.export.heads import AnnotationHeads, load_heads
from mofm.export.hub import HUB, fetch
from mofm.export.responses import ResponseHead, load_responses
from mofm.export.tensors import as_tree, load_tensors
from mofm.linear.start import Start
from mofm.nn import model
from mofm.nn.model import Params
from mofm.nn.spec import ModelSpec
from mofm.omics.genome import GeneTable, gene_table, is_bundled
from mofm.training import workdir as workdirs
from mofm.training.checkpoint import Checkpoints
from mofm.training.config import Config, make_spec
from mofm.training.network import RunNetwork, load_network
from mofm.training.origin import Origin

FORMAT = "mofm bundle"
FORMAT_VERSION = 1
"""Of bundles: what lies in which file. That of the parameters is `workdir.PARAMETERS`."""
CONFIG, MODEL, START = "config.json", "model", "start"
TABLES = ("genes.parquet", workdirs.FEATURES, workdirs.GENE_TABLE)
"""A bundle has each; a run has its own gene table only where mofm ships none."""

Step = int | Literal["best", "latest"] | None


@dataclass(frozen=True, eq=False)
class Parts:
    """A trained model: no mesh, no optimizer, no corpus.

    Attributes:
      workdir: the directory of the run or of the bundle.
      name: of the run, also where a bundle holds it.
      step: of the checkpoint.
      params: on the first device.
      network: the regulatory networks that it was trained with; None for a model of none.
      genes: columns id, symbol, measured: what the rows of the gene table stand for.
      named_by: the gene table of the training corpus's species.
    """

    workdir: Path
    name: str
    step: int
    config: Config
    spec: ModelSpec
    params: Params
    network: RunNetwork | None
    genes: pd.DataFrame
    named_by: GeneTable

    @cached_property
    def start(self) -> Start:
        """The simple models that the run began from; read when they are first asked for, as they are large."""
        if is_bundle(self.workdir):
            return workdirs.start_of(load_tensors(self.workdir, START))
        return workdirs.load_start(self.workdir)

    def features(self, modality: Modality) -> pd.DataFrame:
        """The features of one modality that it was trained on, in the order of its space: columns id, symbol."""
        return workdirs.read_features(self.workdir, modality)

    @property
    def heads(self) -> AnnotationHeads | None:
        """Its annotation heads; None where it has none, or those of another step. Raises as `load_heads`."""
        heads = load_heads(self.workdir)
        return heads if heads is not None and heads.step == self.step else None

    @property
    def responses(self) -> ResponseHead | None:
        """Its head of responses; None where it has none, or one of another step. Raises as `load_responses`."""
        head = load_responses(self.workdir)
        return head if head is not None and head.step == self.step else None

    def origin(self) -> Origin:
        """The model as a run begins from it."""
        features = pd.read_parquet(self.workdir / workdirs.FEATURES)
        return Origin(
            name=self.name,
            step=self.step,
            config=self.config,
            spec=self.spec,
            params=jax.device_get(self.params),
            genes=self.genes,
            features=features,
            network=self.network,
            start=self.start,
            species=self.named_by.species,
            before=workdirs.read_origin(self.workdir),
        )


def is_bundle(path: Path) -> bool:
    """Whether a directory is a bundle, or what is left of one."""
    if (path / CHECKSUMS).exists():
        return True
    try:
        return json.loads((path / CONFIG).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_parts(path: str | Path, step: Step = None) -> Parts:
    """The parts of a run or of a bundle. Runs no code of theirs: they are JSON, Parquet, arrays.

    Args:
      path: of a folder, or hf://OWNER/NAME[@REVISION], a bundle on the hub.
      step: of a run, which checkpoint: its step, "latest", or "best" (by held-out loss; the newest where none was
        evaluated), as None. A bundle has one.

    Raises:
      InputError: neither of the two, damaged, of a newer mofm, or without such a checkpoint.
    """
    place = fetch(path) if str(path).startswith(HUB) else Path(path)
    if not is_bundle(place):
        config = workdirs.read_config(place)
        steps, step = _steps_of(place, step)
        return _parts(place, place.resolve().name if place.name in ("", "..") else place.name, step, config, steps)
    record = check_bundle(place)
    if step not in (None, "best", "latest", record["step"]):
        raise InputError(f"{place}: is a bundle, of step {record['step']} alone; leave the step {step} out")
    return _parts(place, record["name"], record["step"], workdirs.read_config(place), None)


def check_bundle(place: Path) -> dict:
    """The config.json of a bundle that is whole and that this mofm can read.

    Raises:
      InputError: it is neither; which file it is, and what to do.
    """
    try:
        record = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        kind, version = record["format"], record["format_version"]
        _, _ = str(record["name"]), int(record["step"])
    except FileNotFoundError:
        raise InputError(f"{place / CONFIG} is missing: the bundle is not whole; {AGAIN}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place / CONFIG}: not that of a bundle ({error!r}): the file is damaged; {AGAIN}") from error
    if kind != FORMAT or not isinstance(version, int):
        raise InputError(f"{place / CONFIG}: its format is {kind!r}, {version!r}; {FORMAT!r} and a number are expected")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{place}: written by mofm {record.get('mofm_version', '?')} as bundle format {version}, this mofm reads up to "
            f"{FORMAT_VERSION}; install a newer mofm"
        )
    verify(place, (CONFIG, *TABLES))
    return record


def _parts(place: Path, name: str, step: int, config: Config, checkpoints: Checkpoints | None) -> Parts:
    genes, network = workdirs.read_genes(place), load_network(place)
    relations = 0 if network is None else len(network.relations)
    spec = make_spec(config, len(genes), relations, workdirs.read_modalities(place))
    device = SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(partial(model.init, spec), jax.random.key(0))
    if checkpoints is None:
        loaded = as_tree(load_tensors(place, MODEL), shapes, place / f"{MODEL}.safetensors")
        params = jax.device_put(loaded, device)
    else:
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
        params = checkpoints.restore_params(step, abstract)
        checkpoints.close()
    named_by = workdirs.read_gene_table(place)
    if is_bundled(named_by):
        named_by = gene_table(named_by.species)  # the same object in a process, with what was looked up in it
    return Parts(place, name, step, config, spec, params, network, genes, named_by)


def _steps_of(workdir: Path, step: Step) -> tuple[Checkpoints, int]:
    """The checkpoints of a run, and the step of the one that is meant."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    meant = {None: checkpoints.best, "best": checkpoints.best, "latest": checkpoints.latest}.get(step, step)
    if meant is None or meant not in checkpoints.steps:
        kept = ", ".join(map(str, checkpoints.steps)) or "none"
        checkpoints.close()
        raise InputError(
            f"{workdir}: no checkpoint{'' if meant is None else f' of step {meant}'} (there are: {kept}); train further"
        )
    return checkpoints, meant


def start_arrays(parts: Parts) -> dict[str, np.ndarray]:
    """The arrays of `Parts.start` by name, as they are kept."""
    if is_bundle(parts.workdir):
        return load_tensors(parts.workdir, START)
    return workdirs.read_start_arrays(parts.workdir)
