"""The public API: what it exports, and that importing it changes nothing in the process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import dedn_jax

ROOT = Path(__file__).resolve().parent.parent

# Imports every module while it notes what our own code, not a library's, does to the process.
_IMPORT_ALL = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings
import absl.logging

found = []

def watch(holder, name):
    original = getattr(holder, name)
    def watched(*args, **named):
        frame = sys._getframe(1)
        if frame.f_globals.get("__name__", "").startswith("dedn_jax"):
            found.append(f"{frame.f_globals['__name__']}: {name}{args}")
        return original(*args, **named)
    setattr(holder, name, watched)

for holder, name in (
    (os, "umask"),
    (os, "putenv"),
    (os, "unsetenv"),
    (signal, "signal"),
    (warnings, "filterwarnings"),
    (warnings, "simplefilter"),
    (absl.logging, "set_verbosity"),
    (logging, "basicConfig"),
    (logging, "disable"),
    (logging.Logger, "setLevel"),
    (logging.Logger, "addHandler"),
    (sys, "setrecursionlimit"),
):
    watch(holder, name)
watch(type(os.environ), "__setitem__")

import dedn_jax
names = [m.name for m in pkgutil.walk_packages(dedn_jax.__path__, "dedn_jax.")]
import jax
watch(type(jax.config), "update")
for name in names:
    try:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:  # of an extra; `make serve` imports it
        if error.name not in ("gradio", "h11", "uvicorn"):
            raise

from jax._src import xla_bridge
print(json.dumps({"modules": names, "found": found, "backends": list(xla_bridge._backends)}))
"""


def test_imports_change_nothing_in_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["modules"]) > 100
    assert result["found"] == []
    assert result["backends"] == []  # no device was asked for


def test_exports_have_types() -> None:
    """The names that are imported lazily are those that type checkers see."""
    tree = ast.parse(Path(dedn_jax.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*typed, "__version__"]) == sorted(dedn_jax.__all__)
    for name, path in typed.items():
        value = getattr(dedn_jax, name)
        if isinstance(value, types.ModuleType):
            assert value.__name__ == path
        else:
            assert f"{value.__module__}.{name}" == path
    assert set(dedn_jax.__all__) <= set(dir(dedn_jax))
    assert (Path(dedn_jax.__file__).parent / "py.typed").is_file()


def test_a_name_that_is_not_exported() -> None:
    with pytest.raises(AttributeError, match="module 'dedn_jax' has no attribute 'tarin'"):
        _ = dedn_jax.tarin
