"""From a `configs/*.py` and the command line to one frozen, typed `Config`; a typo fails here, before anything starts.

A config file has `get_config() -> ml_collections.ConfigDict`; overrides are written `--config.encoder.width=512`. Each
room owns the dataclass of its part (and checks its values); this file only joins them.
"""

import ast
import dataclasses
import importlib.util
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from mofm import configs
from mofm.axes import MODALITIES, Modality
from mofm.batches.config import DataConfig
from mofm.errors import InputError, check_at_least, nearest_name
from mofm.nn.fusion import FusionConfig
from mofm.nn.grn import GrnConfig
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.nn.translator import TranslatorConfig
from mofm.objectives.alignment import AlignmentConfig
from mofm.objectives.total import ObjectivesConfig
from mofm.parallel.mesh import MeshConfig
from mofm.training.adapters import AdaptersConfig
from mofm.training.network import NetworkConfig
from mofm.training.optimizer import OptimizerConfig

T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """How long to train, and what is kept on the way. Steps are batches.

    Attributes:
      steps: length of the run; the learning-rate schedule spans it.
      log_every: steps between lines of metrics.jsonl.
      eval_every: steps between evaluations on held-out cells. 0: never.
      eval_cells: held-out cells of an evaluation, the same ones each time.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      keep_latest: newest checkpoints kept.
      keep_best: checkpoints kept beside them for their held-out loss.
      patience: evaluations in a row without a lower held-out loss after which the run ends. 0: it goes to its last step.
      rollbacks: how often the run may go back from a bad step, to its newest checkpoint at a multiple of `checkpoint_every` or
        to its start, and leave out the batches up to that step (see `rollback.py`). Once they are used up, it stops there. A
        run that stopped goes on with more of them.
      spike_factor: a finite loss is bad too, if it is so many robust standard deviations above the median of the last 128. 0:
        never. Below 5 to 10, chance alone makes spikes of a long run.
      watchdog_minutes: a process in which no step ends for so long writes its stacks to the run's directory and ends with code
        5 (see `watchdog.py`). More than an evaluation or a checkpoint takes. 0: it waits for ever.
    """

    steps: int = 100_000
    log_every: int = 50
    eval_every: int = 2_000
    eval_cells: int = 4_096
    checkpoint_every: int = 2_000
    keep_latest: int = 2
    keep_best: int = 1
    patience: int = 0
    rollbacks: int = 0
    spike_factor: float = 0.0
    watchdog_minutes: float = 0.0

    def __post_init__(self):
        check_at_least("run", self, ("steps", "log_every", "checkpoint_every", "keep_latest"), 1)
        check_at_least("run", self, ("eval_every", "eval_cells", "keep_best", "patience"), 0)
        check_at_least("run", self, ("rollbacks", "spike_factor", "watchdog_minutes"), 0)
        if self.patience and not (self.eval_every and self.eval_cells):
            raise InputError(f"run.patience={self.patience}: needs evaluations; set run.eval_every and run.eval_cells")


@dataclass(frozen=True)
class Config:
    """Everything that fixes a run. The same config, corpus and code give the same bits."""

    data: DataConfig
    seed: int = 0
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    translator: TranslatorConfig = field(default_factory=TranslatorConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    grn: GrnConfig = field(default_factory=GrnConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts, as written to config.json."""
        return dataclasses.asdict(self)

    def science(self) -> dict[str, Any]:
        """The part that decides the bits of the model: without the mesh and without what is kept and logged.

        Where a run went back from a bad step, its rollbacks.json decides too. How often it may is not here: it is whether the
        run stops or goes on; nor is how often it saves, and so where to it goes back.
        """
        everything = self.to_dict()
        del everything["mesh"]
        everything["run"] = {"steps": self.run.steps, "spike_factor": self.run.spike_factor}
        # Where the corpus lies, not what it holds; "stop" served none of the damage.
        for key in ("corpus", "prefetch", "damaged", "cache_dir", "cache_gb"):
            del everything["data"][key]
        del everything["network"]["tables"]  # the edges are known by their digest
        if not self.network.tables:
            del everything["network"], everything["grn"]
            for key in ("link_weight", "link_warmup_steps", "links_per_step", "edge_dropout"):
                del everything["objectives"][key]
        if not self.translator.blocks:
            del everything["translator"]
            for key in ("translation_weight", "cycle_weight", "drift_weight"):
                del everything["objectives"][key]
        if not self.fusion.blocks:
            del everything["fusion"], everything["objectives"]["fusion_weight"]
        if self.objectives.alignment == AlignmentConfig():
            del everything["objectives"]["alignment"]
        if not self.adapters.rank:
            del everything["adapters"]
        return everything


def check_untuned(config: Config) -> None:
    """Raises `InputError` where a run that begins from nothing, or without labels, is asked to tune by them."""
    for key, value in (
        ("objectives.supervised_weight", config.objectives.supervised_weight),
        ("adapters.rank", config.adapters.rank),
    ):
        if value:
            raise InputError(
                f"{key}={value}: a trained model is tuned by labels, with `mofm finetune MODEL --task annotation:COLUMN "
                "--tune lora` or `full`; leave it out"
            )


def make_spec(config: Config, genes: int, relations: int, modalities: Sequence[Modality]) -> ModelSpec:
    """The model of a config, of so many known genes and regulatory networks, for these modalities. Raises `InputError`."""
    ordered = tuple(modality for modality in MODALITIES if modality in modalities)
    config.objectives.alignment.check_keys(config.data.label_key, config.data.batch_key)
    _check_parts(config)
    contrasts = config.objectives.alignment.contrasts
    of = (config.encoder, genes, config.grn, relations, ordered, config.translator, contrasts, config.fusion)
    spec = ModelSpec(*of)
    spec.check()
    for key, blocks, what in (
        ("translator", config.translator.blocks, "translate to"),
        ("fusion", config.fusion.blocks, "fuse"),
    ):
        if blocks and len(ordered) < 2:
            raise InputError(
                f"config.{key}.blocks={blocks}: {config.data.corpus} has {ordered[0]} alone, and there is "
                f"nothing to {what}; leave it 0, or ingest another modality into the corpus"
            )
    return spec


def _check_parts(config: Config) -> None:
    """Raises `InputError` where a step's batch is to be cut into parts and its cells are compared with each other."""
    if config.optimizer.accumulate > 1 and (config.objectives.supervised_weight or config.adapters.rank):
        raise InputError(
            f"optimizer.accumulate={config.optimizer.accumulate}: batches of a run whose labels move the encoder are not cut; "
            "set optimizer.accumulate=1, and where memory is short encoder.remat=full or --tune lora"
        )
    alignment = config.objectives.alignment
    weights = {name: getattr(alignment, name) for name in dataclasses.asdict(alignment) if name.endswith("_weight")}
    together = [f"objectives.alignment.{name}={weight}" for name, weight in weights.items() if weight]
    if config.translator.blocks:
        together.append(f"translator.blocks={config.translator.blocks}")
    if config.fusion.blocks:
        together.append(f"fusion.blocks={config.fusion.blocks}")
    if config.optimizer.accumulate > 1 and together:
        raise InputError(
            f"optimizer.accumulate={config.optimizer.accumulate}: {', '.join(together)} compares cells of a whole batch "
            "with each other, and parts of it would train another objective; set optimizer.accumulate=1, and where memory is "
            "short encoder.remat=full or a mesh of more devices"
        )


def load_config(path: str | Path, overrides: list[str] = (), corpus: str | None = None) -> Config:
    """Read `get_config()` of a config file, or of one that comes with mofm by its name ("small"), and apply `a.b=value`
    overrides.

    `corpus` is taken where neither names a `data.corpus`; None: it has to be named.

    Raises:
      InputError: no such file, no get_config in it, an unknown key (the nearest right one is named), a wrong type or value.
    """
    return build_config(read_values(path), overrides, corpus)


def read_values(path: str | Path) -> ConfigDict | dict[str, Any]:
    """What `get_config()` of a config file returns. Raises as `load_config`."""
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        own = {file.stem: file for file in sorted(Path(configs.__file__).parent.glob("[a-z]*.py"))}
        if str(path) not in own:
            raise InputError(
                f"{path}: no such config file; those that come with mofm are called {', '.join(own)}, in configs/ of its "
                "repository"
            )
        path = own[str(path)]
    spec = importlib.util.spec_from_file_location(f"mofm_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError) as error:
        raise InputError(f"{path}: cannot be run ({type(error).__name__}: {error}); mend the config file") from error
    values = module.get_config() if hasattr(module, "get_config") else None
    if not isinstance(values, ConfigDict | dict):
        raise InputError(f"{path}: a config file defines get_config(), which returns an ml_collections.ConfigDict")
    return values


def build_config(values: ConfigDict | dict[str, Any], overrides: list[str] = (), corpus: str | None = None) -> Config:
    """A typed Config of nested values, with `a.b=value` overrides applied on top; `corpus` as in `load_config`."""
    tree = values.to_dict() if isinstance(values, ConfigDict) else values
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--config.{key}: write --config.{key}=VALUE")
        _override(tree, key, text)
    if corpus is not None:
        tree.setdefault("data", {}).setdefault("corpus", corpus)
    return from_dict(Config, tree)


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """A dataclass (with dataclasses in it) of nested dicts; unknown keys and wrong types are InputErrors."""
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"config: unknown key {where + key!r}.{nearest_name(key, hints)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise InputError(f"config: {where}{key}={value!r}: a group of keys is expected")
            arguments[key] = from_dict(hint, value, f"{where}{key}.")
        else:
            arguments[key] = _typed(hint, value, where + key)
    required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - arguments.keys()):
        raise InputError(
            f"config: {where}{missing[0]} is not set; give it in the file or as --config.{where}{missing[0]}="
        )
    return cls(**arguments)


def _override(tree: dict[str, Any], dotted: str, text: str) -> None:
    """Set one dotted key. Which keys exist is known from the dataclasses, so a file need not name every default."""
    *parents, last = dotted.split(".")
    cls, node = Config, tree
    for depth, name in enumerate([*parents, last]):
        hints = typing.get_type_hints(cls)
        prefix = ".".join(parents[:depth]) + "." if depth else ""
        if name not in hints:
            group = f"config.{prefix}".removesuffix(".")
            raise InputError(f"config: unknown key {dotted!r}: no {name!r} in {group}.{nearest_name(name, hints)}")
        cls = hints[name]
        if depth < len(parents):
            if not dataclasses.is_dataclass(cls):
                raise InputError(f"config: {prefix}{name} is a value, {dotted!r} has no meaning")
            node = node.setdefault(name, {})
    if dataclasses.is_dataclass(cls):
        raise InputError(f"config: {dotted!r} is a group; set one of its keys: {', '.join(typing.get_type_hints(cls))}")
    try:
        node[last] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        node[last] = text  # a bare word: a path, a name


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise InputError(f"config: {where}={value!r}: expected a list such as ['a', 'b']")
        return tuple(_typed(item, v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"config: {where}={value!r}: expected values by name, such as {{'a': 1, 'b': 2}}")
        key, item = typing.get_args(hint)
        return {_typed(key, k, where): _typed(item, v, f"{where}[{k!r}]") for k, v in value.items()}
    if origin is typing.Literal:
        if value not in (choices := typing.get_args(hint)):
            raise InputError(f"config: {where}={value!r}: must be one of {', '.join(map(str, choices))}")
        return value
    if origin in (typing.Union, types.UnionType):
        kinds = typing.get_args(hint)
        if value is None and type(None) in kinds:
            return None
        return _typed(next(k for k in kinds if k is not type(None)), value, where)
    if hint is float and type(value) is int:
        return float(value)
    if hint is str and not isinstance(value, str):
        value = str(value)
    if type(value) is not hint:
        raise InputError(f"config: {where}={value!r}: expected {hint.__name__}, found {type(value).__name__}")
    return value
