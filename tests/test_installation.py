"""`dedn info`: versions, devices, caches, extras; what is missing is a line."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dedn_jax import __version__, installation
from dedn_jax.cli.main import main
from dedn_jax.installation import installation_text


def info(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dedn_jax", "info", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


def test_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "dedn-jax/compiled/inner").mkdir(parents=True)
    (tmp_path / "dedn-jax/compiled/inner/program").write_bytes(bytes(3_000_000))
    (tmp_path / "dedn-jax/compiled/gone").symlink_to("nowhere")
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["dedn-jax"] == __version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["problems"] == {}
    assert sum(found["devices"].values()) >= 1
    assert list(found["caches"]) == [str(tmp_path / "dedn-jax/compiled")]
    assert 3_000_000 <= found["caches"][str(tmp_path / "dedn-jax/compiled")] < 3_001_000
    assert {"cuda12", "serve", "onnx", "torch", "bucket"} <= set(found["extras"])
    text = installation_text(found)
    assert f"{tmp_path}/dedn-jax/compiled  3.0 MB" in text
    assert f"numpy             {np.__version__}\n" in text


def test_extras_of_a_checkout_and_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are read alike; an extra of an extra's package counts."""
    packages = {
        "dedn-jax": ["numpy>=2", 'jax[gpu]>=1; extra == "gpu"', 'numpy>=99; extra == "new"'],
        "jax": ["numpy>=2", 'plugin[all]>=1; extra == "gpu"', 'other; extra == "other"'],
        "plugin": ['compiler; extra == "all"'],
    }
    versions = {"jax": "1.0", "plugin": "1.5", "numpy": "2.4"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", packages.__getitem__)
    monkeypatch.setattr(importlib.metadata, "version", version)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=2"]\n[project.optional-dependencies]\n'
        'gpu = ["jax[gpu]>=1"]\nnew = ["numpy>=99"]\n'
    )

    class Metadata:
        def get_all(self, _: str) -> list[str]:
            return ["gpu", "new"]

    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: Metadata())
    for package in (tmp_path / "dedn_jax", tmp_path / "elsewhere/dedn_jax"):
        monkeypatch.setattr(installation, "_PACKAGE", package)
        assert installation._lacking("") == []
        assert installation._lacking("gpu") == ["compiler"]
        assert installation._lacking("new") == ["numpy>=99, found 2.4"]
    del versions["plugin"]
    assert installation._lacking("gpu") == ["plugin"]


def test_damaged_packages_and_no_device_are_lines(tmp_path: Path) -> None:
    (tmp_path / "flax").mkdir()
    (tmp_path / "flax/__init__.py").write_text('raise RuntimeError("half\\nthere")')
    (tmp_path / "absl.py").write_text('raise ImportError("no absl")')
    root = Path(__file__).resolve().parent.parent
    done = info(PYTHONPATH=f"{tmp_path}:{root}", JAX_PLATFORMS="cuda")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nflax              cannot be imported: RuntimeError: half there\n" in done.stdout
    assert "  none that JAX can use: JAX_PLATFORMS=cuda: " in done.stdout
    assert "Traceback" not in done.stdout
