"""The `result.json` of a sweep and of its points, checked when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedn_jax.files import read_json
from dedn_jax.json_values import OBJECT, TEXT, listed, number, one_of, optional, record, whole
from dedn_jax.sweep.choice import TEST, VALIDATION
from dedn_jax.sweep.report import COLUMNS
from dedn_jax.training.selection import METRIC_KEYS

_AGAIN = "remove it and give the sweep's command again"
_SUMMARY = record(
    {
        "mean": number(),
        "deviation": optional(number()),
        "interval": optional(listed(number(), 2)),
        "values": listed(number()),
    }
)
_SUMMARIES = record({}, dict.fromkeys(COLUMNS, _SUMMARY))
_POINT = record(
    {
        "fields": OBJECT,
        "selected_by": TEXT,
        "fused": _SUMMARIES,
        "diverged_at": listed(optional(whole(0))),
    },
    {
        "name": TEXT,
        "protocol": TEXT,
        **dict.fromkeys((TEST[1], *VALIDATION), _SUMMARIES),
    },
)
_RESULT = record(
    {"seeds": listed(whole(), least=1), "shared": TEXT, "points": listed(_POINT, least=1)},
    {"metric": one_of(*METRIC_KEYS)},
)


def read_sweep_result(path: Path) -> dict[str, Any]:
    """Reads the result of a finished sweep.

    Raises:
      InputError: a field that others rely on is missing, or is not what a sweep writes there.
    """
    return read_json(path, _RESULT, _AGAIN)


def read_point(path: Path) -> dict[str, Any]:
    """Reads the result of a finished point of a sweep; raises as `read_sweep_result`."""
    return read_json(path, _POINT, _AGAIN)
