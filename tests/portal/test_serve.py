"""`mofm serve` as it is: real processes, a real model, a worker that is killed; and its pages in a real browser.

Set MOFM_SCREENSHOTS to a folder to look at the pages.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import psutil
import pytest

from mofm.cli import main

httpx = pytest.importorskip("httpx", reason="httpx is not installed: `mofm serve` was NOT tested")
PHONE = {"width": 390, "height": 844}
TOKEN = "a-secret-of-the-lab"


class Served(NamedTuple):
    """A portal that runs: its address, its server's process, its data, and its log."""

    url: str
    process: subprocess.Popen
    data: Path
    log: Path

    @property
    def worker(self) -> int:
        return int((self.data / "worker.pid").read_text())


def wait_for(what, seconds: float = 300.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    log = folder / "log.txt"
    command = [
        sys.executable,
        "-m",
        "mofm.cli",
        "serve",
        str(trained.workdir),
        "--port",
        "0",
        "--data-dir",
        str(folder / "data"),
    ]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"MOFM_AUTH_TOKEN": TOKEN}, start_new_session=True
        )
    wait_for(lambda: "http://" in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    yield Served(re.search(r"http://\S+", log.read_text())[0].rstrip("/"), process, folder / "data", log)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as made:
        yield made


def ask(client, path: str) -> dict:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_file_is_embedded_though_its_worker_was_killed(served, client, trained, tmp_path):
    with trained.source.open("rb") as file:
        uploaded = client.post("/api/files", files={"file": ("my cells.h5ad", file)}).json()
    told = wait_for(lambda: (now := ask(client, f"/api/files/{uploaded['id']}"))["state"] != "looking" and now)
    assert (told["state"], told["report"]["cells"]) == ("ready", 96)
    assert told["report"]["modalities"][0]["share"] == 1.0
    job = client.post("/api/jobs", json={"file": uploaded["id"], "verb": "embed"}).json()
    wait_for(lambda: ask(client, f"/api/jobs/{job['id']}")["state"] == "running")
    killed = served.worker
    os.kill(killed, signal.SIGKILL)
    seen = set()

    def ended():
        now = ask(client, f"/api/jobs/{job['id']}")
        seen.add((now["stage"], now["total"]))
        return now["state"] not in ("queued", "running") and now

    done = wait_for(ended)
    assert done["state"] == "done", done["error"]
    assert served.worker != killed
    assert ("loading the model", 0) in seen
    names = {file["name"] for file in done["files"]}
    assert names == {"cells.h5ad", "umap.png", "embedding.csv"}
    (tmp_path / "cells.h5ad").write_bytes(client.get(f"/api/jobs/{job['id']}/files/cells.h5ad").content)
    assert main(["embed", str(trained.workdir), str(trained.source), str(tmp_path / "by_cli.h5ad")]) == 0
    with h5py.File(tmp_path / "cells.h5ad") as ours, h5py.File(tmp_path / "by_cli.h5ad") as theirs:
        np.testing.assert_array_equal(ours["obsm/X_mofm"], theirs["obsm/X_mofm"])
    points = client.get(f"/jobs/{job['id']}/files/points.json").json()
    assert len(points["x"]) == 96
    assert [key["name"] for key in points["keys"]][:2] == ["cell_type", "batch"]
    table = client.get(f"/api/jobs/{job['id']}/files/embedding.csv").text.splitlines()
    assert len(table) == 97
    assert table[0].startswith("cell,umap_1,umap_2,mofm_1")


def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the pages were NOT seen")
    names = ("chromium", "chromium-browser", "google-chrome")
    return sync_api, next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="module")
def browser():
    sync_api, path = chromium()
    with sync_api.sync_playwright() as playwright:
        try:
            made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium starts: the pages were NOT seen ({str(error).splitlines()[0]})")
        yield made
        made.close()


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest("noscript, option")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(walker.currentNode.textContent.trim());
  }
  return poor;
}"""


def check(page, name: str) -> None:
    """Nothing hangs over on a phone or a screen, all text can be read; a picture where they are asked for."""
    for size in (PHONE, {"width": 1200, "height": 800}):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], f"{name} hangs over"
        if folder := os.environ.get("MOFM_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{name}_{size['width']}.png", full_page=True)
    assert page.evaluate(CONTRAST) == []


def open_page(browser, served, **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(300_000)
    page.goto(f"{served.url}/")
    return page


def log_in(page) -> None:
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_selector("#upload")


def test_a_person_goes_from_a_file_to_a_map_in_a_browser(served, browser, trained):
    page, said = open_page(browser, served), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())
    page.fill("#token", "not the token")
    page.click("main button")
    assert "not the token" in page.inner_text("#wrong")
    check(page, "login")
    said.clear()  # a browser says that 403 was answered
    log_in(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    check(page, "home")
    page.set_input_files("#file", trained.source)
    page.click("#upload button")
    page.wait_for_selector(".verdict.good")
    assert "96 cells" in page.inner_text(".verdict")
    check(page, "file")
    page.click("form[aria-labelledby=title-embed] button")
    page.wait_for_selector("#progress, #map")
    check(page, "progress")
    page.wait_for_selector("#stage:has-text('loading'), #map")
    page.wait_for_selector("#map[data-ready]")  # the page loads itself again when the job has ended
    assert "96 cells" in page.inner_text("main")
    assert page.inner_text(".legend").split()[0] == "a"
    first = page.evaluate("document.querySelector('#map canvas').toDataURL()")
    page.select_option("#map-colour", label="batch")
    assert "one" in page.inner_text(".legend")
    page.click(".legend button")
    assert page.get_attribute(".legend button", "aria-pressed") == "true"
    page.focus("#map canvas")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.querySelector('#map canvas').toDataURL()") != first
    page.keyboard.press("0")
    box = page.locator("#map canvas").bounding_box()
    found = set()
    for part in range(60):
        page.mouse.move(
            box["x"] + box["width"] * (part % 12 + 0.5) / 12, box["y"] + box["height"] * (part // 12 + 0.5) / 5
        )
        if page.is_visible(".tip"):
            found.add(page.inner_text(".tip"))
    assert any("batch: " in tip for tip in found)
    check(page, "result")
    with page.expect_download() as download:
        page.click("text=embedding.csv")
    assert download.value.suggested_filename == "cells_embed_embedding.csv"
    page.goto(f"{served.url}/jobs")
    check(page, "jobs")
    page.goto(f"{served.url}/api")
    check(page, "api")
    page.goto(f"{served.url}/jobs")
    page.click("table a >> nth=0")
    page.click("button.danger")
    page.wait_for_url("**/jobs")
    assert said == []  # no error, and nothing that the content security policy had to stop


def test_what_is_wrong_is_told_in_the_browser(served, browser, tmp_path):
    page = open_page(browser, served)
    log_in(page)
    (tmp_path / "notes.h5ad").write_text("these are no cells")
    page.set_input_files("#file", tmp_path / "notes.h5ad")
    page.click("#upload button")
    page.wait_for_selector(".verdict.bad")
    assert "notes.h5ad: not an HDF5 file" in page.inner_text(".verdict")
    check(page, "refused")
    page.goto(f"{served.url}/")
    (tmp_path / "empty.h5ad").write_bytes(b"")
    page.set_input_files("#file", tmp_path / "empty.h5ad")
    page.click("#upload button")
    page.wait_for_selector("#upload .problem:not([hidden])")
    assert "empty" in page.inner_text("#upload .problem")
    check(page, "problem")
    page.goto(f"{served.url}/jobs/nothing")
    assert "There is no such job" in page.inner_text("main")


def test_without_javascript_pages_load_themselves_again_and_show_a_picture(served, browser, client, trained):
    done = [job for job in ask(client, "/api/jobs") if job["state"] == "done"]
    if not done:
        pytest.skip("no job was done before")
    page = open_page(browser, served, java_script_enabled=False)
    page.fill("#token", TOKEN)
    page.click("main button")
    page.set_input_files("#file", trained.source)
    page.click("#upload button")
    page.wait_for_selector(".verdict.good")  # the page of a file that is being read loads itself again
    page.goto(f"{served.url}/jobs/{done[0]['id']}")
    assert page.locator("#map img").evaluate("image => image.naturalWidth") > 300


def test_the_log_holds_no_secret_and_no_error_but_the_worker_that_was_killed(served):
    log = served.log.read_text()
    assert TOKEN not in log
    assert "Traceback" not in log, log


def test_a_worker_ends_when_its_server_is_killed(served):
    worker = psutil.Process(served.worker)
    served.process.kill()
    worker.wait(60)
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "whoever reaches this machine could use the portal"),
        (["--auth-token", "short"], "fewer than 8 characters"),
        (["--max-cells", "0"], "must be more than 0"),
        (["--host", "203.0.113.1"], "--auth-token"),
    ],
)
def test_a_portal_that_cannot_be_is_refused(tmp_path, capsys, words, said):
    assert main(["serve", str(tmp_path), "--data-dir", str(tmp_path / "data"), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_port_or_a_folder_in_use_is_told(tmp_path, capsys, monkeypatch):
    import fcntl
    import socket

    monkeypatch.setattr("mofm.portal.serve.describe_model", lambda settings: None)
    words = ["serve", str(tmp_path), "--data-dir", str(tmp_path / "data")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*words, "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen there" in capsys.readouterr().err
    with (tmp_path / "data" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([*words, "--port", "0"]) == 2
    assert "another `mofm serve` uses it" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*words[:-1], str(tmp_path / "file" / "data")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_model_that_is_none_is_told(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--data-dir", str(tmp_path / "data"), "--port", "0"]) == 2
    assert "neither a run nor a bundle" in capsys.readouterr().err
