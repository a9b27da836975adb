"""The `result.json` of a run, checked when it is read: people edit, copy and restore files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dedn_jax.files import read_json
from dedn_jax.json_values import OBJECT, TEXT, Kind, listed, one_of, optional, record, whole
from dedn_jax.training.phases import SELECTED_BY
from dedn_jax.training.saved_kinds import BEST_T1, CALIBRATION, METRICS_OF_EXPERTS

_VALIDATION = replace(
    OBJECT,
    parts=lambda found: iter(
        [
            *record({"steps": whole(0), "selected_step": whole(0)}).parts(found),
            *METRICS_OF_EXPERTS.parts(found),
        ]
    ),
)
_ALWAYS = {
    "protocol": one_of(*SELECTED_BY),
    "selected_by": TEXT,
    "seed": whole(),
    "steps": whole(0),
    "selected_step": whole(0),
    "test": METRICS_OF_EXPERTS,
}
_CALIBRATED = {
    "calibration": replace(
        OBJECT,
        parts=lambda found: iter(
            [*record({"chosen_on": TEXT}).parts(found), *CALIBRATION.parts(found)]
        ),
    ),
    "test_calibrated": METRICS_OF_EXPERTS,
}
_VALIDATED = {"validation": _VALIDATION, "refit": one_of("retrain", "continue")}
_OTHERS = {
    "validation_classes": record({"chosen_by": TEXT, "names": listed(TEXT)}),
    "test_best_t1": optional(BEST_T1),
}


def _parts(found: dict[str, Any]) -> Iterator[tuple[str, Any, Kind]]:
    """What comes together is there together."""
    required = dict(_ALWAYS)
    if found.get("calibration") or found.get("test_calibrated"):
        required |= _CALIBRATED
    if "validation" in found:
        required |= _VALIDATED
    return record(required, _OTHERS).parts(found)


def read_result(path: Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Raises:
      InputError: a field that others rely on is missing, or is not what a training writes there.
    """
    return read_json(
        path,
        replace(OBJECT, parts=_parts),
        "restore the file, or remove it and give the `dedn train` command of the run again",
    )
