"""Rows and the table, with answers made up in place of a compiler's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dedn_jax.config import load_config
from dedn_jax.plan.chips import parse_slice
from dedn_jax.plan.planner import MOST_EXTRA, padded, plan
from dedn_jax.plan.report import duration, plan_text
from dedn_jax.plan.shapes import problem_sizes

_CHIPS = {"v5e:2x4": 8, "v5e:4x8": 32, "v4:2x2x4": 16}


class Compiler:
    """Needs `size` bytes for an image of float32 maps, half as many for one of bfloat16."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        json.dumps(request)
        self.asked.append(request)
        chips = _CHIPS[request["topology"]]
        size = self.size * (0.5 if request["problem"]["dtype"] == "bfloat16" else 1)
        needed = request["images"] // chips * size
        if needed > 64e9:
            return {"kind": "memory", "error": "", "needed": needed, "have": 16e9}
        return {
            "chips": chips,
            "arguments": needed,
            "outputs": 0,
            "aliased": 0,
            "temporaries": 0,
            "code": 0,
            "flops_xla": 1e9,
            "bytes_xla": 1e9,
            "flops_outside_loops": 1e9,
            "flops_inside_loops": 0,
            "flops_bfloat16": 0,
            "trips": 7,
            "trips_compiled": 56,
            "unknown_loops": 0,
            "collectives": {"all-reduce": {"count": 1, "bytes": 1e6}},
            "compile_seconds": 2.0,
        }


def _plan(size: float, names: str, *overrides: str) -> tuple[dict[str, Any], Compiler]:
    config = load_config("cub_gzsl", ["--config.data.path=none", *overrides])
    compiler = Compiler(size)
    slices = [parse_slice(n) for n in names.split(",")]
    problem = problem_sizes(config, "cub_gzsl", {})
    return plan(config, problem, slices, timeout=1, compile_one=compiler), compiler


def test_batches_are_filled_up_and_it_is_said() -> None:
    report, compiler = _plan(1e6, "v5e:2x4,v4:2x2x4")
    assert [r["images"] for r in compiler.asked] == [56, 64]
    assert [r["compiled_as"] for r in compiler.asked] == [None, "megacore"]
    text = plan_text(report)
    assert "50 -> 56" in text and "50 -> 64" in text
    assert report["rows"][0]["steps"] == 7057 * 80 // 50
    assert "runs 56 times on each of them, 7 would be its part" in text
    assert padded(64, 8) == 64


def test_what_does_not_fit_says_what_would() -> None:
    report, compiler = _plan(3e9, "v5e:2x4,v5e:4x8")
    small, large = report["rows"]
    assert not small["fits"] and large["fits"]
    assert small["instead"] == ["v5e:4x8 fits", "--config.data.dtype=bfloat16 fits (10.50 GB)"]
    assert len(compiler.asked) == 3
    text = plan_text(report)
    assert "does not fit: needs 21.00 GB of 17.18 GB" in text
    assert "--config.data.dtype=bfloat16" in text


def test_no_more_than_two_compilations_are_spent_on_that() -> None:
    report, compiler = _plan(5e9, "v5e:2x4,v4:2x2x4", "--config.train.batch_size=640")
    assert len(compiler.asked) == 2 + MOST_EXTRA
    assert report["rows"][0]["instead"] == [
        "--config.data.dtype=bfloat16 does not (200.00 GB)",
        "--config.train.batch_size=20 fits (15.00 GB)",
    ]
    assert report["rows"][1]["instead"] == []
    assert "does not fit: needs at least 400.00 GB of 16.00 GB" in plan_text(report)


def test_recipes_with_a_backbone_have_an_extraction_step() -> None:
    report, compiler = _plan(1e6, "v5e:4x8", "--config.backbone.weights=some.pth")
    assert [r["job"] for r in compiler.asked] == ["train", "extract"]
    # Each of the 8 hosts has batches of its own.
    assert compiler.asked[1]["images"] == 8 * 100
    assert report["rows"][1]["steps"] == -(-7057 // 800)
    assert "backbone forward" in plan_text(report)


def test_every_chip_computes_its_own_part_of_a_training_batch() -> None:
    _, compiler = _plan(1e6, "v5e:2x4", "--config.backbone.weights=some.pth")
    assert [r["mapped"] for r in compiler.asked] == [True, False]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (99.4, "99.4 s"), (600, "10.0 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_plan_is_json(tmp_path: Path) -> None:
    report, _ = _plan(1e6, "v5e:2x4")
    (tmp_path / "plan.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("size", "dtype", "kept"),
    # 11788 maps of 2048 x 196 take 18.9 GB, half of it in bfloat16.
    [(1e6, "float32", "cut"), (1e6, "bfloat16", "always"), (2.2e9, "float32", "never")],
)
def test_whether_feature_maps_stay_on_the_chips(size: float, dtype: str, kept: str) -> None:
    report, _ = _plan(size, "v5e:2x4", f"--config.data.dtype={dtype}")
    row = report["rows"][0]
    assert row["maps"] == 11788 * 2048 * 196 * {"float32": 4, "bfloat16": 2}[dtype]
    assert row["kept"] == kept
    assert "of feature maps" in plan_text(report)


def test_attribute_shards_leave_fewer_parts_of_a_batch() -> None:
    _, compiler = _plan(1e6, "v5e:2x4", "--config.distribution.attribute_shards=4")
    assert compiler.asked[0]["images"] == 50
    _, compiler = _plan(1e6, "v5e:2x4")
    assert compiler.asked[0]["images"] == 56
