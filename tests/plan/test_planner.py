"""Rows and the table, with answers made up in place of a compiler's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.parallel.mesh import Layout
from dedn_jax.plan.chips import parse_slice
from dedn_jax.plan.floor import attention_floor
from dedn_jax.plan.planner import MAX_EXTRA, padded, plan
from dedn_jax.plan.programs import train_program
from dedn_jax.plan.report import duration, plan_text
from dedn_jax.plan.sizes import find_sizes

_CHIPS = {"v5e:2x4": 8, "v5e:4x8": 32, "v4:2x2x4": 16}
_SCHEDULE = {
    "seconds": 2e-3,
    "compute": 1e-3,
    "memory": 1.5e-3,
    "exchange": 0.2e-3,
    "latency": 0.3e-3,
    "read": 1e9,
    "written": 0.2e9,
    "kernels": 0,
    "operations": 1000,
}


class Compiler:
    """Needs `size` bytes for an image of float32 maps, half as many for one of bfloat16.

    Maps that stay on the chips take `kept` bytes of each.
    """

    def __init__(self, size: float, kept: float = 0) -> None:
        self.size, self.kept = size, kept
        self.schedule = dict(_SCHEDULE)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        json.dumps(request)
        self.asked.append(request)
        chips = _CHIPS[request["topology"]]
        size = self.size * (0.5 if request["sizes"]["dtype"] == "bfloat16" else 1)
        needed = request["images"] // chips * size
        kept = self.kept * (request["residency"] != "never")
        needed += kept
        if needed > 64e9:
            return {"kind": "memory", "error": "", "needed": needed, "have": 16e9}
        return {
            "chips": chips,
            "arguments": needed,
            "resident": kept,
            "outputs": 0,
            "aliased": 0,
            "temporaries": 0,
            "code": 0,
            "flops": 1e9,
            "flops_bfloat16": 0,
            "parameters": 40e6,
            "state": 120e6,
            "model_state": 120e6,
            "schedule": self.schedule,
            "unknown_loops": 0,
            "collectives": {"all-reduce": {"count": 1, "bytes": 1e6}},
            "compile_seconds": 2.0,
        }


def _plan(
    size: float, names: str, *overrides: str, kept: float = 0
) -> tuple[dict[str, Any], Compiler]:
    config = load_config("cub_gzsl", ["--config.data.path=none", *overrides])
    compiler = Compiler(size, kept)
    slices = [parse_slice(n) for n in names.split(",")]
    sizes = find_sizes(config, "cub_gzsl", {})
    return plan(config, sizes, slices, timeout=1, compile_one=compiler), compiler


def test_floor_and_schedule_stand_side_by_side() -> None:
    report, _ = _plan(1e6, "v5e:2x4,v4:2x2x4")
    row = report["rows"][0]
    assert row["step_seconds"] == 2e-3 and row["bound"] == "memory"
    assert row["floor"]["seconds"] == max(
        row["floor"][k] for k in ("compute", "memory", "exchange")
    )
    text = plan_text(report)
    assert "2.000 (memory)" in text and f"{1e3 * row['floor']['seconds']:.3f} (compute)" in text
    assert "compute 1, memory 1.5, exchange 0.2, latency 0.3 ms, each as if alone" in text
    assert "1.20" in text  # GB moved: what the schedule reads and writes


def test_kernels_without_a_schedule_take_at_least_their_floor() -> None:
    config = load_config("cub_gzsl", ["--config.data.path=none"])
    sizes, on = find_sizes(config, "cub_gzsl", {}), parse_slice("v5e:2x4")
    compiler = Compiler(1e6)
    compiler.schedule["kernels"] = 4
    report = plan(config, sizes, [on], timeout=1, compile_one=compiler)
    least = attention_floor(config, sizes, 7, on.chip).seconds
    assert report["rows"][0]["step_seconds"] == pytest.approx(2e-3 + least)
    assert "4 fused kernels have no schedule" in plan_text(report)


def test_chip_hours_and_their_price() -> None:
    config = load_config("cub_gzsl", ["--config.data.path=none"])
    sizes, slices = find_sizes(config, "cub_gzsl", {}), [parse_slice("v5e:2x4")]
    report = plan(config, sizes, slices, timeout=1, compile_one=Compiler(1e6), prices={"v5e": 1.5})
    (row,) = report["rows"]
    assert row["chip_hours"] == pytest.approx(8 * 11291 * 2e-3 / 3600)
    assert row["price"] == pytest.approx(1.5 * row["chip_hours"])
    assert "| price" in plan_text(report)
    assert "| price" not in plan_text(_plan(1e6, "v5e:2x4")[0])


def test_hints_follow_from_the_numbers() -> None:
    report, _ = _plan(1e6, "v5e:2x4")
    (half,) = report["rows"][0]["hints"]
    # Six passes of 7 images' products are 5/6 of what can be saved: 0.71 of 2 ms.
    assert half.startswith(
        "--config.data.dtype=bfloat16: products of float32 maps take 6 times as long"
    )
    assert "(0.71 of 2.00 ms)" in half and "9.46 GB of maps on every chip instead of 18.93" in half
    flags = ["--config.data.dtype=bfloat16", "--config.model.precision=bfloat16"]
    (sweep,) = _plan(1e6, "v5e:4x8", *flags)[0]["rows"][0]["hints"]
    assert sweep.startswith("`dedn sweep --seeds=32`, one model a chip: 32 chips together are 0.5")


def test_a_larger_batch_is_hinted_at_where_most_of_a_step_stays_the_same() -> None:
    flags = ["--config.data.dtype=bfloat16", "--config.model.precision=bfloat16"]
    config = load_config("cub_gzsl", ["--config.data.path=none", *flags])
    compiler = Compiler(1e6)
    # Of 2.5 ms the exchange takes 1.7, the state 0.29 and the folding 0.03.
    compiler.schedule |= {"seconds": 2.5e-3, "exchange": 1.7e-3}
    sizes, on = find_sizes(config, "cub_gzsl", {}), parse_slice("v5e:4x8")
    (row,) = plan(config, sizes, [on], timeout=1, compile_one=compiler)["rows"]
    # 64 images, of which 14 are padding, four times: 2.02 ms and four times 0.48.
    (hint,) = [h for h in row["hints"] if "batch_size" in h]
    assert "--config.train.batch_size=256 --config.optimizer.scale_with_batch=True" in hint
    assert "(learning rate 0.00051): 5.1 times the images in about 3.94 ms a step" in hint


def test_batches_are_filled_up_and_it_is_said() -> None:
    report, compiler = _plan(1e6, "v5e:2x4,v4:2x2x4")
    assert [r["images"] for r in compiler.asked] == [56, 64]
    text = plan_text(report)
    assert "50 -> 56" in text and "50 -> 64" in text
    assert report["rows"][0]["steps"] == 7057 * 80 // 50
    assert padded(64, 8) == 64


def test_what_does_not_fit_says_what_would() -> None:
    report, compiler = _plan(3e9, "v5e:2x4,v5e:4x8", "--config.data.on_device=never")
    small, large = report["rows"]
    assert not small["fits"] and large["fits"]
    assert small["instead"] == ["v5e:4x8 fits", "--config.data.dtype=bfloat16 fits (10.50 GB)"]
    assert len(compiler.asked) == 3
    text = plan_text(report)
    assert "does not fit: needs 21.00 GB of 17.18 GB" in text
    assert "--config.data.dtype=bfloat16" in text


def test_no_more_than_two_compilations_are_spent_on_that() -> None:
    flags = ["--config.train.batch_size=640", "--config.data.on_device=never"]
    report, compiler = _plan(5e9, "v5e:2x4,v4:2x2x4", *flags)
    assert len(compiler.asked) == 2 + MAX_EXTRA
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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (99.4, "99.4 s"), (600, "10.0 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_plan_is_json(tmp_path: Path) -> None:
    report, _ = _plan(1e6, "v5e:2x4")
    (tmp_path / "plan.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("flags", "residency", "text"),
    # 11788 maps of 2048 x 196 take 18.9 GB, half of it in bfloat16; a chip has 17.2 GB.
    [
        ([], "sharded", "18.93 GB of feature maps, resident, sharded over the chips"),
        (["data.dtype=bfloat16"], "replicated", "9.46 GB of feature maps, resident on every chip"),
        (
            ["data.on_device=replicated"],
            "replicated",
            "18.93 GB of feature maps, resident on every chip",
        ),
        (["data.on_device=never"], "never", "feature maps, streamed from the host"),
        (["distribution.strategy=pmap"], "never", "feature maps, streamed from the host"),
        (["distribution.attribute_shards=8"], "never", "feature maps, streamed from the host"),
    ],
)
def test_where_feature_maps_stay(flags: list[str], residency: str, text: str) -> None:
    report, compiler = _plan(1e6, "v5e:2x4", *(f"--config.{flag}" for flag in flags))
    (row,), (asked,) = report["rows"], compiler.asked
    assert row["residency"] == asked["residency"] == residency
    assert text in plan_text(report)


def test_a_chip_alone_has_no_part_of_the_images() -> None:
    flags = ["--config.data.on_device=sharded", "--config.distribution.attribute_shards=8"]
    with pytest.raises(
        InputError, match=r"v5e:2x4: config.data.on_device=sharded: a batch has one"
    ):
        _plan(1e6, "v5e:2x4", *flags)


def test_maps_that_leave_a_step_no_room_can_be_sent() -> None:
    report, compiler = _plan(1e9, "v5e:2x4", kept=15e9)
    assert [r["residency"] for r in compiler.asked] == ["sharded", "never"]
    assert report["rows"][0]["instead"] == ["--config.data.on_device=never fits (7.00 GB)"]
    flags = ["--config.data.on_device=replicated"]
    report, compiler = _plan(1e9, "v5e:2x4", *flags, kept=15e9)
    assert [r["residency"] for r in compiler.asked] == [
        "replicated",
        "sharded",
        "replicated",
    ]  # the last in bfloat16
    # One chip for each part of the rows: there is nothing to cut.
    flags.append("--config.distribution.attribute_shards=8")
    report, compiler = _plan(5e8, "v5e:2x4", *flags, kept=15e9)
    assert [r["residency"] for r in compiler.asked] == ["replicated", "never"]


def test_pictures_cannot_stay_on_the_chips() -> None:
    flags = ["source=images", "format=prepared", "on_device=replicated"]
    flags = [f"--config.data.{flag}" for flag in flags]
    with pytest.raises(InputError, match="on_device=replicated: pictures cannot be resident, only"):
        _plan(1e6, "v5e:2x4", *flags)


def test_attribute_shards_leave_fewer_parts_of_a_batch() -> None:
    _, compiler = _plan(1e6, "v5e:2x4", "--config.distribution.attribute_shards=4")
    assert compiler.asked[0]["images"] == 50
    _, compiler = _plan(1e6, "v5e:2x4")
    assert compiler.asked[0]["images"] == 56


def test_a_teacher_and_missing_parts_are_in_the_step() -> None:
    """FLOPs of the step: a forward pass more with a teacher, a branch or an expert less without."""
    sizes = find_sizes(load_config("awa2_gzsl"), "awa2_gzsl", {"channels": 32, "regions": 9})

    def flops(*overrides: str) -> float:
        config = load_config("awa2_gzsl", overrides)
        return float(train_program(config, sizes, 50, Layout.of_devices()).flops().total)

    whole = flops()
    assert 1.2 * whole < flops("--config.teacher.workdir=runs/all") < 1.5 * whole
    assert flops("--config.model.branches=region") < 0.75 * whole
    assert flops("--config.model.experts=fine") < 0.6 * whole
