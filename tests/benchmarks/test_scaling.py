"""Two simulated devices and two processes do what one does, in every way."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import scaling
from benchmarks.scaling_work import WAYS
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from tests.helpers.devices import xla_flags
from tests.helpers.forks import Forked


def forked(command: list[str], env: dict[str, str], cwd: Path, **_: object) -> Forked:
    return Forked(*command[1:], folder=cwd, **env)


@pytest.mark.slow
def test_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    forks = SimpleNamespace(**vars(subprocess) | {"Popen": forked})
    monkeypatch.setattr(scaling, "subprocess", forks)
    flags = ["--devices=2", "--processes=2", "--rows=2", "--channels=8", "--regions=4"]
    scaling.main(
        [*flags, "--groups=single", "--steps=4", "--rounds=1", f"--json={tmp_path / 'report.json'}"]
    )
    report = read_json(tmp_path / "report.json")
    rows = report["rows"]
    assert [(row["kind"], row["scaling"]) for row in rows] == [
        *(("devices", "weak"), ("devices", "strong")),
        *(("processes", "weak"), ("processes", "strong")),
    ]
    assert report["peak_gflop_per_s"] > 0 and report["copy_gb_per_s"] > 0
    for row in rows:
        assert row["batch"] == 4 and tuple(row["ways"]) == WAYS
        for found in row["ways"].values():
            assert found["difference"] < 1e-4
            assert found["median"] > 0 and found["share"] > 0
            assert found["last_loss"] != 0
        # The gradient, and the two masses that self-calibration takes the logarithm of.
        assert row["ways"]["jit"]["collectives"] == 2
    sent = {
        row["ways"][way]["collective_mb"] for row in rows for way in ("jit", "pmap", "replicated")
    }
    assert len(sent) == 1 and sent.pop() > 0
    sharded = {row["ways"]["sharded"]["collective_mb"] for row in rows}
    assert len(sharded) == 1 and sharded.pop() > rows[0]["ways"]["jit"]["collective_mb"]
    assert "collectives of a step" in capsys.readouterr().out


def test_an_unknown_way() -> None:
    with pytest.raises(InputError, match="--ways=jit,xmap, expected some of jit, pmap, replicated"):
        scaling.main(["--ways=jit,xmap"])
