"""Real compilations for slices that are not there; only where libtpu is installed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.plan.chips import parse_slice
from dedn_jax.plan.compile import compile_program
from dedn_jax.plan.exchange import HOP, hops, ring_bytes
from dedn_jax.plan.sizes import Sizes

pytestmark = pytest.mark.libtpu


def _request(topology: str, batch: int = 8) -> dict[str, Any]:
    sizes = Sizes("", 1000, 1200, 16, 8, 16, 12, (tuple(range(8)),), batch, "float32", 0, 8)
    return {
        "platform": "tpu",
        "topology": topology,
        "job": "train",
        "config": load_config("cub_gzsl", ["--config.model.precision=bfloat16"]).to_dict(),
        "sizes": dataclasses.asdict(sizes),
        "images": batch,
        "residency": "never",
    }


def test_a_step_for_eight_chips() -> None:
    answer = compile_program(_request("v5e:2x4"), 300)
    assert answer["chips"] == 8
    # Gradients of the folded rows, at least in bfloat16.
    assert answer["collectives"]["all-reduce"]["bytes"] >= 2 * 2 * 16 * (16 + 12)
    schedule = answer["schedule"]
    assert schedule["seconds"] > schedule["compute"] + schedule["latency"] > 0
    # Parameters and both slots of the optimiser are read and written.
    assert min(schedule["read"], schedule["written"]) > answer["state"]
    sums, far = answer["collectives"]["all-reduce"], hops("all-reduce", parse_slice("v5e:2x4"))
    sent = sum(ring_bytes(kind, c["bytes"], 8) for kind, c in answer["collectives"].items())
    assert schedule["exchange"] == pytest.approx(sent / 1e11)
    assert schedule["latency"] > sums["count"] * far * HOP


@pytest.mark.parametrize("residency", ["replicated", "sharded"])
def test_maps_stay_on_eight_chips(residency: str) -> None:
    plain = _request("v5e:2x4")
    plain["sizes"]["stored"] = 400000
    sent, found = (compile_program(r, 300) for r in (plain, plain | {"residency": residency}))
    assert found["flops"] == sent["flops"]
    image = 4 * 16 * 128  # 12 regions of 16 channels in whole tiles
    table = 400000 // (8 if residency == "sharded" else 1) * image
    assert 0 <= found["resident"] - table <= image  # and one of zeros
    assert abs(found["arguments"] - sent["arguments"] - table) < 2e4
    # The table is where it is: it is not turned around, or into bfloat16, before a step reads it.
    assert found["temporaries"] - sent["temporaries"] < 0.05 * table
    moved = [a["schedule"]["read"] + a["schedule"]["written"] for a in (found, sent)]
    assert moved[0] - moved[1] < 0.05 * table
    more = found["collectives"], sent["collectives"]
    # Eight indices are gathered in a way that XLA chooses, and as many images handed out.
    kinds = [sum(t["bytes"] for k, t in c.items() if k != "reduce-scatter") for c in more]
    assert kinds[0] - kinds[1] == (8 * 4 if residency == "sharded" else 0)
    handed = found["collectives"].get("reduce-scatter", {"bytes": 0})
    assert handed["bytes"] == (8 * image if residency == "sharded" else 0)


def test_a_fused_kernel_is_compiled() -> None:
    """Its cycles come from its code; the work that is counted stays the same."""
    request = _request("v5e:2x4", 16)
    request["sizes"] |= {"channels": 256, "regions": 16}
    request["config"]["model"]["kernel"] = "xla"
    plain = compile_program(request, 300)
    request["config"]["model"]["kernel"] = "pallas"
    fused = compile_program(request, 300)
    assert fused["flops"] == plain["flops"] > 0
    assert fused["schedule"]["kernels"] == 0 < fused["schedule"]["compute"]


def test_a_slice_that_cannot_be_has_examples() -> None:
    with pytest.raises(InputError, match=r"not divisible.*examples: v4:2x2x4"):
        compile_program(_request("v5e:3x7"), 300)
