"""Nobody reaches the page without a key. A browser holds the id of a session that this process keeps; the key, or what the door
gave in its place, stays here.

A session is begun by a key, or by a link that works once; it acts as the key does, and ends with it, with the browser, by logging
out, or when this process ends.
"""

import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from urllib.parse import parse_qs, urlsplit

import anyio.to_thread
import msgspec
from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.client import Door, Refused
from api.guessing import AT_ONCE, ONE_EVERY_S, WrongKeys
from api.ui.login import draw_login
from api.ui.words import language_of
from streams.errors import Invalid, Unavailable

VISITOR = "noria.visitor"  # where a handler finds who visits, in the scope of its request
OPEN = frozenset({"/healthz", "/favicon.ico", "/login"})
# What the page's own script asks of gradio. All else that gradio serves (files, uploads, proxies, its own interface for programs)
# is not there: the page has no use for it.
SERVED = frozenset({"/", "/config", "/theme.css"})
SERVED_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
DROPPED = "/dropped"  # where a data team's file is laid down for a while (`api.ui.dropped`)
QUEUE = frozenset({"/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
RECHECK_S = 3.0  # how long a visitor is believed to hold a key without the door being asked
STALE_S = 600.0  # how long while the door does not answer
SESSIONS = 10_000
# To the door all visitors of a page come from one address: whoever guesses here must leave of its tries enough for the others.
GUESSES_AT_ONCE = AT_ONCE // 2
GUESS_EVERY_S = 5 * ONE_EVERY_S
BODY_BYTES = 1 << 20
KEY_BYTES = 512


class Visitor(Struct, frozen=True):
    """Who visits: the key's role, the person it speaks as (`names_persons`: whoever is named), and what acts for it at the door."""

    session: str
    token: str
    name: str
    role: str
    person: str
    names_persons: bool

    @property
    def sees_the_loop(self) -> bool:
        return self.role in ("data", "operator")

    @property
    def annotates(self) -> bool:
        return self.role in ("annotator", "data", "operator")

    @property
    def only_annotates(self) -> bool:
        return self.role == "annotator"

    @property
    def rolls_back(self) -> bool:
        return self.role == "operator"


class _Session(Struct):
    visitor: Visitor
    checked_at: float


class Visitors:
    """The sessions of one page process. Thread-safe; both tables are of bounded size."""

    def __init__(self, door: Door, clock: Callable[[], float] = time.monotonic) -> None:
        self._door = door
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._tabs: OrderedDict[str, str] = OrderedDict()  # gradio's name of a browser tab -> the session it belongs to

    def begin(self, key: str, before: str | None) -> Visitor:
        """A new session of whoever holds `key`; the one `before` it in that browser ends. Raises Refused or Unavailable."""
        token = str(self._door.acting(key).begin_session()["token"])
        visitor = self._ask(secrets.token_urlsafe(32), token)
        if before is not None:
            self.end(before)
        with self._lock:
            self._sessions[visitor.session] = _Session(visitor, self._clock())
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return visitor

    def find(self, session: str) -> Visitor | None:
        """Who holds that session, if it still is one. Raises Unavailable when the door has been away for long."""
        with self._lock:
            held = self._sessions.get(session)
        if held is None:
            return None
        age_s = self._clock() - held.checked_at
        if age_s < RECHECK_S:
            return held.visitor
        try:
            visitor = self._ask(session, held.visitor.token)
        except Refused as error:
            if error.status != 401:
                raise Unavailable(str(error)) from error
            self._forget(session)
            return None
        except Unavailable:
            if age_s < STALE_S:
                return held.visitor
            raise
        with self._lock:
            if session not in self._sessions:  # it ended meanwhile
                return None
            self._sessions[session] = _Session(visitor, self._clock())
        return visitor

    def end(self, session: str) -> None:
        """Doing it again changes nothing."""
        held = self._forget(session)
        if held is not None:
            try:
                self._door.acting(held.visitor.token).end_session()
            except (Invalid, Unavailable):
                pass  # nobody holds it any more, and the door lets it expire

    def owns(self, session: str, tab: str) -> bool:
        """Whether that tab is the session's; it is whose it was first."""
        with self._lock:
            owner = self._tabs.setdefault(tab, session)
            self._tabs.move_to_end(tab)
            if len(self._tabs) > 4 * SESSIONS:
                self._tabs.popitem(last=False)
            return owner == session

    def _forget(self, session: str) -> _Session | None:
        with self._lock:
            return self._sessions.pop(session, None)

    def _ask(self, session: str, token: str) -> Visitor:
        me = self._door.acting(token).me()
        return Visitor(session, token, str(me["name"]), str(me["role"]), str(me["person"]), bool(me["names_persons"]))


class Entry:
    """The application behind its door: log-in and log-out, and for all else a session. `hosts`: the names that it is reached by;
    under another, a page elsewhere whose name was made to mean this machine would be no other origin to a browser."""

    def __init__(self, app: ASGIApp, visitors: Visitors, hosts: Collection[str]) -> None:
        self._app = app
        self._visitors = visitors
        self._hosts = {*LOOPBACK_HOSTS, *hosts}
        self._wrong = WrongKeys(at_once=GUESSES_AT_ONCE, one_every_s=GUESS_EVERY_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await (await self._answer(scope, receive))(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # the page has no use for one

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp:
        """What answers the request: a refusal, or the page."""
        headers, path, method = Headers(scope=scope), str(scope["path"]), str(scope["method"])
        if _host(headers) not in self._hosts:
            return JSONResponse(
                {"error": "the page is not reached by that name; NORIA_PAGE_HOSTS names those it is"}, 421
            )
        if _is_foreign(headers):
            return JSONResponse({"error": "that is asked from another site"}, 403)
        if path == "/login":
            return await self._login(Request(scope, receive))
        if path in OPEN:
            return self._app
        try:
            visitor = await self._visitor(scope, headers)
        except Unavailable:
            return JSONResponse({"error": "the door does not answer at present"}, 503, {"Retry-After": "2"})
        if visitor is None:
            if path == "/" and method in ("GET", "HEAD"):
                query = scope.get("query_string", b"").decode("latin-1")
                return RedirectResponse("/login" + (f"?{query}" if query else ""), 303)
            return JSONResponse({"error": "log in first"}, 401)
        if path == "/logout":
            return await self._logout(scope, method, visitor)
        below = path.startswith(SERVED_BELOW) and ".." not in path
        if path == DROPPED and method == "POST":
            if not visitor.sees_the_loop:
                return JSONResponse({"error": "your key may not do that"}, 403)
            scope[VISITOR] = visitor
            return self._app
        if path not in SERVED and path not in QUEUE and not below:
            return JSONResponse({"error": "no such path"}, 404)
        said = await _body(receive) if path in QUEUE and method == "POST" else None
        if said is not None and len(said) > BODY_BYTES:
            return JSONResponse({"error": "that is too long"}, 413)
        tabs = _tabs(scope, path, said)
        if tabs is None:
            return JSONResponse({"error": "that names no tab"}, 400)
        if not all(self._visitors.owns(visitor.session, tab) for tab in tabs):
            return JSONResponse({"error": "that tab is another visitor's"}, 403)
        scope[VISITOR] = visitor
        return self._app if said is None else _replay(self._app, said)

    async def _visitor(self, scope: Scope, headers: Headers) -> Visitor | None:
        session = _session_of(scope, headers)
        return await anyio.to_thread.run_sync(self._visitors.find, session) if session else None

    async def _login(self, request: Request) -> Response:
        lang = language_of(request.query_params.get("lang"), request.headers.get("accept-language"))
        if request.method in ("GET", "HEAD"):
            return HTMLResponse(draw_login(lang))
        if request.method != "POST":
            return JSONResponse({"error": "this path does not take that method"}, 405)
        body = await _body(request.receive)
        key = parse_qs(body[: 4 * KEY_BYTES].decode("latin-1")).get("key", [""])[0].strip()
        if not key or len(key) > KEY_BYTES or not key.isascii() or not key.isprintable():
            return HTMLResponse(draw_login(lang, "err_login_key"), 401)
        address = request.client.host if request.client is not None else None
        wait_s = self._wrong.take(address)
        if wait_s:
            wait = {"Retry-After": str(math.ceil(wait_s))}
            return HTMLResponse(draw_login(lang, "err_login_slow"), 429, wait)
        before = _session_of(request.scope, request.headers)
        try:
            visitor = await anyio.to_thread.run_sync(self._visitors.begin, key, before)
        except Refused as error:
            if error.status == 429:
                return HTMLResponse(draw_login(lang, "err_login_slow"), 429, {"Retry-After": "1"})
            return HTMLResponse(draw_login(lang, "err_login_key"), 401)
        except Unavailable:
            return HTMLResponse(draw_login(lang, "err_down"), 503, {"Retry-After": "2"})
        self._wrong.give_back(address)
        query = request.url.query
        response = RedirectResponse("/" + (f"?{query}" if query else ""), 303)
        response.set_cookie(
            _cookie(request.scope),
            visitor.session,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path="/",
        )
        return response

    async def _logout(self, scope: Scope, method: str, visitor: Visitor) -> Response:
        if method != "POST":
            return JSONResponse({"error": "this path does not take that method"}, 405)
        await anyio.to_thread.run_sync(self._visitors.end, visitor.session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(_cookie(scope), path="/", httponly=True, samesite="strict")
        return response


def _cookie(scope: Scope) -> str:
    """Cookies are of a host, whatever its port: two pages on one machine each have their own."""
    server = scope.get("server")
    return f"noria-{server[1]}" if server else "noria"


def _session_of(scope: Scope, headers: Headers) -> str | None:
    return cookie_parser(headers.get("cookie", "")).get(_cookie(scope))


def _host(headers: Headers) -> str | None:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another origin asks; another port of this machine is another origin, though its cookies are the same."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


def _tabs(scope: Scope, path: str, said: bytes | None) -> list[str] | None:
    """The tabs that a request names: in its path, its query or its body. None: a body that names none, or that can be read in
    another way than this one."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    found = query.get("session_hash", [])
    if path.startswith("/gradio_api/heartbeat/"):
        found.append(path.rpartition("/")[2])
    if said is not None:
        try:
            body = msgspec.json.decode(said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        tab = body.get("session_hash") if isinstance(body, dict) else None
        if not isinstance(tab, str):
            return None
        found.append(tab)
    return found


async def _body(receive: Receive) -> bytes:
    """The body, or the beginning of one that is longer than BODY_BYTES."""
    found, more = b"", True
    while more and len(found) <= BODY_BYTES:
        message = await receive()
        found += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return found


def _replay(app: ASGIApp, body: bytes) -> ASGIApp:
    """`app`, to which the body that was read is handed once more."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        unread = [body]

        async def again() -> Message:
            return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await receive()

        await app(scope, again, send)

    return answer
