"""The config of the stream: what a batch is made of."""

from dataclasses import dataclass, field
from typing import Literal

from mofm.batches.mixture import parse_stratum
from mofm.errors import InputError, check_at_least


@dataclass(frozen=True)
class DataConfig:
    """What a batch is made of, and how cells are shuffled and held out.

    Attributes:
      corpus: path of the corpus.
      batch_size: cells in a global batch, over all hosts; one of several modalities counts once.
      tokens: the most tokens of a cell in one modality.
      atac_tokens, adt_tokens, methylation_tokens: the same for one modality. None: `tokens`, or all features that the
        widest dataset measures where those are fewer.
      expressed_fraction: share of expressed features among a cell's tokens, in (0, 1]; the others are zeros.
      block_cells: consecutive cells that are read together.
      window_blocks: blocks whose cells are shuffled together. Memory is proportional to it.
      memory_gb: what the cells that are read and shuffled may take of a host's memory, in 1e9 bytes, where there is one
        host; of several each takes less. Where `window_blocks` would take more, it is lowered. None: no limit.
      prefetch: batches made ahead, each in a thread. 0: made when asked for.
      holdout_fraction: chance of a cell to be held out of training, in [0, 1).
      holdout_datasets: names of datasets that are held out whole.
      holdout_groups: column of obs -> its values whose cells are all held out, such as {"donor": ["d3", "d7"]}: what is
        promised of new donors has to be measured on some. Beside them `holdout_fraction` holds out cells of the others.
      temperature: in [0, 1]. A dataset of n cells has a share of n^temperature of the batches: 1 serves every cell
        equally often, 0 every dataset; below 1, one atlas does not drown the rest.
      quotas: stratum -> its share of a batch, up to a factor: {"rna": 2, "atac": 1, "rna+atac": 1} makes half of the
        cells RNA alone. Empty: by the cells and the temperature. Shares are met in whole rows, at least one each.
      damaged: what to do with cells in a damaged part of the corpus. "stop": an error that names it. "skip": they are left
        out, reported once and counted; their rows are padding, and all other rows are what they would have been.
      cache_dir: a local folder that keeps the files of a corpus in a bucket, shared by all runs of a host, so that a second
        epoch asks the bucket for nothing. None: every epoch reads the bucket.
      cache_gb: what that folder may hold, in 1e9 bytes. What does not fit is read in the bucket.
      quota_multiple: each stratum has a multiple of this many rows, so that every view divides by as many devices.
      label_key: obs column with what a cell is called, its type; `TokenBatch.label_B` numbers it (see `labels.py`). None:
        not read.
      batch_key: obs column with a cell's technical batch (donor, lane, ...), for `TokenBatch.batch_B`. None: not read.
    """

    corpus: str
    batch_size: int = 256
    tokens: int = 1024
    atac_tokens: int | None = None
    adt_tokens: int | None = None
    methylation_tokens: int | None = None
    expressed_fraction: float = 0.75
    block_cells: int = 128
    window_blocks: int = 64
    memory_gb: float | None = None
    prefetch: int = 2
    holdout_fraction: float = 0.1
    holdout_datasets: tuple[str, ...] = ()
    holdout_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    temperature: float = 1.0
    quotas: dict[str, float] = field(default_factory=dict)
    quota_multiple: int = 1
    cache_dir: str | None = None
    cache_gb: float = 100.0
    damaged: Literal["stop", "skip"] = "stop"
    label_key: str | None = None
    batch_key: str | None = None

    def __post_init__(self):
        check_at_least("data", self, ("batch_size", "tokens", "block_cells", "window_blocks", "quota_multiple"), 1)
        own = ("atac_tokens", "adt_tokens", "methylation_tokens")
        check_at_least("data", self, [name for name in own if getattr(self, name) is not None], 1)
        check_at_least("data", self, ("prefetch",), 0)
        if not 0 < self.expressed_fraction <= 1:
            raise InputError(f"data.expressed_fraction={self.expressed_fraction}: must be more than 0 and at most 1")
        if not 0 <= self.holdout_fraction < 1:
            raise InputError(f"data.holdout_fraction={self.holdout_fraction}: must be at least 0 and less than 1")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise InputError(f"data.memory_gb={self.memory_gb}: must be more than 0; leave it out for no limit")
        if not self.cache_gb > 0:
            raise InputError(
                f"data.cache_gb={self.cache_gb}: must be more than 0; leave data.cache_dir out for no cache"
            )
        if not 0 <= self.temperature <= 1:
            raise InputError(f"data.temperature={self.temperature}: must be at least 0 and at most 1")
        for name, share in self.quotas.items():
            parse_stratum(name)
            if not 0 < share < float("inf"):
                raise InputError(f"data.quotas: {name}={share}: a share must be more than 0")
