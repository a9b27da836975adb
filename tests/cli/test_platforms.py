"""libtpu, installed for `dedn plan`, is left alone by every other command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dedn_jax.cli import platforms

_SCRIPT = """
from dedn_jax.cli.platforms import leave_out_absent_tpus
leave_out_absent_tpus()
import jax
print(jax.default_backend())
"""


def _device(folder: Path, name: str, vendor: str, kind: str) -> None:
    (folder / name).mkdir()
    (folder / name / "vendor").write_text(f"{vendor}\n")
    (folder / name / "class").write_text(f"{kind}\n")


def test_a_tpu_is_a_device_of_google_that_is_no_disk_and_no_network_card(tmp_path: Path) -> None:
    assert not platforms.has_tpu(tmp_path / "missing")
    _device(tmp_path, "0", "0x1ae0", "0x020000")
    _device(tmp_path, "1", "0x1ae0", "0x010802")
    _device(tmp_path, "2", "0x10de", "0x030200")
    assert not platforms.has_tpu(tmp_path)
    _device(tmp_path, "3", "0x1ae0", "0x088000")
    assert platforms.has_tpu(tmp_path)


@pytest.mark.parametrize(
    ("installed", "tpu", "variables", "left_out"),
    [
        (True, False, {}, True),
        (False, False, {}, False),
        (True, True, {}, False),
        (True, False, {"JAX_PLATFORMS": "tpu"}, False),
        (True, False, {"JAX_FORCE_TPU_INIT": "1"}, False),
    ],
)
def test_when_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    tpu: bool,
    variables: dict[str, str],
    left_out: bool,
) -> None:
    from jax.extend import backend

    registered: list[str] = []
    for name in ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        platforms.importlib.util, "find_spec", lambda _: object() if installed else None
    )
    monkeypatch.setattr(platforms, "has_tpu", lambda: tpu)
    monkeypatch.setattr(
        backend, "register_backend_factory", lambda name, *_, **__: registered.append(name)
    )
    platforms.leave_out_absent_tpus()
    assert registered == ["tpu"] * left_out


@pytest.mark.libtpu
@pytest.mark.skipif(platforms.has_tpu(), reason="there is a TPU")
def test_the_real_one_says_nothing() -> None:
    left = ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_LOG_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in left}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() != "tpu"
