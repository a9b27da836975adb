"""GPUs that are not there: figures, estimate, and a real compilation where XLA for CUDA is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.plan import gpus
from dedn_jax.plan.compile import compile_program
from dedn_jax.plan.floor import Floor
from dedn_jax.plan.gpus import GPUS, LAUNCH, cuda_tools, description, parse_device
from dedn_jax.plan.planner import estimate, plan
from dedn_jax.plan.report import plan_text
from dedn_jax.plan.sizes import Sizes, find_sizes
from tests.plan.answers import made_up_answer

_ASSEMBLED = {"kernels": 182, "most_registers": 107, "spilling": {}, "with_matrix_units": 36}
_LAUNCHES = {"launches": 400, "in_loops": 70, "read": 3e9, "written": 0.35e9}


def _answer(request: dict[str, Any], timeout: float) -> dict[str, Any]:
    assert (request["platform"], request["topology"]) == ("cuda", "h100")
    return made_up_answer(flops=2e11, launches=_LAUNCHES, assembled=_ASSEMBLED)


def test_an_estimate_is_called_one() -> None:
    fields = {"data.path": "none", "data.dtype": "bfloat16", "model.precision": "bfloat16"}
    config = load_config("cub_gzsl", fields)
    sizes = find_sizes(config, "cub_gzsl", {})
    report = plan(config, sizes, [parse_device("h100")], timeout=1, compile_one=_answer)
    (row,) = report["rows"]
    assert row["schedule"] is None
    # 200.4 GFLOP with bfloat16 maps; 5.07 with float32 rows, which take twice as long.
    assert row["floor"]["compute"] == pytest.approx((200.4e9 + 2 * 5.07e9) / 989.4e12, rel=1e-3)
    assert row["step_seconds"] == pytest.approx(1e-3 + 400 * LAUNCH)
    text = plan_text(report)
    assert "1.800 (estimate, memory)" in text
    assert "400 launches a step, 70 of them in loops" in text and "nothing spilled" in text
    assert "neither scheduled nor measured" in text
    row["compiled"]["assembled"] = _ASSEMBLED | {"spilling": {"pool": 16}}
    assert "spilled: pool 16 bytes" in plan_text(report)


def test_launches_can_be_what_takes_longest() -> None:
    least = Floor(1e9, 1e6, 0.2e-3, 0.1e-3)
    found = estimate(least, _LAUNCHES | {"launches": 1000}, GPUS["h200"])
    assert found["memory"] == pytest.approx(3.35e9 / 4.8e12)
    assert max(found, key=lambda k: found[k]) == "latency"


def test_other_cards_are_refused() -> None:
    with pytest.raises(InputError, match="--device: 'h9', expected h100 or h200"):
        parse_device("h9")


def test_the_description_has_the_cards_figures() -> None:
    text = description(GPUS["h200"])
    assert "memory_bandwidth: 4800000000000\n" in text
    assert 'device_description_str: "NVIDIA H200"' in text
    assert text.count("{") == text.count("}") == 3


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs XLA for CUDA: pip install 'dedn-jax\[gpu-plan\]'"):
        cuda_tools()


@pytest.mark.jax_cuda12_plugin
def test_a_step_for_a_card() -> None:
    sizes = Sizes("", 1000, 1200, 16, 8, 64, 16, (tuple(range(8)),), 8, "bfloat16", 0, 8)
    request = {
        "platform": "cuda",
        "topology": "h100",
        "job": "train",
        "config": load_config("cub_gzsl", {"model.precision": "bfloat16"}).to_dict(),
        "sizes": dataclasses.asdict(sizes),
        "images": 8,
        "residency": "never",
    }
    answer = compile_program(request, 300)
    assert "schedule" not in answer
    assert answer["assembled"]["kernels"] > 10
    assert answer["assembled"]["spilling"] == {}
    assert answer["launches"]["launches"] >= answer["assembled"]["kernels"] / 2
    # Parameters and both slots of the optimiser are read and written.
    assert min(answer["launches"][k] for k in ("read", "written")) > answer["state"]
