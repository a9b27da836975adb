"""examples/quickstart.ipynb runs from top to bottom, with a shorter training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.devices import xla_flags

_NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "quickstart.ipynb"


def test_quickstart(tmp_path: Path) -> None:
    cells = json.loads(_NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 6
    program = "\n\n".join(code)
    assert "epochs = 15\n" in program
    (tmp_path / "quickstart.py").write_text(program.replace("epochs = 15\n", "epochs = 2\n"))
    done = subprocess.run(
        [sys.executable, "quickstart.py"],
        cwd=tmp_path,
        env={
            "MPLBACKEND": "agg",
            "PYTHONPATH": str(_NOTEBOOK.parent.parent),
            "PATH": "",
            "XLA_FLAGS": xla_flags(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "test_calibrated" in done.stdout
    assert "griffin is number" in done.stdout
    assert (tmp_path / "runs" / "quickstart" / "report" / "index.html").is_file()
    assert (tmp_path / "runs" / "quickstart.zip").stat().st_size > 10_000
