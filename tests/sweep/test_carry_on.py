"""A sweep that is carried on ends where one ends that was begun for as long."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.cli import main as cli
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.sweep.run import run_sweep
from tests.helpers.tiny import light_config, tiny_config, tiny_overrides
from tests.sweep.common import FIELDS, GRID, SEEDS, interrupted_sweep, read

SHORT, LONG = 6, 12
assert FIELDS["train__epochs"] == LONG


def fields(**changes: object) -> dict[str, object]:
    return FIELDS | changes


@pytest.mark.slow
def test_it_ends_as_a_longer_sweep_does(
    swept: Path, data: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By all protocols, though it is stopped on the way, and from the command line."""
    path = runs / "carried on"
    short = run_sweep(tiny_config(data, **fields(train__epochs=SHORT)), path, SEEDS, GRID)
    capsys.readouterr()
    config = tiny_config(data, **FIELDS)
    interrupted_sweep(1 + 3, "step 28 of 48 of phase final of point 1/3", config, path, GRID)
    said = capsys.readouterr().err
    assert f"dedn: {path}: carried on from {SHORT} to {LONG} epochs; its result so far" in said
    assert read_json(path / f"result-{SHORT}-epochs.json") == short
    assert (path / f"sweep-{SHORT}-epochs.png").exists()
    for number, point in enumerate(short["points"]):
        assert read_json(path / f"points/{number}/result-{SHORT}-epochs.json") == point
    command = ["sweep", "--config=base", f"--workdir={path}", f"--seeds={SEEDS}"]
    command += [f"--grid={GRID[0]}", *tiny_overrides(data, **FIELDS)]
    assert cli.main(command) == 0
    assert "carried on" not in capsys.readouterr().err
    assert read(path) == read(swept)
    assert (path / "sweep.png").exists()


@pytest.mark.parametrize(
    ("grid", "refused"),
    [
        (
            [],
            [
                ({"train__epochs": 1}, r"another sweep \(train.epochs=2 there, 1 now\)"),
                ({"train__epochs": 9, "seed": 1}, r"another sweep \(seed=0 there, 1 now\)"),
            ],
        ),
        # Of the points, the first has more epochs than the config.
        (["train.epochs=3,1"], [({"train__epochs": 9}, r"train.epochs=2 there, 9 now")]),
        (
            ["optimizer.schedule=constant,cosine"],
            [
                (
                    {"train__epochs": 9},
                    r"a sweep of 2 epochs, over which .*schedule=cosine\); choose another "
                    r"directory$",
                )
            ],
        ),
    ],
)
def test_what_cannot_be_carried_on(
    grid: list[str], refused: list[tuple[dict[str, object], str]], data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sweep"
    short = fields(train__epochs=2, selection__protocol="last")
    run_sweep(light_config(data, **short), path, 1, grid)
    before = read(path)
    for changes, said in refused:
        with pytest.raises(InputError, match=said):
            run_sweep(light_config(data, **short | changes), path, 1, grid)
        assert read(path) == before
