"""A damaged `result.json` is refused by the name of the field."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json
from dedn_jax.inference.report.write import write_report
from dedn_jax.inference.run import Run, open_run, train
from dedn_jax.training.result_file import read_result
from tests.helpers.tiny import tiny_config, write_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(
        write_tiny(folder / "tiny.hdf5"), selection__protocol="validation", train__epochs=3
    )
    return train(config, folder / "run")


def paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of nested objects."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, name)
        yield from paths(inner, (*path, name))


def changed(result: dict, path: tuple[str, ...], value: Any) -> dict:
    result = inner = copy.deepcopy(result)
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("protocol",), "best", r"protocol is 'best', expected one of validation, last"),
        (("seed",), 0.5, r"seed is 0.5, expected a whole number"),
        (("test", "fused", "H"), "58", r"test.fused.H is '58', expected a number from 0 to 100"),
        (("test", "fine"), None, r"test.fine is None, expected an object"),
        (("test_calibrated", "coarse", "U"), float("nan"), r"test_calibrated.coarse.U is nan"),
        (("validation",), {}, r"steps is missing, expected a whole number"),
        (("calibration", "chosen_on"), 3, r"calibration.chosen_on is 3, expected text"),
        (("calibration", "fused", "gamma"), float("nan"), r"calibration.fused.gamma is nan"),
        (
            ("calibration", "fine", "region_mix"),
            1.5,
            r"region_mix is 1.5, expected a number from 0",
        ),
    ],
)
def test_a_field_that_is_wrong(
    run: Run, tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    file = tmp_path / "result.json"
    write_json(file, changed(run.result, path, value))
    with pytest.raises(InputError, match=message) as error:
        read_result(file)
    assert str(file) in str(error.value)


def test_any_damage_is_refused_or_does_no_harm(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever passes can be reported."""
    for drawing in ("draw_learning", "draw_seen_unseen"):  # which takes the time
        monkeypatch.setattr(f"dedn_jax.inference.report.write.{drawing}", lambda _: "<svg></svg>")
    file = run.workdir.result_file
    good, scores = read_json(file), run.scores
    try:
        for path in paths(good):
            write_json(file, changed(good, path, "x"))
            damaged = open_run(run.workdir.path)
            damaged.scores = scores
            try:
                damaged.result  # noqa: B018
            except InputError:
                continue
            write_report(damaged, tmp_path)
    finally:
        write_json(file, good)


def test_results_of_earlier_versions_can_be_read(run: Run, tmp_path: Path) -> None:
    old = copy.deepcopy(run.result)
    for field in ("calibration", "test_calibrated"):
        del old[field]
    for field in ("test", "validation"):
        for expert in ("coarse", "fine", "fused"):
            del old[field][expert]["AUSUC"]
    file = tmp_path / "result.json"
    write_json(file, old)
    assert read_result(file) == old


@pytest.mark.parametrize("text", ["[" * 10**5, '{"seed": ' + "1" * 5000 + "}", "\0", '{"a"'])
def test_json_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(InputError, match="not readable as JSON") as error:
        read_json(file)
    assert "\n" not in str(error.value)


def test_damaged_lines_of_the_metrics_are_left_out_of_a_report(run: Run, tmp_path: Path) -> None:
    file = run.workdir.metrics_file
    good = file.read_text()
    write_report(run, tmp_path / "good")
    try:
        file.write_text(
            good
            + "[" * 10**5
            + '\n{"phase": [], "step": 1, "loss": 1.0}\n{"phase": "final", "step": "x"}\n'
            + '{"phase": "final", "step": 1, "loss": "x"}\n\0\n'
            + '{"phase": "final", "step": 1, "evaluated_on": "test", "fused": {"H": "x"}}\n'
        )
        write_report(run, tmp_path / "damaged")
    finally:
        file.write_text(good)
    pages = [(tmp_path / name / "index.html").read_text() for name in ("good", "damaged")]
    assert pages[0] == pages[1]
