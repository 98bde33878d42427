"""The web page's HTTP side: who may ask, what goes out with every answer, and the files."""

import gzip
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import web

from console import api
from console.api import SESSION, refuse
from console.context import Context
from console.login import LOCAL, Gate, Session, is_loopback
from console.sampler import Sampler
from shared.config import Config
from shared.errors import CorreioError
from shared.logs import get_logger

log = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_MAX = 65_536

COOKIE = "correio_session"

CSRF_HEADER = "X-CSRF-Token"

OPEN_TO_ALL = ("/api/session", "/api/login")

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

FILES: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/parts.js": ("parts.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uplot.min.js": ("uplot.min.js", "text/javascript"),
    "/uplot.min.css": ("uplot.min.css", "text/css"),
}


def make_app(
    config: Config, *, gate: Gate, sampler: Sampler, context: Callable[[str], Context]
) -> web.Application:
    """The whole page."""
    door = _Door(config, gate)
    app = web.Application(middlewares=[_faults, door.check], client_max_size=BODY_MAX)
    app.on_response_prepare.append(_dress)
    app.router.add_get("/api/session", door.session)
    app.router.add_post("/api/login", door.login)
    app.router.add_post("/api/logout", door.logout)
    api.Api(sampler, context).add_to(app.router)
    for path, (name, kind) in FILES.items():
        app.router.add_get(path, _file(name, kind))
    return app


async def _dress(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _file(name: str, kind: str) -> Handler:
    body = (resources.files("console") / "static" / name).read_bytes()
    packed = gzip.compress(body, 9, mtime=0)
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            encoded = {**headers, "Content-Encoding": "gzip"}
            return web.Response(body=packed, headers=encoded, content_type=kind, charset="utf-8")
        return web.Response(body=body, headers=headers, content_type=kind, charset="utf-8")

    return serve


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every fault is answered as ``application/problem+json`` (RFC 9457)."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or error.content_type == "application/problem+json":  # noqa: PLR2004 - HTTP
            raise
        return refuse(error.status, error.reason)
    except msgspec.MsgspecError as error:
        return refuse(400, str(error))
    except CorreioError as error:
        return refuse(503, str(error))
    except Exception as error:
        log.exception("console.failed", error_type=type(error).__name__, path=request.path)
        return refuse(500, "this is a fault of the console; its log says where")


class _Door:
    """Lets requests in, by host, session and CSRF token."""

    def __init__(self, config: Config, gate: Gate) -> None:
        self._gate = gate
        self._secure = config.console.secure_cookies
        self._lifetime = int(config.console.session_lifetime)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse who may not."""
        refusal = self._refusal(request)
        return await handler(request) if refusal is None else refusal

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._gate.login_required and not is_loopback(_host(request)):
            # a name of another site that leads to this machine (DNS rebinding)
            return refuse(403, "open this page by 127.0.0.1 or localhost")
        if not request.path.startswith("/api/"):
            return None
        session = request[SESSION] = self._gate.find(request.cookies.get(COOKIE, ""))
        changes = request.method != "GET"
        if changes and not _from_here(request):
            return refuse(403, "this request comes from another site")
        if request.path in OPEN_TO_ALL:
            return None
        if session is None:
            return refuse(401, "log in first")
        return _may_change(request, session) if changes else None

    async def session(self, request: web.Request) -> web.Response:
        """Who is logged in; where nobody has to, a session is begun."""
        session = request[SESSION]
        begun = session is None and not self._gate.login_required
        if begun:
            session = self._gate.open(LOCAL)
        if session is None:
            return refuse(401, "log in first")
        response = _said(
            {
                "operator": session.operator.name,
                "readOnly": session.operator.read_only,
                "mayUnmask": session.operator.may_unmask,
                "csrf": session.csrf,
                "loginRequired": self._gate.login_required,
            }
        )
        if begun:
            self._give_cookie(response, session.id)
        return response

    async def login(self, request: web.Request) -> web.Response:
        """Begin a session for a token."""
        if self._gate.closed:
            return refuse(429, "too many wrong tokens; wait a minute")
        wanted = msgspec.json.decode(await request.read(), type=api.Login)
        operator = self._gate.admit(wanted.token)
        if operator is None:
            log.warning("console.refused", host=request.remote)
            return refuse(401, "no operator has this token")
        response = _said({"operator": operator.name})
        self._give_cookie(response, self._gate.open(operator).id)
        log.info("console.login", source=operator.name, host=request.remote)
        return response

    async def logout(self, request: web.Request) -> web.Response:
        """End the session."""
        session = request[SESSION]
        if session is not None:
            self._gate.close(session)
        response = _said({})
        response.del_cookie(COOKIE)
        return response

    def _give_cookie(self, response: web.Response, session_id: str) -> None:
        response.set_cookie(
            COOKIE,
            session_id,
            max_age=self._lifetime,
            httponly=True,
            samesite="Strict",
            secure=self._secure,
        )


def _may_change(request: web.Request, session: Session) -> web.Response | None:
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):
        return refuse(403, "the CSRF token is missing or wrong; load the page again")
    if session.operator.read_only and request.path != "/api/logout":
        return refuse(403, f"{session.operator.name} may look, not act")
    return None


def _said(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


def _host(request: web.Request) -> str:
    return urlsplit(f"//{request.host}").hostname or ""


def _from_here(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host
