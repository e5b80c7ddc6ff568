"""One conversion by annbatch, timed: the peer that ingest.py starts. Settings: see `SETTINGS`."""

import json
import sys
import time
import warnings

import annbatch
import anndata as ad
import zarr
from annbatch.io import write_sharded
from ingest_once import memory

UNSHUFFLED = {"shuffle": False}
SETTINGS = {
    "add_adatas": {},
    "add_adatas, not shuffled": UNSHUFFLED,
    "add_adatas, not shuffled, 512 MB at a time": UNSHUFFLED | {"dataset_size": "512MB", "shard_size": "256MB"},
    "write_sharded of read_h5ad": None,
}
"""What is given to `DatasetCollection.add_adatas`; None: the file is read whole and written, no collection is made."""


def main(setting: str, out: str, *paths: str) -> None:
    """Prints what ingest_once.py does."""
    warnings.simplefilter("ignore")
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    before, begin, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    if SETTINGS[setting] is None:
        group = zarr.open_group(out, mode="w")
        for number, path in enumerate(paths):
            write_sharded(group, ad.read_h5ad(path), key=f"dataset_{number}")
    else:
        annbatch.DatasetCollection(out).add_adatas(paths, **SETTINGS[setting])
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    written = zarr.open_group(out, mode="r")
    arrays = [written[f"{name}/X"] for name in written if name.startswith("dataset_")]
    said = {
        "cells/s": sum(array.attrs["shape"][0] for array in arrays) / seconds,
        "million entries/s": sum(array["data"].size for array in arrays) / seconds / 1e6,
    }
    held = {"seconds": seconds, "CPU seconds": used, "MB of memory": memory("VmHWM") - before}
    print(json.dumps(said | held))


if __name__ == "__main__":
    main(*sys.argv[1:])
