"""Who may do what: no token, no page; no form of this session, no change; and headers, rates and limits for everyone."""

import re

import pytest

from mofm.portal.security import COOKIE, HEADERS, Guard, Rates
from mofm.portal.settings import Settings, new_id

TOKEN = "a-secret-of-the-lab"
PAGES = ("/", "/jobs", "/api", f"/files/{new_id()}", f"/jobs/{new_id()}", f"/jobs/{new_id()}/progress")


def test_who_has_not_shown_the_token_sees_nothing(locked, trained):
    for path in PAGES:
        answer = locked.client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/login"), path
    for path in ("/api/model", "/api/files", "/api/jobs", f"/api/jobs/{new_id()}"):
        assert locked.client.get(path).status_code == 401
        assert locked.client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    login = locked.client.get("/login").text
    assert trained.workdir.name not in re.sub(r'value="[0-9a-f]+"', "", login)


def log_in(portal, token: str):
    return portal.client.post("/login", data={"csrf": portal.csrf("/login"), "token": token}, follow_redirects=False)


def test_the_token_opens_a_session_and_another_does_not(locked):
    assert log_in(locked, "wrong-wrong").status_code == 403
    assert locked.client.get("/", follow_redirects=False).status_code == 303
    answer = log_in(locked, TOKEN)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert locked.client.get("/").status_code == 200
    locked.client.post("/logout", data={"csrf": locked.csrf("/")})
    assert locked.client.get("/", follow_redirects=False).status_code == 303


def test_a_program_shows_the_token_and_a_session_alone_changes_nothing_by_the_api(locked, trained):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert locked.client.get("/api/model", headers=bearer).json()["name"] == trained.workdir.name
    log_in(locked, TOKEN)
    assert locked.client.get("/api/model").status_code == 200  # a browser may read
    assert locked.upload(trained.source).status_code == 401
    files = {"file": ("cells.h5ad", trained.source.read_bytes())}
    assert locked.client.post("/api/files", files=files, headers=bearer).status_code == 201


def test_sessions_and_forms_are_signed_end_and_belong_together(tmp_path, monkeypatch):
    guard = Guard(Settings("m", tmp_path, token=TOKEN), b"secret")
    session, other = (guard.new_session(known=True) for _ in range(2))
    assert guard.is_session(session)
    for forged in (None, "", "....", session[:-1] + "x", session.replace("known", "guest"), "known.99999999999.a."):
        assert not guard.is_session(forged), forged
    assert guard.is_csrf(session, guard.csrf(session))
    assert not guard.is_csrf(other, guard.csrf(session))
    assert not guard.is_csrf(None, guard.csrf(session))
    assert not Guard(Settings("m", tmp_path, token="another-token"), b"secret").is_session(session)
    assert not Guard(Settings("m", tmp_path, token=TOKEN), b"another").is_session(session)
    monkeypatch.setattr("mofm.portal.security.time.time", lambda: 2e10)
    assert not guard.is_session(session)


def test_a_portal_without_a_token_takes_no_token_for_one(tmp_path):
    guard = Guard(Settings("m", tmp_path), b"secret")
    assert not guard.is_token("")
    assert not guard.is_token("anything")


def test_no_form_without_its_token_changes_anything(portal, trained):
    file_id = portal.looked(trained.source)["id"]
    job = portal.client.post("/api/jobs", json={"file": file_id, "verb": "embed"}).json()
    before = portal.client.get("/api/jobs").json(), portal.client.get("/api/files").json()
    forms = (
        f"/files/{file_id}/jobs", f"/files/{file_id}/look", f"/files/{file_id}/delete", f"/jobs/{job['id']}/stop",
        f"/jobs/{job['id']}/delete", "/login", "/logout",
    )  # fmt: skip
    portal.csrf()  # a session is there
    for path in forms:
        for csrf in ("", "wrong", "é"):
            answer = portal.client.post(path, data={"csrf": csrf, "verb": "embed", "token": "x"})
            assert answer.status_code == 403, path
            assert "open it again" in answer.text
    files = {"file": ("cells.h5ad", b"never written")}
    assert portal.client.post("/files", data={"csrf": "wrong"}, files=files).status_code == 403
    assert portal.client.post("/files", files=files).status_code == 403
    assert (portal.client.get("/api/jobs").json(), portal.client.get("/api/files").json()) == before


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}]
)
def test_a_page_of_another_site_changes_nothing_through_a_browser(portal, trained, headers):
    files = {"file": ("cells.h5ad", trained.source.read_bytes())}
    assert portal.client.post("/api/files", files=files, headers=headers).status_code == 403
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert portal.client.post("/api/files", files=files, headers=own).status_code == 201


def test_a_name_of_another_site_that_leads_here_is_not_answered(portal, locked):
    assert portal.client.get("/", headers={"Host": "evil.example"}).status_code == 421
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert portal.client.get("/", headers={"Host": host}).status_code == 200
    assert locked.client.get("/login", headers={"Host": "portal.lab.example"}).status_code == 200


def test_every_answer_has_its_headers_and_no_page_needs_what_they_forbid(portal, trained):
    file_id = portal.looked(trained.source)["id"]
    for path in ("/", "/jobs", "/api", f"/files/{file_id}", "/nowhere", "/api/model", "/static/portal.css", "/files/x"):
        answer = portal.client.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, path
        if "text/html" in answer.headers["content-type"]:
            text = answer.text
            assert not re.search(r"<script(?![^>]*\ssrc=)", text), path  # no script in the page
            assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", text), path
            assert not re.search(r'(src|href)="(https?:)?//', text), path  # nothing from elsewhere
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert portal.client.get("/").headers["cache-control"] == "no-store"


def test_an_address_that_asks_too_often_waits(make_portal):
    portal = make_portal(requests_per_second=0.5)
    codes = [portal.client.get("/api/model").status_code for _ in range(8)]
    assert codes == [200] * 5 + [429] * 3
    answer = portal.client.get("/")
    assert int(answer.headers["retry-after"]) >= 1


def test_tokens_are_not_guessed_fast(locked):
    codes = [log_in(locked, f"guess {number} ").status_code for number in range(12)]
    assert codes == [403] * 10 + [429] * 2


def test_a_bucket_fills_steadily_and_each_address_has_its_own():
    rates = Rates(per_second=2, at_once=3)
    assert [rates.wait("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.wait("b", 0.0) == 0
    assert rates.wait("a", 0.5) == 0
    assert rates.wait("a", 0.5) > 0
    assert [rates.wait("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_body_is_small_where_no_file_is_expected(portal):
    big = b"x" * (5 * 2**20)
    assert portal.client.post("/api/jobs", content=big).status_code == 413
    assert (
        portal.client.post("/login", content=iter([big]), headers={"transfer-encoding": "chunked"}).status_code >= 400
    )


def test_no_secret_is_logged_or_kept_readable(locked, caplog):
    log_in(locked, TOKEN)
    locked.client.get("/api/model", headers={"Authorization": "Bearer " + TOKEN})
    locked.client.get("/nowhere?token=" + TOKEN)
    assert TOKEN not in caplog.text
    data = locked.desk.settings.data_dir
    assert not [path for path in data.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert data.stat().st_mode & 0o077 == 0


def test_a_bug_is_told_without_its_insides(portal, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("the inside of things")

    monkeypatch.setattr(portal.desk.store, "job", fail)
    for path in (f"/jobs/{new_id()}", f"/api/jobs/{new_id()}"):
        answer = portal.client.get(path)
        assert answer.status_code == 500
        assert "inside" not in answer.text
        assert answer.headers["content-security-policy"]
    assert "the inside of things" in caplog.text


def test_a_cookie_that_is_nonsense_is_replaced(portal):
    portal.client.cookies.set(COOKIE, "nonsense")
    answer = portal.client.get("/")
    assert answer.status_code == 200
    assert COOKIE in answer.headers["set-cookie"]
