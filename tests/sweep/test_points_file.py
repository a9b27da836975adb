"""Named points from a file, and the ablations that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.cli.main import main
from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.sweep.points_file import read_points
from dedn_jax.sweep.report import result_text
from dedn_jax.sweep.run import run_sweep
from tests.helpers.tiny import tiny_config, write_tiny


def test_the_ablations_of_the_paper() -> None:
    points = read_points(load_config("cub_gzsl", {"train.epochs": 3}), "paper")
    by_name = {point.name: point for point in points}
    assert len(by_name) == len(points) == 8
    assert by_name["coarse expert alone"].config.model.experts == "coarse"
    assert by_name["both, bidirectional KL"].config.loss.distillation.name == "kl"
    assert by_name["fine expert of one group"].config.data.groups == "single"
    published = by_name["both, agreement (published)"].config
    assert published.to_dict() == load_config("cub_gzsl", {"train.epochs": 3}).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"points.py: no function get_points\(\); write it like configs/ablations"),
        ("def get_points(): return []", r"get_points\(\) returned \[\]; write it like"),
        ("def get_points(): return {'a': 1}", "point 'a' is no dict of fields; write it like"),
        ("def get_points(): 1 / 0", r"get_points\(\) raised ZeroDivisionError: division by zero"),
        (
            "def get_points(): return {'a': {'loss.bais': 1.0}}",
            "point 'a': unknown field config.loss.bais; known fields: loss.bias",
        ),
        ("def get_points(): return {'a': {'seed': 1}}", "point 'a': config.seed is what --seeds"),
        (
            "def get_points(): return {'a': {'loss.bias': 'x'}}",
            "point 'a': config.loss.bias='x' of type str, expected float",
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "points.py"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_points(load_config("cub_gzsl"), file)


def test_an_unknown_name_and_both_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no ablations 'papre'; give a Python file or one of pap"):
        read_points(load_config("cub_gzsl"), "papre")
    arguments = ["sweep", "--config=cub_gzsl", f"--workdir={tmp_path / 'w'}", "--seeds=2"]
    assert main([*arguments, "--points=paper", "--grid=loss.bias=1,2"]) == 2
    assert "--grid: --points names every point already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_of_named_points(tmp_path: Path) -> None:
    """Experts, branches, objectives and groups differ; the report goes by their names."""
    config = tiny_config(write_tiny(tmp_path / "tiny.hdf5"), train__epochs=2)
    points = tmp_path / "points.py"
    points.write_text(
        "def get_points():\n"
        "    return {'coarse': {'model.experts': 'coarse'}, 'region': {'model.branches': 'region'},"
        " 'one group': {'data.groups': 'single', 'loss.distillation.name': 'kl+js'}}\n"
    )
    result = run_sweep(config, tmp_path / "sweep", 2, points_file=points)
    assert [point["name"] for point in result["points"]] == ["coarse", "region", "one group"]
    text = result_text(result, show_test=True)
    assert text.count("\none group ") == 2  # on validation classes and on the test sets
    assert all(f"\n{name} " in text for name in ("coarse", "region", "one group"))
    assert run_sweep(config, tmp_path / "sweep", 2, points_file=points) == result
    points.write_text(points.read_text().replace("'coarse':", "'cexp':"))
    with pytest.raises(InputError, match=r"names=.* there"):
        run_sweep(config, tmp_path / "sweep", 2, points_file=points)
