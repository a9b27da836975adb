"""The report of a run: its page, its curve, and what it says about chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.inference.report import chance, write_report
from dedn_jax.inference.run import open_run, train


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on the real demo set, its pictures scaled down."""
    folder = tmp_path_factory.mktemp("demo")
    flags = ["train.epochs=1", "data.groups=single", "picture.resize=32", "picture.crop=32"]
    overrides = [f"--config.{flag}" for flag in (f"data.path={folder}/cache", *flags)]
    train(load_config("demo", overrides), folder / "run")
    return folder / "run"


def test_report_of_a_demo_run(demo_run: Path) -> None:
    page = write_report(open_run(demo_run))
    text = page.read_text()
    assert page == demo_run / "report" / "index.html"
    assert "Choosing by chance gives U = S = H = 2.0." in text
    assert "Selected by validation classes" in text
    for name in ("curve.png", "contact_sheet.png"):
        assert f'src="{name}"' in text
        with Image.open(page.parent / name) as picture:
            assert min(picture.size) > 300
            # Something is drawn: not one flat colour.
            assert np.unique(np.asarray(picture.convert("L"))).size > 8


def test_chance_is_one_over_the_classes(demo_run: Path) -> None:
    assert chance(open_run(demo_run).dataset) == pytest.approx(100 / 50)


def test_report_needs_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        write_report(open_run(tmp_path))
