"""What stands before Gradio: only what the page needs gets through, and only from the page.

Gradio's server does more than the page: it takes files and writes them to disk, hands out files,
passes requests on to other servers, describes its API. None of these paths is open here.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from dedn_jax.serve.drop import PICTURE_PATH
from dedn_jax.serve.events import MAX_EVENT, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Check = Callable[[bytes], Awaitable[Refusal | None]]

_GET = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(queue/data|startup-events|heartbeat/\w+)"
)
_POST = re.compile(r"/gradio_api/(queue/join|cancel)")
_HEADERS = {
    # Gradio's templates are compiled in the page, which takes 'unsafe-eval'.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_PATIENCE = 10.0  # seconds for a body, and one more with every `_SLOWEST` bytes that came
_SLOWEST = 50_000
_EXTERNAL_META = re.compile(rb"<meta[^>]*https?://[^>]*>")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Gate:
    """An ASGI application around another.

    Args:
      app: the other.
      max_bytes: of a picture.
      loopback: whether the server listens on loopback, where only its own names are right: a page
        from elsewhere whose name was made to point here is refused.
      check: says why the body of an event is refused, if it is.
    """

    def __init__(self, app: App, *, max_bytes: int, loopback: bool, check: Check) -> None:
        self._app, self._max_bytes, self._loopback = app, max_bytes, loopback
        self._check = check

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        event = scope["method"] == "POST" and scope["path"] != PICTURE_PATH
        limit = MAX_EVENT if event else self._max_bytes
        if not self._allowed(scope["method"], scope["path"]):
            await refuse(send, 404, "no such page")
        elif not self._from_the_page(headers):
            await refuse(send, 403, "this page answers to itself alone")
        elif isinstance(body := await _read(receive, headers, limit), Refusal):
            await refuse(send, *body)
        elif event and (refusal := await self._check(body)):
            await refuse(send, *refusal)
        elif scope["path"] == "/":
            await self._index(scope, _given(body, receive), _with_headers(send))
        else:
            await self._app(scope, _given(body, receive), _with_headers(send))

    def _allowed(self, method: str, path: str) -> bool:
        if method in ("GET", "HEAD"):
            return bool(_GET.fullmatch(path)) and ".." not in path
        return method == "POST" and (path == PICTURE_PATH or bool(_POST.fullmatch(path)))

    def _from_the_page(self, headers: dict[str, str]) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            if self._loopback and urlsplit(f"//{host}").hostname not in _LOOPBACK:
                return False
            return origin is None or urlsplit(origin).netloc == host
        except ValueError:  # no address at all
            return False

    async def _index(self, scope: Message, receive: Receive, send: Send) -> None:
        """The page without what Gradio says to crawlers, which names other hosts."""
        start: Message = {}
        body = b""
        plain = [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            else:
                body += message.get("body", b"")

        await self._app({**scope, "headers": plain}, receive, collect)
        body = _EXTERNAL_META.sub(b"", body)
        length = (b"content-length", str(len(body)).encode())
        rest = [(k, v) for k, v in start["headers"] if k.lower() != length[0]]
        await send({**start, "headers": [*rest, length]})
        await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive, headers: dict[str, str], limit: int) -> bytes | Refusal:
    """The request's body; where it is too large or too slow, most of it is not read."""
    smaller = "reload the page" if limit == MAX_EVENT else "scale the picture down"
    too_large = Refusal(413, f"larger than {limit / 1e6:g} MB; {smaller}")
    too_slow = Refusal(408, "the rest of the request did not come in time; send it again")
    stated = headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > limit:
        return too_large
    body = bytearray()
    begun = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(begun + _PATIENCE) as deadline:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return too_slow
                body += message.get("body", b"")
                if len(body) > limit:
                    return too_large
                if not message.get("more_body"):
                    return bytes(body)
                deadline.reschedule(begun + _PATIENCE + len(body) / _SLOWEST)
    except TimeoutError:
        return too_slow


def _given(body: bytes, receive: Receive) -> Receive:
    """Receives a body that was read already, then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *ours]}
        await send(message)

    return sending


async def refuse(send: Send, status: int, why: str) -> None:
    """Answers with why, as JSON; the connection then ends."""
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
