"""One ingest, timed: what ingest.py starts. It imports little, because each process of an ingest imports it again."""

import json
import sys
import time
from pathlib import Path

from mofm.corpus.ingest import ingest
from mofm.omics.checks import gene_share


def main(jobs: str, out: str, *paths: str) -> None:
    """Prints cells/s, entries/s, seconds, CPU seconds of this process and memory as JSON."""
    gene_share(["CD3D"])
    before, begin, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    modality = "methylation" if "methylation" in paths[0] else None
    results = ingest(paths, out, jobs=int(jobs), modality=modality)
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    entries = [entry for result in results for entry in result.entries]
    cells = sum(max(entry.cells for entry in result.entries) for result in results)
    said = {"cells/s": cells / seconds, "million entries/s": sum(entry.entries for entry in entries) / seconds / 1e6}
    held = {"seconds": seconds, "CPU seconds": used, "MB of memory": memory("VmHWM") - before}
    print(json.dumps(said | held))


def memory(key: str) -> float:
    """VmRSS (what this process holds) or VmHWM (the most that it held), in MB. A new program's begin anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main(*sys.argv[1:])
