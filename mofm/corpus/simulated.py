"""A corpus of simulated cells of any size: data sets that are parts of one simulation, made several at a time.

A part has cells, batches and donors of its own; network, genes and cell types are those of the whole (see
`SimulationConfig.part`). Each is written as a file, ingested as any other file is, and deleted, so memory and spare disk
are those of a few parts however many there are, and the corpus is what an ingest of those files would be. Parts that it
has are passed over: a simulation that was stopped, or is to have more cells, goes on. Choices and their cost:

- Parts are made in processes, a core each, and ingested one after another beside them: a part takes several times as
  long to simulate as to ingest.
- Names of data sets hold a digest of what was simulated, so that two simulations in one corpus differ.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mofm.ahead import WHY_KILLED, in_turn
from mofm.axes import Modality
from mofm.corpus.contents import read_manifest
from mofm.corpus.engines import end_with_parent
from mofm.corpus.ingest import IngestResult, ingest
from mofm.corpus.places import is_url
from mofm.errors import InputError
from mofm.omics.simulate import SimulationConfig, simulate_any, to_mudata, write_mudata


def simulate_corpus(
    config: SimulationConfig,
    out: str | Path,
    modalities: Sequence[Modality] = ("rna",),
    species: str | None = None,
    unpaired: bool = False,
    *,
    dataset_cells: int = 100_000,
    jobs: int | None = None,
    on_cells: Callable[[int], None] = lambda cells: None,
) -> list[IngestResult]:
    """Adds simulated cells to the corpus at `out`, which is made where there is none.

    Args:
      config: of all cells together; its `part` is not looked at.
      modalities, species, unpaired: see `simulate_any`.
      dataset_cells: cells of a data set; the last may have fewer.
      jobs: parts made at once; None is one for each core. A script needs the usual `if __name__ == "__main__"`.
      on_cells: called with how many more cells are there.

    Returns:
      A result for each new data set, in order.

    Raises:
      InputError: as `simulate_any` and `ingest`; no cells to a data set; a process was killed; the corpus ends in a
        part of the same simulation that is no whole data set, so nothing can come behind it.
    """
    if is_url(out):
        raise InputError(f"{out}: simulate into a local folder, then copy it to the bucket")
    if dataset_cells < 1:
        raise InputError(f"--dataset-cells {dataset_cells}: must be at least 1")
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: must be at least 1")
    what = (tuple(modalities), species, unpaired)
    named = {_name(part, dataset_cells, what): part for part in _parts(config, dataset_cells)}
    manifest = read_manifest(out)
    there = {entry.input for entry in manifest.stores} if manifest else set()
    _check_whole(named, there)
    on_cells(sum(part.cells for name, part in named.items() if name in there))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory(prefix=".simulated-", dir=Path(out).parent) as folder:
        tasks = [(part, *what, Path(folder) / name) for name, part in named.items() if name not in there]
        for (part, *_), file in zip(tasks, _made(tasks, jobs), strict=True):
            results += ingest([file], out, species=species, unpaired=unpaired)
            file.unlink()
            on_cells(part.cells)
    return results


def _parts(config: SimulationConfig, dataset_cells: int) -> Iterator[SimulationConfig]:
    for part, start in enumerate(range(0, config.cells, dataset_cells)):
        yield dataclasses.replace(config, cells=min(dataset_cells, config.cells - start), part=part)


def _name(part: SimulationConfig, dataset_cells: int, what: tuple) -> str:
    """Of the dataset: the same for the same cells, whatever the simulation has behind them."""
    settings = dataclasses.asdict(part)
    number, cells = settings.pop("part"), settings.pop("cells")
    digest = hashlib.blake2b(json.dumps([settings, dataset_cells, what]).encode(), digest_size=4).hexdigest()
    rest = "" if cells == dataset_cells else f"-{cells}"
    return f"simulated-{digest}-{number:05d}{rest}"


def _check_whole(named: dict[str, SimulationConfig], there: set[str]) -> None:
    """A part's cells depend on how many they are: one that is cut off cannot be gone on with."""
    stem = lambda name: "-".join(name.split("-")[:3])  # noqa: E731
    by_stem = {stem(name): name for name in there}
    for name, part in named.items():
        other = by_stem.get(stem(name))
        if other not in (None, name):
            raise InputError(
                f"--cells: the corpus has {other!r}, a part of this simulation that is no whole data set of "
                f"{part.cells:,} cells; a simulation that ended in one cannot be gone on with: make a new corpus, with "
                "--cells a multiple of --dataset-cells"
            )


def _made(tasks: list[tuple], jobs: int) -> Iterator[Path]:
    """The file of each task in turn, while `jobs` others are there or under way."""
    if jobs == 1 or len(tasks) <= 1:
        yield from (_make(*task) for task in tasks)
        return
    workers = ProcessPoolExecutor(min(jobs, len(tasks)), multiprocessing.get_context("spawn"), end_with_parent)
    try:
        yield from in_turn(lambda task: workers.submit(_make, *task), tasks, jobs)
    except BrokenProcessPool as error:
        raise InputError(
            f"a process that simulated cells was killed ({WHY_KILLED}); run this again with --jobs 1, it goes on"
        ) from error
    finally:
        workers.shutdown(cancel_futures=True)


def _make(
    part: SimulationConfig, modalities: tuple[Modality, ...], species: str | None, unpaired: bool, stem: Path
) -> Path:
    """Simulates a part into a file, whose path is `stem` with the suffix of its layout."""
    omics = simulate_any(part, modalities, species, unpaired)
    if len(omics) > 1:
        path = stem.with_suffix(".h5mu")
        write_mudata(to_mudata(omics), path)
    else:
        path = stem.with_suffix(".h5ad")
        omics[modalities[0]].write_h5ad(path)
    return path
