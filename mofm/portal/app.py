"""The ASGI application of a portal: pages, API, and what is said when something is wrong."""

import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import mofm
from mofm.portal import api, pages
from mofm.portal.desk import Desk, Refused, is_disk_full
from mofm.portal.model_card import read_card
from mofm.portal.security import Guard, Protection
from mofm.portal.settings import Settings
from mofm.portal.uploads import UploadError

DISK_FULL = "The server's disk is full: delete results that are not needed, or ask who keeps it."
log = logging.getLogger("mofm.portal")


def create_app(settings: Settings, send: Callable[[str], Any]) -> FastAPI:
    """The application; `settings.write()` was called, and the model's card written.

    Args:
      send: puts a job's id into the queue.
    """
    desk = Desk(settings, read_card(settings.model_dir), send)

    @asynccontextmanager
    async def life(app: FastAPI):
        desk.begin()
        yield
        desk.end()

    app = FastAPI(
        title=f"mofm portal: {desk.card.name}", version=mofm.__version__, description=api.__doc__, lifespan=life,
        openapi_url="/api/openapi.json", docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.desk, app.state.guard = desk, Guard(settings, settings.secret())
    for router in (pages.public, pages.router, api.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.add_middleware(Protection, settings=settings, on_error=_say)
    app.add_exception_handler(pages.LoginNeeded, lambda request, error: RedirectResponse("/login", 303))
    for kind in (Refused, UploadError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _say)
    return app


def _say(request: Request, error: Exception) -> Response:
    """What is wrong, in a line, as a page or as JSON; what is nobody's business goes to the log."""
    status, said = _answer_to(error)
    if status >= 500 and not isinstance(error, Refused | UploadError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error if said != DISK_FULL else None)
    if request.url.path.startswith("/api/"):
        challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return JSONResponse({"detail": said}, status, challenge)
    return pages.page(request, "error.html", status, said=said, is_missing=status == 404)


def _answer_to(error: Exception) -> tuple[int, str]:
    match error:
        case Refused() | UploadError():
            return error.status, str(error)
        case HTTPException(status_code=404):
            return 404, "There is no such page."
        case HTTPException():
            return error.status_code, str(error.detail)
        case RequestValidationError():
            first = error.errors()[0]
            return 422, f"{'.'.join(map(str, first['loc'][1:])) or 'body'}: {first['msg']}"
        case _ if is_disk_full(error):
            return 507, DISK_FULL
        case _:
            return 500, "Something went wrong in the server; its log says what."
