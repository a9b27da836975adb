"""What the processes of a run say of an end: its first cause, once."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import jax
import pytest

from dedn_jax.errors import InputError
from dedn_jax.parallel import agreement, board, watchdog

LOST = "another process of this run has ended, or cannot be reached (Gloo)"
CAUSE = "process 1 (b) has ended (maps.hdf5: no such file); give the same command"


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The board of three processes, by topic and process; this process is number 2."""
    texts: dict[str, str] = {}
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    monkeypatch.setattr(watchdog, "_leaving", threading.Event())
    monkeypatch.setattr(
        board, "post", lambda topic, text: texts.update({f"{topic}/{jax.process_index()}": text})
    )
    monkeypatch.setattr(board, "read", lambda topic, process: texts.get(f"{topic}/{process}"))
    monkeypatch.setattr(
        board,
        "read_all",
        lambda topic: {
            int(k.split("/")[1]): v for k, v in texts.items() if k.startswith(f"{topic}/")
        },
    )
    return texts


def told(ended: str, of_others: bool) -> str:
    return json.dumps({"ended": ended, "of_others": of_others})


def test_a_cause_of_its_own(posted: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    watchdog.take_leave("disk full", of_others=False)
    assert capsys.readouterr().err == "dedn: disk full\n"
    said = json.loads(posted["farewell/2"])["ended"]
    assert said.startswith("process 2 (")
    assert ") has ended (disk full); give the same command on all of them" in said


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, LOST),
        ({"farewell/1": told(CAUSE, of_others=False)}, CAUSE),
        ({"farewell/1": told(LOST, of_others=True)}, LOST),
        ({"verdict/0": CAUSE}, CAUSE),
        ({"verdict/0": LOST, "farewell/1": told(CAUSE, of_others=False)}, CAUSE),
    ],
    ids=["unknown", "told", "lost too", "verdict", "lost verdict"],
)
def test_a_cause_in_another(
    there: dict[str, str],
    said: str,
    posted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    posted.update(there)
    watchdog.take_leave(LOST, of_others=True)
    assert capsys.readouterr().err == f"dedn: {said}\n"
    assert json.loads(posted["farewell/2"])["ended"] == said  # and not that process 2 has


def test_process_0_tells_the_cause(posted: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it hears of first."""
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    dog = watchdog.Watchdog(silence=60, stall=60)
    for text in (told(LOST, True), told(CAUSE, False), told(LOST, True)):
        dog._hear(**json.loads(text))
    assert dog._verdict == CAUSE
    monkeypatch.setattr(watchdog, "_READING", 0)
    watchdog.take_leave(LOST, of_others=True)
    assert posted["verdict/0"] == LOST


def test_a_sign_of_life_that_comes_late(
    posted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is on its way as its process leaves does not take the farewell's place."""
    dog = watchdog.Watchdog(silence=60, stall=60)
    on_its_way, has_left, post = threading.Event(), threading.Event(), board.post

    def post_late(topic: str, text: str) -> None:
        if threading.current_thread() is signs:
            on_its_way.set()
            assert has_left.wait(60)
        post(topic, text)

    monkeypatch.setattr(board, "post", post_late)
    signs = threading.Thread(target=dog._exchange)
    signs.start()
    assert on_its_way.wait(60)
    watchdog.take_leave("disk full", of_others=False)
    has_left.set()
    signs.join(60)
    assert "pulse/2" in posted  # the sign did come
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    first = watchdog.Watchdog(silence=60, stall=60)
    first._exchange_once(1)
    assert first._verdict and "has ended (disk full)" in first._verdict


def test_a_difference_that_another_is_quicker_to_tell(
    posted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes end for what process 0 found, as a mistake, and not because one has ended."""
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    monkeypatch.setattr(
        board, "wait_for_all", lambda *_: {i: json.dumps({"seed": i}) for i in range(3)}
    )
    ended: list[str] = []
    monkeypatch.setattr(watchdog, "end_now", ended.append)
    dog = watchdog.Watchdog(silence=60, stall=60)

    def meanwhile(_: float) -> None:
        posted["farewell/1"] = told(CAUSE, of_others=False)
        dog._exchange_once(1)
        assert dog._verdict == CAUSE
        dog._end(dog._verdict)

    monkeypatch.setattr(agreement, "time", SimpleNamespace(sleep=meanwhile))
    with pytest.raises(InputError, match="seed=1, not 0"):
        agreement.check_agreement("the seeds", {"seed": 0})
    assert not ended
