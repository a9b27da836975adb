"""What gets through to Gradio, and what does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from dedn_jax.serve import gate as module
from dedn_jax.serve.events import MAX_EVENT, Refusal
from dedn_jax.serve.gate import Gate

Message = MutableMapping[str, Any]
PAGE = b'<meta property="og:image" content="https://elsewhere.org/x.png"/><p>the page</p>'


async def inner(scope: Message, receive: Any, send: Any) -> None:
    """Answers with the page, or with the size of what it was sent."""
    message = await receive()
    body = PAGE if scope["path"] == "/" else str(len(message["body"])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def check(body: bytes) -> Refusal | None:
    return Refusal(429, 'too "many"') if body == b"too many" else None


def ask(
    method: str,
    path: str,
    *,
    body: bytes = b"",
    stated: int | None = None,
    loopback: bool = True,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer; the body is sent in pieces of 100 bytes."""
    gate = Gate(inner, max_bytes=1000, loopback=loopback, check=check)
    pieces = [body[i : i + 100] for i in range(0, len(body), 100)] or [b""]
    sent: list[Message] = []

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1:7860", **headers}
    if stated is not None:
        headers["content-length"] = str(stated)
    encoded = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded}
    asyncio.run(gate(scope, receive, send))
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


def test_the_page_names_no_other_host_and_may_load_from_none() -> None:
    status, headers, body = ask("GET", "/")
    assert (status, body) == (200, b"<p>the page</p>")
    assert headers["content-length"] == str(len(body))
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=https://elsewhere.org",
        "/gradio_api/upload",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/component_server",
        "/gradio_api/run/predict",
        "/gradio_api/call/predict",
        "/gradio_api/queue/status",
        "/monitoring",
        "/docs",
        "/static/../../etc/passwd",
        "/assets/%2e%2e/x",
        "/static/a\n",
    ],
)
def test_other_paths_are_closed(path: str) -> None:
    assert ask("GET", path)[0] == 404
    assert ask("POST", path, body=b"x")[0] == 404


def test_what_the_page_needs_is_open() -> None:
    for path in ("/config", "/theme.css", "/assets/index-1a.js", "/gradio_api/heartbeat/1a2b"):
        assert ask("GET", path)[0] == 200
    assert ask("POST", "/gradio_api/queue/join", body=b"x" * 950)[2] == b"950"
    assert ask("POST", "/picture", body=b"x" * 1000)[2] == b"1000"
    assert ask("PUT", "/picture", body=b"x")[0] == 404


def test_large_bodies_are_refused_before_and_while_they_are_read() -> None:
    assert ask("POST", "/picture", body=b"x", stated=1001)[0] == 413
    assert ask("POST", "/picture", body=b"x" * 1001)[0] == 413
    assert ask("POST", "/picture", body=b"x" * 5000, stated=5)[0] == 413
    assert ask("POST", "/gradio_api/queue/join", stated=MAX_EVENT + 1)[0] == 413
    assert ask("POST", "/gradio_api/queue/join", body=b"x" * (MAX_EVENT + 1))[0] == 413


def test_events_that_the_check_refuses_do_not_get_through() -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/cancel"):
        status, headers, body = ask("POST", path, body=b"too many")
        assert (status, headers["content-type"]) == (429, "application/json")
        assert json.loads(body) == {"error": 'too "many"'}
    assert ask("POST", "/picture", body=b"too many")[0] == 200


def test_other_pages_are_refused() -> None:
    """By their origin; and by their name, where it was made to point to this machine."""
    same = "http://127.0.0.1:7860"
    assert ask("POST", "/picture", body=b"x", origin=same)[0] == 200
    for origin in ("http://elsewhere.org", "null", "http://127.0.0.1:7861"):
        assert ask("POST", "/picture", body=b"x", origin=origin)[0] == 403
    for host in ("elsewhere.org:7860", "", "127.0.0.1.elsewhere.org", "[::1"):
        assert ask("GET", "/", host=host)[0] == 403
    for host in ("localhost:7860", "[::1]:7860", "127.0.0.1"):
        assert ask("GET", "/", host=host)[0] == 200
    assert ask("GET", "/", host="lab.example:7860", loopback=False)[0] == 200
    assert ask("GET", "/", host="lab.example", origin="http://a.b", loopback=False)[0] == 403


@pytest.mark.parametrize("pause", [0.02, 5])
def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """Nor one that comes in drops."""
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    gate = Gate(inner, max_bytes=1000, loopback=True, check=check)
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"1000")]
    scope = {"type": "http", "method": "POST", "path": "/picture", "headers": headers}
    asyncio.run(asyncio.wait_for(gate(scope, receive, send), 3))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_request_that_breaks_off_is_not_passed_on() -> None:
    gate = Gate(inner, max_bytes=1000, loopback=True, check=check)
    messages = [{"type": "http.request", "body": b"x", "more_body": True}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"1000")]
    scope = {"type": "http", "method": "POST", "path": "/picture", "headers": headers}
    asyncio.run(gate(scope, receive, send))
    assert sent[0]["status"] == 408
