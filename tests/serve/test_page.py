"""What the page answers to values that it would not send, without a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from dedn_jax.serve.designs import MEAN
from dedn_jax.serve.failures import Failures
from dedn_jax.serve.studio import Studio
from dedn_jax.serve.view import Session

pytestmark = pytest.mark.gradio


def called(page: Any, event: str, number: int, *values: Any) -> Any:
    """What the page answers to the event of this number among those of its kind."""
    found = [f for f in page.blocks.fns.values() if any(kind == event for _, kind in f.targets)]
    return found[number].fn(*values)


@pytest.fixture
def page(studio: Studio) -> Any:
    from dedn_jax.serve.page import Page

    return Page(studio, 1000, Failures())


def begun(studio: Studio) -> Session:
    return Session(designs=Session().designs.begun(studio.candidates, MEAN))


def alerts(updates: Any) -> str:
    return " ".join(v for v in updates.values() if isinstance(v, str) and "alert" in v)


def test_events_without_what_they_tell(page: Any) -> None:
    import gradio as gr

    for data in (None, "x", [1], {}, {"token": 1, "example": "a"}):
        event = gr.EventData(None, data)
        assert "no longer in memory" in alerts(called(page, "looked", 0, Session(), event))
        assert "no such example" in alerts(called(page, "chosen", 0, Session(), event))


@pytest.mark.parametrize("value", ["abc", None, [1], True, 1e300, -1.0])
def test_sliders_hold_numbers_of_their_range(page: Any, studio: Studio, value: object) -> None:
    updates = called(page, "input", 4, begun(studio), value, [0])
    assert "not a number from 0 to" in alerts(updates)
    assert not any(isinstance(v, Session) for v in updates.values())


def test_names_and_attributes_that_there_are_not(page: Any, studio: Studio) -> None:
    assert "has no name" in alerts(called(page, "change", 0, begun(studio), None))
    for attribute in (999, -1):
        updates = called(page, "input", 1, Session(), attribute)
        assert "no such attribute" in alerts(updates)


def test_what_nobody_foresaw_is_a_line_for_both(
    page: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        assert "reload the page" in alerts(called(page, "input", 2, Session(), ["x"]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dedn: a visitor's request failed: TypeError: unhashable")


def test_values_are_not_looked_at_before_the_handlers(page: Any) -> None:
    """Gradio would fail with a stack trace on what its components cannot hold."""
    assert not any(f.preprocess for f in page.blocks.fns.values())


def test_a_route_that_fails_answers_with_json(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dedn_jax.serve.server import application

    def fail(encoded: bytes) -> str:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(studio, "look", fail)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/picture", "query_string": b""}
    scope |= {"headers": [(b"host", b"127.0.0.1")], "root_path": "", "http_version": "1.1"}
    with contextlib.suppress(RuntimeError):  # raised again for the server
        asyncio.run(application(studio, max_bytes=9, loopback=True)(scope, receive, send))
    assert sent[0]["status"] == 500
    assert "reload the page" in json.loads(sent[1]["body"])["error"]
    assert "RuntimeError: out of memory" in capsys.readouterr().err
