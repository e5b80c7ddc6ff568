"""Many clients at one portal: is any job lost, and how long does a person wait for a page meanwhile?

    python tests/benchmarks/portal.py MODEL CELLS.h5ad [--clients 50] [--workers 2] [--kills 3] [--stand-in]

`mofm serve` is started as it is. All clients come at once, from one address; each uploads the file, waits for the look at
it, starts `embed`, waits for its end and takes the result, as a browser does, and waits as long as a 429 says. Beside them a
person loads the page of all jobs once a second. --kills workers are ended by SIGKILL, evenly over the jobs. A job is lost
that ends in no result, or whose result is not the file that it was started with. With --stand-in the model's part of a job is
left out: it copies its file, so that what is measured is the portal alone.
"""

import concurrent.futures
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import httpx
import psutil
from common import machine, parser, show


class Client:
    """One client: what it waited for, and whether its result came."""

    def __init__(self, url: str):
        self._http = httpx.Client(base_url=url, timeout=120)
        self.refused = 0
        self.seconds: dict[str, float] = {}
        self.problem = "no end"

    def ask(self, method: str, path: str, **told) -> httpx.Response:
        """A request, repeated while the server says that it is too many."""
        while (answer := self._http.request(method, path, **told)).status_code == 429:
            self.refused += 1
            time.sleep(float(answer.headers["retry-after"]))
        answer.raise_for_status()
        return answer

    def run(self, source: Path, cells: int) -> None:
        """From a file to a result."""
        began = time.monotonic()
        file = self.ask("POST", "/api/files", files={"file": (source.name, source.read_bytes())}).json()
        self._lap("upload", began)
        while (found := self.ask("GET", f"/api/files/{file['id']}").json())["state"] == "looking":
            time.sleep(1)
        self._lap("look", began)
        if found["state"] != "ready":
            self.problem = found["why"]
            return
        job = self.ask("POST", "/api/jobs", json={"file": file["id"], "verb": "embed"}).json()
        while (job := self.ask("GET", f"/api/jobs/{job['id']}").json())["state"] in ("queued", "running"):
            time.sleep(2)
        self._lap("result", began)
        if job["state"] != "done":
            self.problem = job["error"]
            return
        with tempfile.NamedTemporaryFile(suffix=".h5ad") as copy:
            copy.write(self.ask("GET", f"/api/jobs/{job['id']}/files/cells.h5ad").content)
            copy.flush()
            with h5py.File(copy.name) as result:
                self.problem = "" if cells_of(result) == cells else "another file's result"

    def _lap(self, name: str, began: float) -> None:
        self.seconds[name] = time.monotonic() - began


STAND_IN = """
import json, shutil, sys, time
source, folder = sys.argv[1:]
print(json.dumps({"stage": "copying", "done": 0, "total": 1}), flush=True)
time.sleep(0.5)
shutil.copyfile(source, folder + "/cells.h5ad")
with open(folder + "/result.json", "w") as file:
    json.dump({"title": "Copied", "files": [{"name": "cells.h5ad", "what": "a copy", "bytes": 0}]}, file)
"""
"""A job that is none."""


def stand_in_worker(data: str) -> None:
    """A worker as it is, whose jobs are none."""
    from mofm.portal import worker

    def copies(settings, job, folder):
        return (sys.executable, "-S", "-c", STAND_IN, str(settings.file_path(job.file_id)), str(folder))

    worker.Worker.__init__.__defaults__ = (copies,)
    worker.main(data)


def cells_of(file: h5py.File) -> int:
    """How many cells an h5ad has."""
    return len(file["obs"][file["obs"].attrs["_index"]])


def watch(url: str, data: Path, kills: int, clients: int, ending: threading.Event, seen: dict) -> None:
    """Load the page of all jobs once a second, and end workers."""
    http = httpx.Client(base_url=url, timeout=120)
    while not ending.wait(1):
        began = time.monotonic()
        page = http.get("/jobs")
        if page.status_code == 200:
            seen["pages"].append(time.monotonic() - began)
        done = len(re.findall('class="state done"', page.text))
        if seen["killed"] < kills and done >= (seen["killed"] + 0.5) * clients / (kills + 1):
            os.kill(int((data / "worker.pid").read_text()), signal.SIGKILL)
            seen["killed"] += 1


SERVER = """
import sys
from mofm.cli import main
from mofm.portal import serve
serve.WORKER = {worker!r}
sys.exit(main(sys.argv[1:]))
"""


def main() -> None:
    """Start a portal, let the clients come, print what they met."""
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("source", type=Path)
    arguments.add_argument("--clients", type=int, default=50)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("--stand-in", action="store_true", help="jobs that only copy their file")
    args = arguments.parse_args()
    with h5py.File(args.source) as file:
        cells = cells_of(file)
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "data", Path(folder) / "log.txt"
        words = ("serve", str(args.model), "--port", "0", "--data-dir", str(data), "--workers", str(args.workers))
        worker = (__file__, "--stand-in-worker") if args.stand_in else ("-m", "mofm.portal.worker")
        with log.open("w") as said:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER.format(worker=worker), *words], stdout=said, stderr=said
            )
        while not (url := re.search(r"http://\S+", log.read_text())):
            if server.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)
        ending, seen = threading.Event(), {"pages": [], "killed": 0}
        watcher = threading.Thread(target=watch, args=(url[0], data, args.kills, args.clients, ending, seen))
        watcher.start()
        began, clients = time.monotonic(), [Client(url[0]) for _ in range(args.clients)]
        with concurrent.futures.ThreadPoolExecutor(args.clients) as pool:
            failures = list(pool.map(lambda client: _error_of(client, args.source, cells), clients))
        seconds = time.monotonic() - began
        ending.set()
        watcher.join()
        held = psutil.Process(server.pid).memory_info().rss / 2**20
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    lost = [
        client.problem or failure
        for client, failure in zip(clients, failures, strict=True)
        if client.problem or failure
    ]
    print(machine())
    show(
        f"{args.clients} clients at once, {cells:,} cells each, {args.workers} worker(s), killed {seen['killed']} times"
        + (", stand-ins for jobs" if args.stand_in else ""),
        [
            {
                "clients": str(args.clients),
                "jobs lost": str(len(lost)),
                "all done, s": f"{seconds:,.0f}",
                "upload, s": _spread([client.seconds["upload"] for client in clients if client.seconds]),
                "looked at, s": _spread([client.seconds["look"] for client in clients if "look" in client.seconds]),
                "page of jobs, s": _spread(seen["pages"]),
                "429s": str(sum(client.refused for client in clients)),
                "server MB": f"{held:,.0f}",
            }
        ],
    )
    for problem in lost:
        print(problem, file=sys.stderr)


def _error_of(client: Client, source: Path, cells: int) -> str:
    try:
        client.run(source, cells)
    except (httpx.HTTPError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _spread(values: list[float]) -> str:
    """Median and the 95th of a hundred."""
    ordered = sorted(values)
    return f"{statistics.median(ordered):.2f} ({ordered[int(0.95 * (len(ordered) - 1))]:.2f})" if ordered else "-"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stand-in-worker"]:
        stand_in_worker(sys.argv[2])
    else:
        main()
