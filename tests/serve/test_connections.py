"""Connections that say nothing, or are too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytestmark = pytest.mark.gradio
REQUEST = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Answers after a while where it is asked for /slow."""
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def served(**attributes: float) -> AsyncIterator[int]:
    """The port of a server with such connections."""
    import uvicorn

    from dedn_jax.serve.connections import Connection

    with socket.create_server(("127.0.0.1", 0)) as listening:
        http = type("Quick", (Connection,), attributes)
        config = uvicorn.Config(page, http=http, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await running


async def ask(port: int, request: bytes = REQUEST) -> tuple[bytes, bytes]:
    """Head and body of the answer; empty where the connection ends without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        writer.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        answer = await asyncio.wait_for(reader.read(), 5)
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("begun", [b"", REQUEST[:-2]])
def test_who_sends_no_request_keeps_nobody_out(begun: bytes) -> None:
    async def try_it() -> None:
        async with served(most=5, patience=0.5, hurry=0.2) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            for _, writer in idle:
                writer.write(begun)
            await asyncio.sleep(0.1)
            head, body = await ask(port)
            assert b" 503 " in head and b"application/json" in head
            assert "too many connections" in json.loads(body)["error"]
            for reader, _ in idle:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 3) == b""
            assert (await ask(port))[1] == b"ok"
            for _, writer in idle:
                writer.close()

    asyncio.run(try_it())


def test_a_header_in_drops_is_not_waited_for() -> None:
    async def try_it() -> None:
        async with served(patience=0.5) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST[:-2])
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    await asyncio.sleep(0.1)
                    writer.write(b"x: y\r\n")
                    await writer.drain()
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 3) == b""
            assert writer.is_closing() or reader.at_eof() or reader.exception()
            writer.close()

    asyncio.run(try_it())


def test_an_answer_is_waited_for() -> None:
    async def try_it() -> None:
        async with served(patience=0.2) as port:
            slow = REQUEST.replace(b"/ ", b"/slow ", 1)
            assert (await ask(port, slow))[1] == b"ok"

    asyncio.run(try_it())


def test_one_address_does_not_take_all_places() -> None:
    from dedn_jax.serve.connections import Connection

    class Other:
        served = True

        def __init__(self, address: str) -> None:
            self.client = (address, 1)

    def has_a_place(address: str, others: list[Other]) -> bool:
        connection = Connection.__new__(Connection)
        connection.client = (address, 2)
        connection.connections = set(others)
        return connection._has_a_place()

    many = [Other("192.0.2.1") for _ in range(50)]
    assert not has_a_place("192.0.2.1", many)
    assert has_a_place("192.0.2.1", many[1:])
    assert has_a_place("192.0.2.2", many)
    assert not has_a_place("192.0.2.2", many * 2 + [Other("192.0.2.3") for _ in range(50)])
    assert has_a_place("127.0.0.1", [Other("127.0.0.1") for _ in range(99)])
