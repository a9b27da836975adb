"""The examples in docstrings and in docs/how-to/python.md give what they say."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dedn_jax
from tests.helpers.picture_runs import PictureRuns
from tests.helpers.tiny import write_tiny

_PACKAGE = Path(dedn_jax.__file__).parent
_PAGE = _PACKAGE.parent / "docs" / "how-to" / "python.md"
_MODULES = [
    ".".join(("dedn_jax", *path.relative_to(_PACKAGE).with_suffix("").parts))
    for path in sorted(_PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
_NEED_TORCH = ("dedn_jax.inference.export.published",)


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, picture_runs: PictureRuns
) -> Iterator[dict[str, Any]]:
    """The names that docs/how-to/python.md makes, in a folder with the runs that it trains.

    It is given a run on pictures, and one of these. Docstrings use its `config`, `dataset`, `run`
    and `birds`, and `features.hdf5` and `jay.jpg`.
    """
    folder, before = tmp_path_factory.mktemp("examples"), Path.cwd()
    blocks = re.findall(r"^```python\n(.*?)^```", _PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    os.chdir(folder)
    try:
        write_tiny(Path("features.hdf5"))
        Path("runs").mkdir()
        Path("runs/birds").symlink_to(picture_runs.small.workdir.path)
        shutil.copy(picture_runs.folder / "class 3" / "0.jpg", "jay.jpg")
        names: dict[str, Any] = {}
        for block in blocks:
            exec(compile(block, str(_PAGE), "exec"), names)
        yield names
    finally:
        os.chdir(before)


def test_page(page: dict[str, Any]) -> None:
    assert page["run"].result["steps"] == 12
    assert Path("runs/stopped/final/checkpoints").is_dir()
    assert not Path("runs/stopped/result.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.torch if name in _NEED_TORCH else ())
        for name in _MODULES
    ],
)
def test_docstrings(name: str, page: dict[str, Any]) -> None:
    found = doctest.testmod(
        importlib.import_module(name),
        extraglobs={name: page[name] for name in ("config", "dataset", "run", "birds")},
        optionflags=doctest.ELLIPSIS,
    )
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", sorted({*dedn_jax.__all__} - {"__version__"}))
def test_every_public_name_has_an_example(name: str) -> None:
    value = getattr(dedn_jax, name)
    found = doctest.DocTestFinder().find(value, name)
    own = [test for test in found if test.examples]
    assert own, f"dedn_jax.{name} has no example in its docstring"
    assert isinstance(value, types.ModuleType) or value.__doc__
