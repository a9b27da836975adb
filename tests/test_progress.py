"""What is shown of progress where nobody watches: a line now and then; and the pulse."""

from __future__ import annotations

import re

import pytest

from dedn_jax import progress as module
from dedn_jax.progress import progress
from dedn_jax.pulse import PULSE

DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(module, "_clock", one)
    return one


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    assert all(DATE.match(line) for line in lines)
    return [DATE.sub("", line) for line in lines]


def test_a_line_now_and_then_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    beats = PULSE.count
    with progress(1176, "validation", "step", initial=36) as bar:
        clock.now += 32  # the first step compiles, and does not count for the rate
        bar.update()
        assert said(capsys) == ["validation 37/1176 steps, 0.0312 steps/s, 10:07:28 left"]
        for step in range(303):
            clock.now += 0.125  # exactly, in binary
            bar.set_postfix_str(f"loss {step:.2f}")
            bar.update()
        middle = said(capsys)
        clock.now += 4000
        bar.update(836)
        assert said(capsys) == []
    assert len(middle) == 2
    assert middle[0] == "validation 157/1176 steps, 8 steps/s, 2:07 left, loss 119.00"
    (end,) = said(capsys)
    assert end == "validation 1176/1176 steps, 0.282 steps/s, in 1:07:50, loss 302.00"
    assert PULSE.count - beats == 305
    assert PULSE.doing == "validation, step 1176"


def test_what_is_over_at_once_or_ends_in_an_error_says_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(3, "reading", "image", delay=2) as bar:
        bar.update(3)
    bar = progress(3, "reading", "image")
    with pytest.raises(ValueError, match="text"), bar:
        bar.update(int("text"))
    beats = PULSE.count
    with progress(3, "of another process", "step", shown=False) as bar:
        clock.now += 100
        bar.update(3)
    assert PULSE.count == beats + 1
    assert said(capsys) == []


def test_bytes_of_which_nobody_knows_how_many(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(0, "downloading a\nb", "B") as bar:
        bar.update(1)
        clock.now += 20
        bar.update(50_000_000)
        bar.write("a line", file=None)
    assert said(capsys) == [
        r"downloading a\nb 50.0 MB, 2.5 MB/s",
        r"downloading a\nb 50.0 MB, 2.5 MB/s, in 0:20",
    ]


def test_nothing_done_yet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """No rate, and no time left either."""
    with progress(3, "reading", "image") as bar:
        clock.now += 60
        bar.update(0)
        assert said(capsys) == ["reading 0/3 images"]
        bar.update(3)
