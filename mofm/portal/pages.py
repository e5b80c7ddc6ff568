"""The pages: HTML that works without JavaScript; static/portal.js only makes it quicker to look at.

Every form posts, carries the session's token, and answers with a redirection, so that a page can be loaded again. What may
only be seen by who is welcome goes through `_welcome`; who is not is sent to the login.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

import mofm
from mofm.portal.api import AtDesk, job_out
from mofm.portal.desk import Desk, Refused
from mofm.portal.security import COOKIE, SESSION_SECONDS, Guard
from mofm.portal.uploads import receive
from mofm.portal.verbs import MODALITY_NAMES, VERBS, feature_word, readable, sources, targets
from mofm.portal.wording import download_stem

EVENT_SECONDS, EVENTS_END = 0.4, 1800.0
RECENT = 8
_here = Path(__file__).parent
templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_here / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:,.1f} {unit}"
        size /= 1000
    return ""


def _ago(then: float | None) -> str:
    if then is None:
        return ""
    past = max(0.0, time.time() - then)
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if past >= seconds:
            count = int(past // seconds)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


templates.filters |= {
    "bytes": _bytes, "ago": _ago, "modality": lambda name: MODALITY_NAMES.get(name, name), "features": feature_word,
    "stamp": lambda then: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(then)), "count": lambda number: f"{number:,}",
}  # fmt: skip
templates.globals |= {"version": mofm.__version__, "verbs": VERBS, "modality_names": MODALITY_NAMES}


def page(request: Request, name: str, status: int = 200, **shown: Any) -> HTMLResponse:
    """A page; the first that a browser gets also begins its session."""
    guard: Guard = request.app.state.guard
    session, is_new = request.cookies.get(COOKIE), False
    if not guard.is_session(session):
        session, is_new = guard.new_session(known=False), True
    welcome = guard.is_welcome(request)
    card = request.app.state.desk.card if welcome else None
    given = {
        "csrf": guard.csrf(session),
        "welcome": welcome,
        "card": card,
        "has_token": guard.settings.token is not None,
    }
    answer = HTMLResponse(templates.get_template(name).render(given | {"path": request.url.path} | shown), status)
    if is_new:
        _set_session(request, answer, session)
    return answer


def _set_session(request: Request, answer: HTMLResponse | RedirectResponse, session: str) -> None:
    answer.set_cookie(
        COOKIE, session, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )  # fmt: skip


class LoginNeeded(Exception):
    """Who asks must show the token first."""


def _welcome(request: Request) -> None:
    if not request.app.state.guard.is_welcome(request):
        raise LoginNeeded


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that this session was given; Refused for any other."""
    async with request.form(max_files=0, max_fields=50) as form:
        fields = {key: str(value) for key, value in form.items()}
    if not request.app.state.guard.is_csrf(request.cookies.get(COOKIE), fields.pop("csrf", "")):
        raise Refused(403, "This page is too old to send its form; open it again.")
    return fields


Fields = Annotated[dict[str, str], Depends(_form)]
public = APIRouter(include_in_schema=False)
router = APIRouter(include_in_schema=False, dependencies=[Depends(_welcome)])


@public.get("/login")
def login(request: Request) -> HTMLResponse:
    """Asks for the token."""
    return page(request, "login.html", wrong=False)


@public.post("/login")
def show_token(request: Request, fields: Fields):
    """Lets in who has the token."""
    guard: Guard = request.app.state.guard
    if not guard.is_token(fields.get("token", "")):
        return page(request, "login.html", 403, wrong=True)
    answer = RedirectResponse("/", 303)
    _set_session(request, answer, guard.new_session(known=True))
    return answer


@public.post("/logout")
def logout(fields: Fields):
    """Forgets the session."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/")
def home(request: Request, desk: AtDesk) -> HTMLResponse:
    """The upload, the model, and what was done last."""
    shown = {"files": desk.store.files(RECENT), "jobs": desk.store.jobs(limit=RECENT), "settings": desk.settings}
    return page(request, "home.html", **shown)


@router.get("/jobs")
def everything(request: Request, desk: AtDesk) -> HTMLResponse:
    """All uploads and jobs."""
    return page(request, "jobs.html", files=desk.store.files(), jobs=desk.store.jobs(), settings=desk.settings)


@router.post("/files")
async def upload(request: Request, desk: AtDesk):
    """Takes an upload."""
    guard, session = request.app.state.guard, request.cookies.get(COOKIE)
    taken = await receive(request, desk.settings, lambda csrf: guard.is_csrf(session, csrf))
    file = await run_in_threadpool(desk.take, taken)
    return RedirectResponse(f"/files/{file.id}", 303)


@router.get("/files/{file_id}")
def file(request: Request, file_id: str, desk: AtDesk) -> HTMLResponse:
    """What an upload holds, and what can be asked for."""
    return _file_page(request, desk, file_id)


def _file_page(request: Request, desk: Desk, file_id: str, status: int = 200, **shown: Any) -> HTMLResponse:
    found = desk.file(file_id)
    report = found.report
    offers = {name: verb.why_not(desk.card, report) for name, verb in VERBS.items()} if found.state == "ready" else {}
    return page(
        request, "file.html", status, file=found, report=report, offers=offers, jobs=desk.store.jobs(file_id=file_id),
        sources=sources(report), targets=targets(desk.card, report), readable=readable(desk.card, report),
        **{"error": "", "given": {}} | shown,
    )  # fmt: skip


@router.post("/files/{file_id}/look")
def look(file_id: str, fields: Fields, desk: AtDesk):
    """Looks at an upload again, read in another way."""
    desk.look_again(desk.file(file_id), fields)
    return RedirectResponse(f"/files/{file_id}", 303)


@router.post("/files/{file_id}/delete")
def delete_file(file_id: str, fields: Fields, desk: AtDesk):
    """Deletes an upload."""
    desk.delete_file(desk.file(file_id))
    return RedirectResponse("/jobs", 303)


@router.post("/files/{file_id}/jobs")
def start(request: Request, file_id: str, fields: Fields, desk: AtDesk):
    """Starts a job; what is wrong with its options is said beside them, with what was given."""
    verb = fields.pop("verb", "")
    try:
        job = desk.start(desk.file(file_id), verb, fields)
    except Refused as error:
        if error.status != 422:
            raise
        return _file_page(request, desk, file_id, 422, error=str(error), given=fields | {"verb": verb})
    return RedirectResponse(f"/jobs/{job.id}", 303)


@router.get("/jobs/{job_id}")
def job(request: Request, job_id: str, desk: AtDesk) -> HTMLResponse:
    """How far a job is, or what came out."""
    found = desk.job(job_id)
    before = desk.store.waiting_before(found) if found.state == "queued" else 0
    kept = None if found.ended is None else found.ended + 86400 * desk.settings.keep_days
    shown = {"result": found.summary, "before": before, "kept_until": kept, "has_file": desk.store.file(found.file_id)}
    return page(request, "job.html", job=found, **shown)


@router.get("/jobs/{job_id}/progress")
async def progress(job_id: str, desk: AtDesk) -> StreamingResponse:
    """How far a job is, as server-sent events: one at each change, the last when it has ended."""
    await run_in_threadpool(desk.job, job_id)
    return StreamingResponse(_events(desk, job_id), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(desk: Desk, job_id: str) -> AsyncIterator[str]:
    began, last = time.monotonic(), None
    while time.monotonic() - began < EVENTS_END:
        found = await run_in_threadpool(desk.store.job, job_id)
        if found is None:
            return
        before = await run_in_threadpool(desk.store.waiting_before, found) if found.state == "queued" else 0
        shown = job_out(found).model_dump(include={"state", "stage", "done", "total"}) | {"before": before}
        if shown != last:
            yield f"data: {json.dumps(shown)}\n\n"
            last = shown
        if not found.is_active:
            return
        await asyncio.sleep(EVENT_SECONDS)


@router.post("/jobs/{job_id}/stop")
def stop(job_id: str, fields: Fields, desk: AtDesk):
    """Stops a job."""
    desk.stop(desk.job(job_id))
    return RedirectResponse(f"/jobs/{job_id}", 303)


@router.post("/jobs/{job_id}/delete")
def delete_job(job_id: str, fields: Fields, desk: AtDesk):
    """Deletes a job and what it made."""
    desk.delete_job(desk.job(job_id))
    return RedirectResponse("/jobs", 303)


@router.get("/jobs/{job_id}/files/{name}")
def result_file(job_id: str, name: str, desk: AtDesk) -> FileResponse:
    """A file of a result: pictures and the map's points to be shown, others to be kept."""
    found = desk.job(job_id)
    path = desk.result_file(found, name)
    if path.suffix in (".png", ".json"):
        return FileResponse(path)
    return FileResponse(path, filename=f"{download_stem(found.file_name)}_{found.verb}_{quote(name)}")


@router.get("/api")
def api(request: Request) -> HTMLResponse:
    """The API, for people."""
    schema = request.app.openapi()
    calls = [
        {"method": method.upper(), "path": path, "what": call.get("description", ""), "tag": call["tags"][0]}
        for path, methods in schema["paths"].items()
        for method, call in methods.items()
    ]
    return page(request, "api.html", calls=calls, base=str(request.base_url).rstrip("/"))
