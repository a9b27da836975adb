"""The shapes of what a training saves as JSON, checked when it is read again.

People edit, copy and restore files, and work directories come from other people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dedn_jax.json_values import MISSING, OBJECT, Kind, number, optional, record, whole
from dedn_jax.training.evaluation import AUSUC, EXPERTS, METRICS

PERCENT = number(0, 100)  # NaN is none, and AUSUC is from 0 to 1
_SHARE = number(0, 1)


def _expert_parts(found: dict[str, Any]) -> Iterator[tuple[str, Any, Kind]]:
    # Of one test set alone there is S, or U and T1; older runs have no AUSUC.
    if "H" in found or {"U", "S"} <= found.keys():
        expected: tuple[str, ...] = METRICS
    else:
        expected = ("U", "T1") if "U" in found or "T1" in found else ("S",)
    for metric in expected:
        yield metric, found.get(metric, MISSING), PERCENT
    if AUSUC in found:
        yield AUSUC, found[AUSUC], PERCENT


def of_experts(kind: Kind) -> Kind:
    """An object by experts. A model may lack the coarse or the fine one, not both."""

    def parts(found: dict[str, Any]) -> Iterator[tuple[str, Any, Kind]]:
        least = next((e for e in EXPERTS if e in found), EXPERTS[0])
        for expert in EXPERTS:
            if expert in found or expert in (least, "fused"):
                yield expert, found.get(expert, MISSING), kind

    return replace(OBJECT, parts=parts)


EXPERT_METRICS = replace(OBJECT, parts=_expert_parts)
METRICS_OF_EXPERTS = of_experts(EXPERT_METRICS)
CALIBRATION = of_experts(
    record(
        {
            "region_mix": _SHARE,
            "expert_mix": _SHARE,
            "gamma": number(),
            "validation": EXPERT_METRICS,
        }
    )
)
BEST_T1 = record({"T1": PERCENT, "step": whole(0)})


def best(metric: str) -> Kind:
    """`Selection.best`, by a metric of the fused score."""
    needed = record(dict.fromkeys(("T1", metric), PERCENT))
    fused = replace(OBJECT, parts=lambda found: iter([*needed.parts(found), *_expert_parts(found)]))
    compared = record({"fused": fused})
    return record(
        {"step": whole(0), "metrics": optional(compared), "t1": optional(BEST_T1)},
    )


PHASE = record(
    {
        "steps": whole(0),
        "selected_step": whole(0),
        "selected_metrics": optional(METRICS_OF_EXPERTS),
        "best_t1": optional(BEST_T1),
    }
)
