"""Which events of the page reach Gradio, and how many of them are kept."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from dedn_jax.serve.events import Events, Refusal


class Queue:
    """Gradio's, as far as events are kept in it."""

    def __init__(self) -> None:
        self.pending_messages_per_session: dict[str, asyncio.Queue[str]] = {}
        self.pending_event_ids_session: dict[str, set[str]] = {}
        self.cleaned: list[str] = []

    async def clean_events(self, *, session_hash: str) -> None:
        self.cleaned.append(session_hash)

    def push(self, session: str) -> None:
        messages = self.pending_messages_per_session.setdefault(session, asyncio.Queue())
        messages.put_nowait("begins")
        ids = self.pending_event_ids_session.setdefault(session, set())
        ids.add(str(len(ids)))


class Blocks:
    """A page with the functions 0 and 1, of one component."""

    def __init__(self) -> None:
        self.fns = {i: SimpleNamespace(inputs=["session"]) for i in range(2)}
        self._queue = Queue()


def event(**fields: Any) -> bytes:
    return json.dumps({"data": [None], "fn_index": 0, "session_hash": "a1", **fields}).encode()


def test_events_of_the_page_get_through() -> None:
    events = Events(Blocks())
    for fields in ({}, {"fn_index": 1, "event_data": {"token": "x"}, "trigger_id": 5}):
        assert asyncio.run(events.refusal(event(**fields))) is None
    for data in (None, "a changed name", 0.5, [1, 2]):  # what changed, with some components
        assert asyncio.run(events.refusal(event(event_data=data, trigger_id=None))) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 15_000,
        b"\xff",
        event(data=["\ud800"]),
        event(data=[]),
        event(data=None),
        event(data=[{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]),
        event(data=[[[]]]),
        event(fn_index=99999),
        event(fn_index=-1),
        event(fn_index=True),
        event(fn_index=float("nan")),
        event().replace(b'"fn_index": 0', b'"fn_index": 1e400'),
        event(trigger_id=0).replace(b'"trigger_id": 0', b'"trigger_id": 1e400'),
        event(trigger_id="x"),
        event(event_id=[[1]]),
        event(session_hash=None),
        event(session_hash="x" * 65),
        event(session_hash="a/b"),
    ],
)
def test_what_the_page_would_not_say_is_refused(body: bytes) -> None:
    refusal = asyncio.run(Events(Blocks()).refusal(body))
    assert refusal and refusal.status == 400
    assert refusal.why.endswith("reload the page")


def test_a_session_that_reads_no_answers_is_refused_and_others_are_not() -> None:
    blocks = Blocks()

    async def fill() -> Refusal | None:
        events = Events(blocks)
        for _ in range(32):
            assert await events.refusal(event()) is None
            blocks._queue.push("a1")
        assert await events.refusal(event(session_hash="b2")) is None
        return await events.refusal(event())

    refusal = asyncio.run(fill())
    assert refusal and refusal.status == 429


@pytest.mark.parametrize("each", [1, 31])
def test_answers_for_sessions_without_end_are_not_kept(each: int) -> None:
    blocks = Blocks()

    async def fill() -> None:
        events = Events(blocks)
        for i in range(1000):
            for _ in range(each):
                assert await events.refusal(event(session_hash=f"s{i}")) is None
                blocks._queue.push(f"s{i}")

    asyncio.run(fill())
    queue = blocks._queue
    assert len(queue.pending_messages_per_session) <= 200
    assert sum(map(len, queue.pending_event_ids_session.values())) <= 256
    assert "s999" in queue.pending_event_ids_session
    assert queue.cleaned[:2] == ["s0", "s1"]
