"""The HTTP server of the page, which serves everybody who has its token (docs/decisions.md, "The labelling page")."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpal_cli.errors import HpalError
from hpal_cli.page.api import PageApi, require_answer

PORT = 8042
"""The first TCP port that is tried."""

PORTS = 50
"""Number of ports that are tried."""

MAX_BODY_BYTES = 4096
"""Bytes of the body of a request, at most. An answer has a few dozen."""

MAX_NAME_LETTERS = 40

LOOPBACK = ("127.0.0.1", "localhost", "::1")

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}

FILES = ("page.css", "page.js", "cloud.js", "plan.js", "remote.js", "words.js", "three.min.js")
"""The files that a page loads."""

_PART = re.compile(r"(\d{1,6}):(\d{1,9}):(\d{1,9})")

_CLIENT = re.compile(r"[A-Za-z0-9-]{8,64}")


def read_file(name: str) -> bytes:
    """The content of a file of the page."""
    return resources.files("hpal_cli.page").joinpath("files", name).read_bytes()


def import_map(page: str) -> str:
    """The text of the import map in a page. It counts as a script, and the policy allows it by its hash."""
    found = re.search(r'<script type="importmap">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return found[1]


def policy(page: str) -> str:
    """The Content-Security-Policy of a page: it loads nothing from other servers, and the only scripts are its own
    files and its import map."""
    digest = base64.b64encode(hashlib.sha256(import_map(page).encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Guard:
    """Refuses requests that do not come from the page itself: those with a foreign Host (DNS rebinding), with a foreign
    Origin (a script of another page), to the API without the token, or with a body that is too large. Also sets the
    headers of every response."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Callable[[str], bool], page: str) -> None:
        """hosts: whether a host name, without a port, is one of this computer's; page: the HTML of the page."""
        self._app, self._token, self._hosts = app, token.encode(), hosts
        self._headers = [
            (b"content-security-policy", policy(page).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, _bounded(receive), send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers: dict[bytes, bytes] = {}
        for key, value in scope["headers"]:
            if key in headers and key in (b"host", b"origin", b"authorization", b"content-length"):
                return _error(400, "a header came twice")
            headers[key] = value
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._hosts(_without_port(host)):
            return _error(421, "this name is not the server's: use the address that hpal printed")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") != f"http://{host}":
            return _error(403, "the request is from another page")
        if scope["path"].startswith("/api/"):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token):
                return _error(401, "the token is missing or wrong: open the address that hpal printed")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY_BYTES:
            return _error(413, "the request is too large")
        return None


def make_app(page_api: PageApi, *, token: str, hosts: Callable[[str], bool], stop: Callable[[], None]) -> ASGIApp:
    """The page and its API as an application for any ASGI server. stop: is called when the page asks to end the server;
    token, hosts: as in `Guard`."""
    page = read_file("index.html").decode()
    files = {name: read_file(name) for name in FILES}

    async def index(request: Request) -> Response:
        return Response(page, media_type=TYPES[".html"])

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            return _error(404, "there is no such file")
        return Response(files[name], media_type=TYPES["." + name.rpartition(".")[2]])

    async def start(request: Request) -> Response:
        # A person is not asked for a name before the page is shown, and may never give one.
        name = request.query_params.get("name") or page_api.name or "someone"
        client, name = _who({"client": request.query_params.get("client"), "name": name})
        first_answer, values = await run_in_threadpool(_start, page_api, client, name)
        described = json.dumps(first_answer, allow_nan=False, separators=(",", ":")).encode()
        content = len(described).to_bytes(4, "little") + described + values
        return Response(content, media_type="application/octet-stream")

    async def scene(request: Request) -> Response:
        whole = request.query_params.get("whole") == "1"
        return JSONResponse(await run_in_threadpool(page_api.scene, request.path_params["number"], whole))

    async def points(request: Request) -> Response:
        number, column = request.path_params["number"], request.query_params.get("column", "xyz")
        given = request.query_params.get("parts", "").split(",")
        parts = [(int(m[1]), int(m[2]), int(m[3])) for text in given if (m := _PART.fullmatch(text))]
        if len(parts) != len(given):
            return _error(400, "parts are tile:from:to")
        data = await run_in_threadpool(page_api.points, number, column, parts, _whole(request))
        return Response(data, media_type="application/octet-stream")

    async def column_range(request: Request) -> Response:
        low, high = await run_in_threadpool(
            page_api.range, request.path_params["number"], request.query_params.get("column", "")
        )
        return JSONResponse({"low": low, "high": high})

    async def point(request: Request) -> Response:
        number, place = request.path_params["number"], request.path_params["place"]
        return JSONResponse(await run_in_threadpool(page_api.point, number, place, _whole(request)))

    async def learned(request: Request) -> Response:
        future = await run_in_threadpool(page_api.learned, request.path_params["number"])
        found = await asyncio.wrap_future(future)
        return Response(found.tobytes(), media_type="application/octet-stream")

    async def queries(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(page_api.queries, request.path_params["number"]))

    async def query(request: Request) -> Response:
        client, name = _who(request.query_params)
        number = request.path_params["number"]
        session = _session(page_api)
        if number >= len(session.queries):
            raise KeyError(number)
        free = await run_in_threadpool(session.hold, number, client)
        found = await run_in_threadpool(_asked, page_api, client, name, number)
        return JSONResponse({**found, "taken": not free})

    async def region(request: Request) -> Response:
        data = await run_in_threadpool(page_api.region, request.path_params["number"])
        return Response(data, media_type="application/octet-stream")

    async def following(request: Request) -> Response:
        client, name = _who(request.query_params)
        after = request.query_params.get("after", "-1")
        number = _natural(after)
        return JSONResponse(await run_in_threadpool(_next, page_api, client, name, -1 if number is None else number))

    async def answer(request: Request) -> Response:
        sent = await _body(request)
        client, name = _who(sent)
        number, label = require_answer(page_api, sent.get("query"), sent.get("label"))
        seconds = sent.get("seconds")
        if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds < 1e9):
            return _error(400, "seconds are no time")

        def take() -> dict[str, Any]:
            batch = _session(page_api).answer(client, name, number, label, seconds)
            return {"round": batch.round, **_next(page_api, client, name, number)}

        return JSONResponse(await run_in_threadpool(take))

    async def skip(request: Request) -> Response:
        sent = await _body(request)
        client, name = _who(sent)
        number, _ = require_answer(page_api, sent.get("query"), -1)
        # In a thread, since the session may wait for another answer to be written, and all connections would wait too.
        await run_in_threadpool(_session(page_api).skip, client, number)
        return JSONResponse(await run_in_threadpool(_next, page_api, client, name, number))

    async def undo(request: Request) -> Response:
        client, name = _who(await _body(request))
        number = await run_in_threadpool(_session(page_api).undo, client, name)
        return JSONResponse(await run_in_threadpool(_asked, page_api, client, name, number))

    async def state(request: Request) -> Response:
        client, _ = _who(request.query_params)
        session = _session(page_api)
        looks = _natural(request.query_params.get("query", ""))
        if looks is not None and looks < len(session.queries):
            await run_in_threadpool(session.hold, looks, client)
        return JSONResponse(await run_in_threadpool(page_api.state, client))

    async def end(request: Request) -> Response:
        await _body(request)
        asker = request.client.host if request.client else ""
        if not _is_loopback(asker):
            return _error(403, "the server can only be ended from its own computer")
        asyncio.get_running_loop().call_later(0.2, stop)
        return JSONResponse({"ended": True})

    api = [
        Route("/api/start", start),
        Route("/api/scene/{number:int}", scene),
        Route("/api/scene/{number:int}/points", points),
        Route("/api/scene/{number:int}/range", column_range),
        Route("/api/scene/{number:int}/point/{place:int}", point),
        Route("/api/scene/{number:int}/learned", learned),
        Route("/api/scene/{number:int}/queries", queries),
        Route("/api/query/{number:int}", query),
        Route("/api/query/{number:int}/region", region),
        Route("/api/next", following),
        Route("/api/answer", answer, methods=["POST"]),
        Route("/api/skip", skip, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/state", state),
        Route("/api/end", end, methods=["POST"]),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The first call of a thread imports much, for which the first page would wait.
        await run_in_threadpool(page_api.about)
        yield
        page_api.close()

    app = Starlette(
        routes=[Route("/", index), Route("/files/{name}", file), *api],
        exception_handlers={
            HpalError: _handled(lambda error: _error(409, str(error))),
            KeyError: _handled(lambda error: _error(404, "there is no such thing here")),
            IndexError: _handled(lambda error: _error(404, "there is no such thing here")),
            BadRequest: _handled(lambda error: _error(400, str(error))),
            TooLarge: _handled(lambda error: _error(413, "the request is too large")),
        },
        lifespan=lifespan,
    )
    return Guard(app, token=token, hosts=hosts, page=page)


class BadRequest(Exception):
    """The request is not one that the page sends."""


class TooLarge(Exception):
    """The body of the request has more than `MAX_BODY_BYTES` bytes."""


def free_socket(host: str, port: int | None) -> tuple[socket.socket, int, bool]:
    """Opens a listening socket at `port`, or at the next free port if that is in use. Returns the socket, its port, and
    whether that is the port that was asked for.

    Raises:
        HpalError: no port is free, or the host is not this computer.
    """
    first = PORT if port is None else port
    try:
        family, _, _, _, _ = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise HpalError("--host", f"{host} is no address ({error.strerror})", "give one of this machine") from error
    for number in range(first, min(first + PORTS, 65536)):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            # Two programs may both bind to a port, but only one can listen at it.
            listening.listen(128)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise HpalError("--port", f"{number} is reserved to the system", "give a port from 1024 on") from error
            raise HpalError(
                "--host", f"{host} cannot be used ({error.strerror})", "give one of this machine"
            ) from error
        return listening, listening.getsockname()[1], number == first
    last = min(first + PORTS, 65536) - 1
    raise HpalError("--port", f"the ports {first} to {last} are in use", "give another port")


def allowed_hosts(host: str) -> Callable[[str], bool]:
    """Returns a function that says whether a request may have a host name. At a loopback address, only that address and
    the names that a computer has for itself are allowed. Otherwise the names of this computer and all numeric addresses
    are, since no foreign name server can make a numeric address lead here."""
    if _is_loopback(host) or host == "localhost":
        return lambda name: name.lower() in {host.lower(), *LOOPBACK}
    own = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower(), *LOOPBACK}
    return lambda name: name.lower() in own or _is_address(name)


def new_token() -> str:
    """A random token of 256 bits, in letters that an address may have."""
    return secrets.token_urlsafe(32)


def serve(app: ASGIApp, listening: socket.socket, on_ready: Callable[[Callable[[], None]], None]) -> None:
    """Answers requests until it is stopped or the program is interrupted. on_ready: is called with a function that
    stops it."""
    # There is no access log, since names of people would be in it. Errors are logged.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    on_ready(stop)
    # At Ctrl-C, Uvicorn shuts down in order and then raises the interrupt again.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def _start(page_api: PageApi, client: str, name: str) -> tuple[dict[str, Any], bytes]:
    """All that a page needs for its first picture, in one response: its description, and the values of `first_points`,
    which `scene.first` describes. `said` and `scene` are None while the scene is being read, or if it cannot be read.
    The page then shows its frame, and requests them one by one."""
    first_answer = {"about": page_api.about(), "name": name, "said": None, "scene": None}
    session, scenes = page_api.session, page_api.scene_cache
    query = None if session is None else session.next(client, name)
    number = next(iter(scenes.scenes), None)
    if session is not None and query is not None:
        number = session.queries[query].scene
    try:
        if number is None or scenes.loaded(number) is None:
            return first_answer, b""
        said = None if session is None else _asked(page_api, client, name, query)
        scene = page_api.scene(number)
        first, values = page_api.first_points(number, scene["whole"])
        return {**first_answer, "said": said, "scene": {**scene, "first": first}}, values
    except HpalError:
        return first_answer, b""


def _next(page_api: PageApi, client: str, name: str, after: int) -> dict[str, Any]:
    return _asked(page_api, client, name, _session(page_api).next(client, name, after=after))


def _asked(page_api: PageApi, client: str, name: str, number: int | None) -> dict[str, Any]:
    """A query, the state of the session, and the query that will most likely come next, which the page can prepare."""
    found = None if number is None else page_api.query(number, name)
    coming = [] if number is None else _session(page_api).likely_next(client, name, after=number)
    return {"query": found, "prefetch": page_api.prepare(coming) if coming else None, **page_api.state(client)}


def _natural(text: str) -> int | None:
    """The number that a text of one to nine digits stands for; None for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def _whole(request: Request) -> bool:
    """Whether a request asks for the whole scene, and not for its coarse level."""
    return request.query_params.get("whole", "1") == "1"


def _session(page_api: PageApi) -> Any:
    if page_api.session is None:
        raise KeyError("nothing is asked here")
    return page_api.session


def _who(sent: Any) -> tuple[str, str]:
    """(client, name): the id of a page in a browser, and the name of the person who uses it.

    Raises:
        BadRequest: one of them is missing or not valid.
    """
    client, name = sent.get("client"), sent.get("name")
    if not isinstance(client, str) or not _CLIENT.fullmatch(client):
        raise BadRequest("client is missing")
    name = name.strip() if isinstance(name, str) else ""
    if not 0 < len(name) <= MAX_NAME_LETTERS or not name.isprintable():
        raise BadRequest(f"name is not 1 to {MAX_NAME_LETTERS} letters")
    return client, name


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        BadRequest: the body is no JSON object.
    """
    if request.headers.get("content-type") != "application/json":
        raise BadRequest("the body is not application/json")
    try:
        sent = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is no JSON") from error
    if not isinstance(sent, dict):
        raise BadRequest("the body is no JSON object")
    return sent


def _bounded(receive: Receive) -> Receive:
    """Counts the bytes of a body while it is received, for requests that do not give its length.

    Raises:
        TooLarge: there are more than `MAX_BODY_BYTES`.
    """
    got = 0

    async def bounded() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > MAX_BODY_BYTES:
            raise TooLarge
        return message

    return bounded


def _handled(make: Callable[[Exception], Response]) -> Callable[[Request, Exception], Response]:
    return lambda request, error: make(error)


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def _without_port(host: str) -> str:
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([^:\[\]]+)(?::\d{1,5})?", host)
    return "" if found is None else found[1] or found[2]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
