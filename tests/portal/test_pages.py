"""Pages and API: from a file to a result without JavaScript, what is wrong told where it was asked, and nothing shown that
was not made."""

import json
import re
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest

from mofm.portal.settings import new_id
from mofm.portal.worker import Worker


@pytest.fixture
def file_id(portal, trained) -> str:
    return portal.looked(trained.source)["id"]


def do(portal, job_id: str) -> None:
    """A worker's part, without the work: a result of one file, a map and a table."""
    store, settings = portal.desk.store, portal.desk.settings
    job = store.claim(job_id, "worker")
    folder = settings.result_dir(job_id)
    folder.mkdir(parents=True)
    (folder / "cells.h5ad").write_bytes(b"result")
    (folder / "points.json").write_text('{"x": [0, 1], "y": [0, 1], "cells": ["a", "b"], "keys": []}')
    (folder / "umap.png").write_bytes(b"picture")
    (folder / "private.txt").write_text("not for you")
    table = {
        "title": "Genes <b>",
        "about": "",
        "columns": ["gene", "n"],
        "numeric": [False, True],
        "rows": [["A1", "2"]],
        "more": 3,
    }
    files = [
        {"name": "cells.h5ad", "what": "Your file", "bytes": 6},
        {"name": "umap.png", "what": "The map", "bytes": 7},
    ]
    page = {
        "title": "Embedded cells",
        "lines": ["600 cells."],
        "warnings": ["It knows little."],
        "files": files,
        "images": [],
    }
    page |= {"tables": [table], "map": {"what": "cells", "cells": 2, "shown": 2, "keys": []}}
    assert store.end(job, "done", summary=page)


def post(portal, path: str, page: str = "/", **fields):
    return portal.client.post(path, data={"csrf": portal.csrf(page)} | fields, follow_redirects=False)


def test_a_browser_without_javascript_goes_from_a_file_to_a_result(portal, trained):
    home = portal.client.get("/")
    assert trained.workdir.name in home.text
    files = {"file": ("my cells.h5ad", trained.source.read_bytes())}
    answer = portal.client.post("/files", data={"csrf": portal.csrf()}, files=files, follow_redirects=False)
    assert answer.status_code == 303
    place = answer.headers["location"]
    portal.desk._looks.submit(int).result()
    page = portal.client.get(place).text
    assert "It fits the model" in page
    assert "96" in page
    assert "my cells.h5ad" in page
    answer = post(portal, f"{place}/jobs", place, verb="embed")
    assert answer.status_code == 303
    job_page = answer.headers["location"]
    assert portal.sent == [job_page.removeprefix("/jobs/")]
    waiting = portal.client.get(job_page).text
    assert '<noscript><meta http-equiv="refresh"' in waiting
    assert "queued" in waiting
    do(portal, portal.sent[0])
    done = portal.client.get(job_page).text
    for told in (
        "Embedded cells",
        "600 cells.",
        "It knows little.",
        "Genes &lt;b&gt;",
        "cells.h5ad",
        "umap.png",
        "and 3 rows more",
    ):
        assert told in done, told
    assert "http-equiv" not in done
    taken = portal.client.get(f"{job_page}/files/cells.h5ad")
    assert taken.content == b"result"
    assert 'filename="my_cells_embed_cells.h5ad"' in taken.headers["content-disposition"]
    assert post(portal, f"{job_page}/delete", job_page).headers["location"] == "/jobs"
    assert post(portal, f"{place}/delete", place).headers["location"] == "/jobs"
    assert portal.client.get(job_page).status_code == 404
    assert not list((portal.desk.settings.data_dir / "jobs").iterdir())
    assert not list((portal.desk.settings.data_dir / "files").iterdir())


def test_a_program_goes_from_a_file_to_a_result(portal, file_id):
    model = portal.client.get("/api/model").json()
    assert model["modalities"] == ["rna"]
    started = portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed", "options": {"modality": "rna"}})
    assert started.status_code == 201
    job = started.json()
    assert (job["state"], job["options"]) == ("queued", {"modality": "rna"})
    assert portal.client.delete(f"/api/jobs/{job['id']}").status_code == 409
    assert portal.client.delete(f"/api/files/{file_id}").status_code == 409
    do(portal, job["id"])
    done = portal.client.get(f"/api/jobs/{job['id']}").json()
    assert done["state"] == "done"
    assert done["lines"] == ["It knows little.", "600 cells."]
    assert portal.client.get(done["files"][0]["url"]).content == b"result"
    assert [one["id"] for one in portal.client.get("/api/jobs").json()] == [job["id"]]
    assert portal.client.post(f"/api/jobs/{job['id']}/stop").status_code == 409
    assert portal.client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert portal.client.delete(f"/api/files/{file_id}").status_code == 204
    assert portal.client.get("/api/files").json() == []


def test_only_files_that_the_result_tells_of_are_given(portal, file_id):
    job = portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed"}).json()
    assert portal.client.get(f"/jobs/{job['id']}/files/cells.h5ad").status_code == 404
    do(portal, job["id"])
    for name in ("private.txt", "../log.txt", "%2e%2e%2flog.txt", "..%2f..%2f..%2fsecret", "result.json", "a" * 500):
        for prefix in ("/jobs", "/api/jobs"):
            assert portal.client.get(f"{prefix}/{job['id']}/files/{name}").status_code in (404, 405), name
    assert portal.client.get(f"/jobs/{job['id']}/files/points.json").json()["cells"] == ["a", "b"]


@pytest.mark.parametrize("wrong", ["", "x", "../secret", "0" * 31, "0" * 33, "g" * 32, "0123456789abcdef" * 2])
def test_what_is_not_there_is_told(portal, wrong):
    for path in (f"/files/{wrong}x", f"/jobs/{wrong}x", f"/api/files/{wrong}x", f"/api/jobs/{wrong}x"):
        assert portal.client.get(path).status_code == 404, path
    assert portal.client.get(f"/api/jobs/{new_id()}").json()["detail"].startswith("There is no such job")


def test_annotation_is_offered_where_the_model_has_a_head_for_the_file(portal, file_id):
    asked = {"file": file_id, "verb": "annotate"}
    portal.desk.card = replace(portal.desk.card, labels="cell_type", labelled=("atac",))
    assert "reads none of the file" in portal.client.post("/api/jobs", json=asked).json()["detail"]
    assert "reads none of the file" in portal.client.get(f"/files/{file_id}").text
    portal.desk.card = replace(portal.desk.card, labelled=("rna", "atac"))
    assert portal.client.get("/").text.count("<dd>cell_type</dd>") == 1
    page = portal.client.get(f"/files/{file_id}").text
    assert 'name="confidence"' in page
    assert "broader term" not in page
    job = portal.client.post("/api/jobs", json=asked)
    assert job.status_code == 201
    assert portal.desk.job(job.json()["id"]).options == {"modality": "rna", "confidence": None}
    portal.desk.card = replace(portal.desk.card, ontology="cl-basic.obo")
    assert "named by a broader term of cl-basic.obo" in portal.client.get(f"/files/{file_id}").text
    assert portal.client.get("/api/model").json()["ontology"] == "cl-basic.obo"
    job = portal.client.post("/api/jobs", json=asked | {"options": {"confidence": 0.8}})
    assert job.json()["options"] == {"modality": "rna", "confidence": 0.8}
    for wrong, said in (("1.5", "must be more than 0 and at most 1"), ("sure", "is no number")):
        refused = post(portal, f"/files/{file_id}/jobs", f"/files/{file_id}", verb="annotate", confidence=wrong)
        assert refused.status_code == 422
        assert said in refused.text
        assert f'value="{wrong}"' in refused.text


@pytest.mark.parametrize(
    ("verb", "options", "said"),
    [
        ("annotate", {}, "has no annotation head"),
        ("translate", {"to": "atac"}, "trained without a translator"),
        ("regulators", {"groupby": "cell_type"}, "trained without a regulatory network"),
        ("embed", {"modality": "atac"}, "modality: 'atac' is none of rna"),
    ],
)
def test_what_has_no_meaning_is_refused_beside_its_form(portal, file_id, verb, options, said):
    answer = portal.client.post("/api/jobs", json={"file": file_id, "verb": verb, "options": options})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    page = post(portal, f"/files/{file_id}/jobs", f"/files/{file_id}", verb=verb, **options)
    assert page.status_code == 422
    assert 'role="alert"' in page.text
    assert "It fits the model" in page.text
    assert portal.sent == []


def test_what_the_model_cannot_do_is_not_offered(portal, file_id):
    page = portal.client.get(f"/files/{file_id}").text
    assert "Not offered: This model was trained without a translator." in page
    assert page.count('name="verb"') == 1


@pytest.mark.parametrize(
    "body", [{}, {"file": 3}, {"file": "x", "verb": "guess"}, [], {"file": "x", "verb": "embed", "options": 1}]
)
def test_an_api_call_that_is_wrong_is_told_in_a_line(portal, body):
    answer = portal.client.post("/api/jobs", json=body)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)


def test_a_refused_file_takes_no_job_and_can_be_looked_at_in_another_way(portal, trained, tmp_path):
    adata = ad.read_h5ad(trained.source)
    X = adata.X.toarray().astype(np.float64)
    adata.X = np.log1p(1e4 * X / X.sum(axis=1, keepdims=True)).astype(np.float32)
    adata.write_h5ad(tmp_path / "log.h5ad")
    told = portal.looked(tmp_path / "log.h5ad", "log.h5ad")
    assert told["state"] == "refused"
    assert told["report"]["needs_recovery"]
    assert "“Recover counts”" in told["why"]
    assert portal.client.post("/api/jobs", json={"file": told["id"], "verb": "embed"}).status_code == 422
    page = portal.client.get(f"/files/{told['id']}").text
    assert "cannot be used as it is" in page
    assert re.search(r'name="recover_counts" value="yes" checked', page)
    answer = post(portal, f"/files/{told['id']}/look", "/", recover_counts="yes", modality="rna", build="")
    assert answer.status_code == 303
    portal.desk._looks.submit(int).result()
    again = portal.client.get(f"/api/files/{told['id']}").json()
    assert again["state"] == "ready", again["why"]
    job = portal.client.post("/api/jobs", json={"file": told["id"], "verb": "embed"}).json()
    assert job["options"] == {"modality": "rna", "recover_counts": True}
    assert portal.client.post(f"/api/files/{told['id']}/look", json={"modality": "adt"}).status_code == 409
    assert portal.client.post(f"/api/files/{told['id']}/look", json={"build": "hg99"}).status_code in (409, 422)


def test_files_that_do_not_fit_are_told_why(make_portal, trained, tmp_path):
    portal = make_portal(max_cells=50)
    assert "has 96 cells, this server takes 50" in portal.looked(trained.source)["why"]
    adata = ad.read_h5ad(trained.source)[:10].copy()
    adata.var_names = [f"NOGENE{number}" for number in range(adata.n_vars)]
    adata.var = adata.var[[]]
    adata.write_h5ad(tmp_path / "foreign.h5ad")
    why = portal.looked(tmp_path / "foreign.h5ad", "foreign.h5ad")["why"]
    assert why.startswith("foreign.h5ad: ")
    assert "genes" in why


def test_progress_is_told_as_it_changes_and_ends_with_the_job(portal, file_id):
    first, second = (
        portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed"}).json()["id"] for _ in range(2)
    )
    claimed = portal.desk.store.claim(first, "worker")
    portal.desk.store.progress(claimed, "embedding rna", 40, 96)
    assert "embedding rna" in portal.client.get(f"/jobs/{first}").text
    assert "waits for 1 other" in portal.client.get(f"/jobs/{second}").text
    portal.desk.store.end(claimed, "failed", error="cells.h5ad: X holds a NaN")
    with portal.client.stream("GET", f"/jobs/{first}/progress") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        (told,) = [json.loads(line.removeprefix("data: ")) for line in events.iter_lines() if line]
    assert told == {"state": "failed", "stage": "embedding rna", "done": 40, "total": 96, "before": 0}
    page = portal.client.get(f"/jobs/{first}").text
    assert "X holds a NaN" in page
    assert 'role="alert"' in page
    assert post(portal, f"/jobs/{second}/stop", f"/jobs/{second}").status_code == 303
    assert "The job was stopped" in portal.client.get(f"/jobs/{second}").text


def test_a_queue_that_is_away_loses_no_job(portal, file_id, monkeypatch):
    def fail(_):
        raise ConnectionError

    monkeypatch.setattr(portal.desk, "_send", fail)
    job = portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed"})
    assert job.status_code == 201
    worker = Worker(portal.desk.settings)
    worker.sweep(all_queued=True)
    assert worker.huey.pending_count() == 1


def test_no_more_jobs_wait_than_may(make_portal, trained):
    portal = make_portal(max_waiting=1)
    file_id = portal.looked(trained.source)["id"]
    codes = [portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed"}).status_code for _ in range(2)]
    assert codes == [201, 503]


def test_the_api_tells_itself_to_programs_and_people(portal):
    schema = portal.client.get("/api/openapi.json").json()
    assert set(schema["paths"]) >= {
        "/api/model",
        "/api/files",
        "/api/files/{file_id}",
        "/api/jobs",
        "/api/jobs/{job_id}",
    }
    assert all(path.startswith("/api/") for path in schema["paths"])
    assert all(call["description"] for calls in schema["paths"].values() for call in calls.values())
    assert "multipart/form-data" in schema["paths"]["/api/files"]["post"]["requestBody"]["content"]
    page = portal.client.get("/api").text
    assert all(path in page for path in schema["paths"])


def test_every_page_can_be_used_without_eyes_or_mouse(portal, file_id):
    """What a parser can tell: landmarks, one heading of the first order, a label for every field, text for every picture."""
    job = portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed"}).json()
    do(portal, job["id"])
    for path in ("/", "/jobs", "/api", "/login", f"/files/{file_id}", f"/jobs/{job['id']}", "/nowhere"):
        text = portal.client.get(path).text
        assert '<html lang="en">' in text
        assert 'name="viewport"' in text
        assert text.count("<h1") == 1, path
        for landmark in ("<header>", "<main ", "<footer>", 'class="skip" href="#main"'):
            assert landmark in text, path
        labelled = set(re.findall(r'<label for="([^"]+)"', text))
        fields = re.findall(r"<(?:input|select|textarea)(?![^>]*type=\"(?:hidden|checkbox)\")[^>]*>", text)
        assert all(re.search(r'id="([^"]+)"', field)[1] in labelled for field in fields), path
        assert all("alt=" in image for image in re.findall(r"<img[^>]*>", text)), path
        ids = re.findall(r'\sid="([^"]+)"', text)
        assert len(ids) == len(set(ids)), path
