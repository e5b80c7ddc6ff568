"""A trained model as a folder that goes anywhere: `write_bundle(parts, OUT)`, read again by `parts.read_parts`.

    README.md             the model card, as the hub has it; for people, who may edit it
    LICENSE               of the model, where a text was given
    config.json           format, config, step, what it was trained on, its figures
    model.safetensors     the parameters; several files and an index where they are large (`tensors.py`)
    start.safetensors     the mean predictors and the linear model that the run began from, and what its features are
    annotation.json, annotation.safetensors   its annotation head, where it has one of this step (`heads.py`)
    response.json, response.safetensors       its responses to treatments, the same (`responses.py`)
    genes.parquet, features.parquet, network.parquet   as in a run (`training/workdir.py`)
    gene_table.parquet    the species' genes, always, as a later mofm may ship others
    compiled/             StableHLO, where it was asked for (`compiled.py`)
    checksums.json        sizes and SHA-256 (`checksums.py`)

There is no pickle in it and no code: whoever loads it reads JSON, Parquet and arrays. It knows no mesh: arrays are whole,
and are put on whatever device there is. Paths of the machine that trained it are cut to their last name.

Choices and their cost:
- Optimizer, mesh, position in the data are left behind: a bundle is used, not trained on.
- The simple models are whole, although inference needs a part of them: 4 bytes x genes x width more than it might take.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mofm
from mofm.errors import InputError
from mofm.export.card import Licence, model_card, read_figures
from mofm.export.checksums import COMPILED, write_checksums
from mofm.export.compiled import write_compiled
from mofm.export.heads import save_heads
from mofm.export.parts import CONFIG, FORMAT, FORMAT_VERSION, MODEL, START, TABLES, Parts, is_bundle, start_arrays
from mofm.export.responses import save_responses
from mofm.export.tensors import SHARD_BYTES, by_name, save_tensors
from mofm.omics.genome import bundled_path
from mofm.training import workdir as workdirs
from mofm.training.network import FILE as NETWORK

KEPT = ("modalities", "species", "gene_table", "corpus_digest", "network_digest", "parameters", "finetuned_from")
"""Of a run's config.json, as they are."""
ABOUT = ("data_sets", "figures")
"""What the card says of the training; a bundle of a bundle has it from there."""


def write_bundle(
    parts: Parts,
    out: Path,
    *,
    name: str | None = None,
    licence: str | None = None,
    compiled: bool = False,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write a model as a bundle. `out` appears whole or not at all. Returns the bytes of each of its files.

    Args:
      name: what the model calls itself from then on, in reports too; None: as the run does.
      licence: an identifier such as "cc-by-4.0", or the path of a text; None: that of a bundle, and of a run none.
      compiled: with `compiled/`.
      shard_bytes: most of a file of parameters.
      overwrite: whether a bundle at `out` is replaced. Anything else is never.

    Raises:
      InputError: `out` is there, or cannot be written; or the licence or the name cannot be used.
    """
    if out.exists() and not (overwrite and is_bundle(out)):
        state = "is there and no bundle" if overwrite else "exists"
        raise InputError(
            f"{out} {state}: give another OUT{'' if overwrite else ', or --overwrite to replace a bundle'}"
        )
    name = parts.name if name is None else name
    if not re.fullmatch(r"[\w][\w .+-]*", name):
        raise InputError(f"name {name!r}: letters, digits, space, '.', '_', '+' and '-' are expected")
    there = json.loads((parts.workdir / CONFIG).read_text(encoding="utf-8"))
    if licence is None and (parts.workdir / "LICENSE").is_file() and is_bundle(parts.workdir):
        licence = str(parts.workdir / "LICENSE")
    terms = Licence.of(licence or there.get("licence"))
    with written_folder(out) as folder:
        save_tensors(folder, MODEL, by_name(parts.params), shard_bytes)
        save_tensors(folder, START, start_arrays(parts), shard_bytes)
        _copy_tables(parts, folder)
        if (heads := parts.heads) is not None:
            save_heads(folder, heads)
        if (responses := parts.responses) is not None:
            save_responses(folder, responses)
        if compiled:
            write_compiled(parts, folder / COMPILED)
        if terms.text is not None:
            (folder / "LICENSE").write_text(terms.text, encoding="utf-8")
        record = _record(parts, name, there, terms)
        (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_checksums(folder)
        (folder / "README.md").write_text(model_card(parts, record, terms, compiled), encoding="utf-8")
    return {path.relative_to(out).as_posix(): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}


def _copy_tables(parts: Parts, folder: Path) -> None:
    """The tables, byte by byte as they lie beside the run."""
    for file in (*TABLES, NETWORK):
        source = parts.workdir / file
        if file == workdirs.GENE_TABLE and not source.exists():
            source = bundled_path(parts.named_by.species)
        if source.exists():
            shutil.copyfile(source, folder / file)


def _record(parts: Parts, name: str, there: dict[str, Any], terms: Licence) -> dict[str, Any]:
    """What config.json says."""
    figures = there["figures"] if "figures" in there else read_figures(parts.workdir, parts.step)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "mofm_version": mofm.__version__,
        "name": name,
        "step": parts.step,
        "licence": terms.identifier,
        "config_hash": workdirs.config_hash(parts.config),
        **{key: there[key] for key in KEPT if key in there},
        "gene_table": parts.named_by.version,
        "species": parts.named_by.species,
        "data_sets": there.get("data_sets"),
        "figures": figures,
        "config": _without_places(parts.config.to_dict()),
    }


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The config without the paths of the machine that trained: a bundle is given away. `config_hash` knows none of them."""
    data = config["data"] | {"corpus": _last(config["data"]["corpus"]), "cache_dir": None}
    network = config["network"] | {"tables": [_last(table) for table in config["network"]["tables"]]}
    return config | {"data": data, "network": network}


def _last(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


@contextmanager
def written_folder(out: Path) -> Iterator[Path]:
    """Gives a folder beside `out` to write to; where the context ends well, it becomes `out`, in the place of one there.

    Raises:
      InputError: what the disk refuses, in a line; `out` is as it was.
    """
    out = out.absolute()
    temporary, old = out.with_name(f".{out.name}.writing"), out.with_name(f".{out.name}.old")
    try:
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)
                out.rename(old)
            temporary.rename(out)
        finally:
            for leftover in (temporary, old):
                shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); free space or give another OUT"
        ) from error
