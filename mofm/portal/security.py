"""Who may do what: sessions, tokens, CSRF, rates, and the headers of every answer.

One token is the portal's only secret between people: who shows it sees every upload and every job, as in a lab. A browser
shows it once and gets a session: an expiry time and a random number, signed; nothing is kept here. Forms carry a second
signature of the session. Programs show the token itself and need neither. Without a token, anyone who reaches the port may do
anything, so it listens on this machine alone, answers to this machine's names alone (a web page elsewhere could otherwise
speak to it through a browser here), and changes nothing for a request that another site's page began.
"""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mofm.portal.settings import Settings

COOKIE = "mofm_session"
SESSION_SECONDS = 12 * 3600
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
SMALL_BODY = 4 * 2**20
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


@dataclass(frozen=True)
class Guard:
    """Signs and checks for one portal."""

    settings: Settings
    secret: bytes

    def _sign(self, what: str, text: str) -> str:
        # With another token, sessions of the old one end.
        key = self.secret + sha256((self.settings.token or "").encode()).digest()
        return hmac.new(key, f"{what}:{text}".encode(), sha256).hexdigest()

    def new_session(self, *, known: bool) -> str:
        """A cookie's value; `known`: of a user who has shown the token."""
        claim = f"{'known' if known else 'guest'}.{int(time.time()) + SESSION_SECONDS}.{secrets.token_hex(16)}"
        return f"{claim}.{self._sign('session', claim)}"

    def is_session(self, value: str | None) -> bool:
        """Whether this is a session of this portal, of a guest or a user."""
        claim, _, signature = (value or "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", claim).encode()):
            return False
        return int(claim.split(".")[1]) > time.time()

    def csrf(self, session: str) -> str:
        """What forms of a session carry."""
        return self._sign("form", session)

    def is_csrf(self, session: str | None, given: str) -> bool:
        """Whether a form was made for this session."""
        return self.is_session(session) and hmac.compare_digest(given.encode(), self.csrf(session).encode())

    def is_token(self, given: str) -> bool:
        """Whether this is the portal's token; as long in the checking whatever is given."""
        wanted = sha256((self.settings.token or "").encode()).digest()
        return self.settings.token is not None and hmac.compare_digest(sha256(given.encode()).digest(), wanted)

    def shows_token(self, request: HTTPConnection) -> bool:
        """Whether a program shows the token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given.strip())

    def is_welcome(self, request: HTTPConnection) -> bool:
        """Whether who asks may see what there is."""
        if self.settings.token is None or self.shows_token(request):
            return True
        session = request.cookies.get(COOKIE)
        return self.is_session(session) and session.startswith("known.")

    def may_call(self, request: HTTPConnection) -> bool:
        """Whether the API may be asked: to change something, only by a program, never by a browser's session."""
        if request.scope["method"] not in UNSAFE:
            return self.is_welcome(request)
        return self.shows_token(request) if self.settings.token else is_same_origin(request)


def is_same_origin(request: HTTPConnection) -> bool:
    """Whether a request was begun by a page of the portal, or by no page at all."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


class Rates:
    """How often each address may ask: a bucket that fills steadily. Of addresses, the last ten thousand are remembered."""

    def __init__(self, per_second: float, at_once: float):
        self._per_second, self._at_once = per_second, at_once
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, who: str, now: float | None = None) -> float:
        """Seconds until `who` may ask; 0 for now, and then it has asked."""
        now = time.monotonic() if now is None else now
        left, then = self._buckets.pop(who, (self._at_once, now))
        left = min(self._at_once, left + (now - then) * self._per_second)
        is_free = left >= 1
        self._buckets[who] = (left - is_free, now)
        if len(self._buckets) > 10_000:
            self._buckets.popitem(last=False)
        return 0.0 if is_free else (1 - left) / self._per_second


class Protection:
    """ASGI middleware: rates, names of the host, small bodies where no file is expected, headers of every answer.

    Args:
      on_error: (request, error) -> what is answered where the application breaks.
    """

    def __init__(self, app, settings: Settings, on_error: Callable[[Request, Exception], Response]):
        self._app, self._settings, self._on_error = app, settings, on_error
        self._rates = Rates(settings.requests_per_second, 10 * settings.requests_per_second)
        self._logins = Rates(0.2, 10)

    async def __call__(self, scope, receive, send):
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path, began = Headers(scope=scope), scope["path"], False

        async def send_safely(message) -> None:
            nonlocal began
            began = True
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    answer[key] = value
                if not path.startswith("/static/"):
                    answer["Cache-Control"] = "no-store"
                if scope["scheme"] == "https":
                    answer["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        refusal = self._refusal(scope, headers, path)
        if refusal is not None:
            await refusal(scope, receive, send_safely)
            return
        try:
            await self._app(scope, receive if _takes_files(scope) else _small(receive), send_safely)
        except Exception as error:
            if began:
                raise
            await self._on_error(Request(scope), error)(scope, receive, send_safely)

    def _refusal(self, scope, headers: Headers, path: str):
        who = (scope.get("client") or ("?",))[0]
        wait = self._rates.wait(who)
        if path == "/login" and scope["method"] == "POST":
            wait = max(wait, self._logins.wait(who))
        if wait:
            said = "Too many requests from this address; try again in a moment."
            return _answer(path, 429, said, {"Retry-After": str(int(wait) + 1)})
        host = headers.get("host", "")
        if self._settings.token is None and _plain_host(host) not in (*LOOPBACK, self._settings.host):
            return _answer(path, 421, "This portal answers to names of its own machine only; open it as localhost.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or (int(length) > SMALL_BODY and not _takes_files(scope)):
            return _answer(path, 413, "The request is too large.")
        return None


def _plain_host(host: str) -> str:
    return host if host.endswith("]") else host.rsplit(":", 1)[0]


def _takes_files(scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in ("/files", "/api/files")


def _small(receive):
    """A body that is cut off where it becomes too large, whatever its headers said."""
    seen = 0

    async def receive_little():
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= SMALL_BODY else {"type": "http.disconnect"}

    return receive_little


def _answer(path: str, status: int, said: str, headers: dict[str, str] | None = None):
    if path.startswith("/api"):
        return JSONResponse({"detail": said}, status, headers)
    return PlainTextResponse(said + "\n", status, headers)
