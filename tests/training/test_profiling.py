"""Traces of some steps: which they are, where they lie, and that they change nothing."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.errors import InputError
from dedn_jax.inference.run import train
from dedn_jax.training.interrupt import Interrupted
from dedn_jax.training.profiling import Profile
from tests.helpers.tiny import arrays, light_config
from tests.training.common import Finished, StopAfter


def profiled(config: ConfigDict, path: Path, steps: str, stops_after: int = 0) -> None:
    """A training that is interrupted after so many steps; 0: it is not."""
    with Profile.from_flag(steps, path / "tensorboard") as profile:
        train(config, path, callbacks=[profile], stop=StopAfter(stops_after))


def traced(path: Path) -> list[int]:
    """The first steps of the calls in the only trace of a work directory."""
    (file,) = (path / "tensorboard" / "plugins" / "profile").glob("*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"]


def test_streamed(
    tmp_path: Path, finished: Callable[..., Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    expected, path = finished("last"), tmp_path / "run"
    profiled(expected.config, path, "3:5")
    assert traced(path) == [3, 4, 5]
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("profile: ")]
    folder = path / "tensorboard" / "plugins" / "profile"
    assert line == f"profile: traced steps 3 to 5 of phase final; see {folder}"
    # TensorBoard's file has the program, with the names of its parts.
    (file,) = folder.glob("*/*.xplane.pb")
    scopes = set(re.findall(rb"[/(](fold|region|channel|losses|optimizer)[/)]", file.read_bytes()))
    assert len(scopes) == 5
    assert json.loads((path / "result.json").read_text()) == expected.result
    theirs = arrays(expected.path)
    for name, found in arrays(path).items():
        np.testing.assert_array_equal(found, theirs[name], err_msg=name)


def test_calls_of_several_steps(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 1 to 3 in a call, and step 4, after which a checkpoint is due."""
    config = light_config(
        data,
        selection__protocol="last",
        data__on_device="replicated",
        train__epochs=2,
        train__steps_per_call=3,
        train__checkpoint_every=4,
    )
    profiled(config, tmp_path / "run", "2:4")
    assert traced(tmp_path / "run") == [1, 4]
    assert (
        "profile: traced steps 1 to 4 of phase final (whole calls of the program; asked for 2 to 4)"
        in capsys.readouterr().err
    )


def test_interrupted_and_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = light_config(data, selection__protocol="last", train__epochs=2), tmp_path / "run"
    with pytest.raises(Interrupted):
        profiled(config, path, "5:9", stops_after=2)
    assert "profile: nothing traced: no step from 5 to 9 was taken" in capsys.readouterr().err
    with pytest.raises(Interrupted):
        profiled(config, path, "3:9", stops_after=2)
    assert traced(path) == [3, 4]
    assert "profile: traced steps 3 to 4 of phase final" in capsys.readouterr().err
    # Of the steps that are left, 1 to 4 are none.
    profiled(config, path, "1:4")
    assert "profile: nothing traced: no step from 1 to 4 was taken" in capsys.readouterr().err
    # Nor has a finished run any.
    profiled(config, path, "5:6")
    assert "profile: nothing traced: no step from 5 to 6 was taken" in capsys.readouterr().err


def test_a_trace_ends_with_its_phase(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = light_config(data, selection__protocol="last", train__epochs=2)
    profiled(config, tmp_path / "run", "7:99")
    assert traced(tmp_path / "run") == [7, 8]
    assert "profile: traced steps 7 to 8 of phase final (whole calls" in capsys.readouterr().err


def test_what_cannot_be_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, and the training goes on."""
    config, path = light_config(data, selection__protocol="last", train__epochs=1), tmp_path / "run"
    plugins = tmp_path / "board" / "plugins"
    plugins.parent.mkdir()
    plugins.write_text("in the way")
    with Profile(2, 3, plugins.parent) as profile:
        assert train(config, path, callbacks=[profile]).result["steps"] == 4
    assert "profile: no trace written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "5", "5:", ":5", "0:3", "4:3", "-1:3", "1:2:3", "1.5:2", "٣:٤"]
)
def test_what_is_no_range_of_steps(text: str) -> None:
    with pytest.raises(InputError, match=f"--profile={text}, expected START:STOP"):
        Profile.from_flag(text, Path())
