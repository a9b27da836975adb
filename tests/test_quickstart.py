"""examples/quickstart.ipynb runs from top to bottom: for an epoch, on few and small pictures."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.forks import Forked

_NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"
# As in tests/inference/report/conftest.py, so that what is compiled is compiled once.
_DRAWN_SMALL = """
import functools
from dedn_jax.data.sources import demo
demo.demo_pictures = functools.partial(demo.demo_pictures, image_size=32, images_per_class=4)
"""
_SMALL = {
    "data.path": "cache",
    "data.groups": "single",
    "picture.resize": 32,
    "picture.crop": 32,
}
_SHORTER = {
    "epochs = 15\n": "epochs = 1\n",
    '{"train.epochs": epochs}': f'{{"train.epochs": epochs, **{_SMALL}}}',
}


def test_quickstart(tmp_path: Path) -> None:
    cells = json.loads(_NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 6
    program = "\n\n".join(code)
    for long, short in _SHORTER.items():
        assert program.count(long) == 1
        program = program.replace(long, short)
    program = _DRAWN_SMALL + program
    process = Forked("-c", program, folder=tmp_path, MPLBACKEND="agg", PATH="")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    assert "test_calibrated" in output
    assert "griffin is number" in output
    assert (tmp_path / "runs" / "quickstart" / "report" / "index.html").is_file()
    assert (tmp_path / "runs" / "quickstart.zip").stat().st_size > 10_000
