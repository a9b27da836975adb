"""The `result.json` of a run, checked when it is read: people edit, copy and restore files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.training.calibration import Calibration
from dedn_jax.training.evaluation import AUSUC, EXPERTS, METRICS
from dedn_jax.training.phases import SELECTED_BY


def read_result(path: Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Raises:
      InputError: a field that others rely on is missing, or is not what a training writes there.
    """
    result = read_json(path)
    try:
        _check(result)
    except ValueError as error:
        raise InputError(
            f"{path}: {error}; restore the file, or remove it and give the `dedn train` command of "
            "the run again"
        ) from error
    if result.get("calibration"):
        Calibration.from_json(result["calibration"], path)
    return result


def _check(result: dict[str, Any]) -> None:
    """Raises ValueError."""
    _text("protocol", result)
    if result["protocol"] not in SELECTED_BY:
        raise _unexpected("protocol", result, f"one of {', '.join(SELECTED_BY)}")
    _text("selected_by", result)
    for field in ("seed", "steps", "selected_step"):
        _whole(field, result)
    _metrics("test", result)
    if result.get("test_best_t1"):
        best = _object("test_best_t1", result)
        _number("T1", best, "test_best_t1.")
        _whole("step", best, "test_best_t1.")
    if "validation" in result:
        for field in ("steps", "selected_step"):
            _whole(field, _object("validation", result), "validation.")
        _metrics("validation", result)
    if result.get("calibration") or result.get("test_calibrated"):
        _text("chosen_on", _object("calibration", result), "calibration.")
        _metrics("test_calibrated", result)


def _metrics(field: str, result: dict[str, Any]) -> None:
    of_experts = _object(field, result)
    # A model may lack the coarse or the fine expert, not both.
    least = ["fused", next((e for e in EXPERTS if e in of_experts), EXPERTS[0])]
    for expert in (e for e in EXPERTS if e in of_experts or e in least):
        found, where = _object(expert, of_experts, f"{field}."), f"{field}.{expert}."
        # Without images of unseen classes there is S alone; older runs have no AUSUC.
        for metric in METRICS if "U" in found or "H" in found else ("S",):
            _number(metric, found, where)
        if AUSUC in found:
            _number(AUSUC, found, where)


def _object(field: str, record: dict[str, Any], where: str = "") -> dict[str, Any]:
    found = record.get(field)
    if not isinstance(found, dict):
        raise _unexpected(field, record, "an object", where)
    return found


def _text(field: str, record: dict[str, Any], where: str = "") -> None:
    if not isinstance(record.get(field), str):
        raise _unexpected(field, record, "text", where)


def _whole(field: str, record: dict[str, Any], where: str = "") -> None:
    if type(record.get(field)) is not int:
        raise _unexpected(field, record, "a whole number", where)


def _number(field: str, record: dict[str, Any], where: str) -> None:
    found: Any = record.get(field)
    # Metrics are percentages or shares; NaN is neither.
    if type(found) not in (int, float) or not 0 <= found <= 100 + 1e-6:
        raise _unexpected(field, record, "a number from 0 to 100", where)


def _unexpected(field: str, record: dict[str, Any], expected: str, where: str = "") -> ValueError:
    if field not in record:
        return ValueError(f"{where}{field} is missing, expected {expected}")
    return ValueError(f"{where}{field} is {repr(record[field])[:64]}, expected {expected}")
