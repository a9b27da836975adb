"""What can go wrong with the compiler's process."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from dedn_jax.errors import InputError
from dedn_jax.plan import compile as compiling
from dedn_jax.plan.worker import _failure

_REQUEST = {"platform": "tpu", "topology": "v5e:2x4"}


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs libtpu: pip install 'dedn-jax\[tpu-plan\]'"):
        compiling.compile_program(_REQUEST, 1)


def test_a_compiler_that_hangs_is_ended() -> None:
    began = time.monotonic()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert compiling._run(sleep, 0.3, {})[0] is None
    assert time.monotonic() - began < 20


def test_the_output_is_captured(capfd: pytest.CaptureFixture) -> None:
    script = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    status, output = compiling._run([sys.executable, "-c", script], 60, {})
    assert status == 3
    assert sorted(output) == ["one", "two"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("status", "message"),
    [(None, "not compiled within 5 s; give a larger --timeout"), (-11, "status -11: last words")],
)
def test_crash_and_timeout_are_one_line(
    monkeypatch: pytest.MonkeyPatch, status: int | None, message: str
) -> None:
    def run(*_: Any) -> tuple[int | None, list[str]]:
        return status, ["first", "last words"]

    monkeypatch.setattr(compiling, "_run", run)
    with pytest.raises(InputError, match=message):
        compiling.compile_program(_REQUEST | {"platform": "cpu"}, 5)


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        (
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G "
            "of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
            20.5,
        ),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (19.47G) "
            "exceeds available HBM (15.75G).",
            19.47,
        ),
    ],
)
def test_what_the_compiler_says_of_memory(said: str, needed: float) -> None:
    answer = _failure(RuntimeError(f"RESOURCE_EXHAUSTED: {said}"))
    assert answer["kind"] == "memory"
    assert (answer["needed"], answer["have"]) == (needed * 2**30, 15.75 * 2**30)


def test_other_errors_are_handed_on() -> None:
    assert _failure(RuntimeError("something else"))["kind"] == "compile"
