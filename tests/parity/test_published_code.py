"""Our code beside the published code itself, where a checkout of it is at hand."""

from __future__ import annotations

import os

import pytest

from dedn_jax.config import load_config

torch = pytest.importorskip("torch", reason="needs PyTorch: make torch")

from dedn_jax.interop.compare import compare, comparison_text  # noqa: E402

REFERENCE = os.environ.get("DEDN_REFERENCE_DIR", "")
EXPERTS = ("coarse", "fine")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        not REFERENCE, reason="DEDN_REFERENCE_DIR does not name a checkout of zjrao/DEDN"
    ),
]


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("cub_gzsl", ["--config.loss.calibration_weight=0.18"]),
        ("sun_gzsl", ["--config.loss.calibration_weight=0.1"]),
        ("awa2_gzsl", []),
    ],
)
def test_published_code(recipe: str, overrides: list[str]) -> None:
    config = load_config(recipe, ["--config.train.batch_size=8", *overrides])
    assert config.loss.calibration_weight > 0
    report = compare(REFERENCE, config, steps=20, channels=32, side=3)
    assert report["outputs_max_rel"] < 2e-5
    assert report["losses_max_rel"] < 2e-5
    assert report["gradients_max_rel"] < 2e-5
    assert report["trajectory_max_rel"] < 1e-3
    # Nothing is left out of the comparison: every term and every tensor of every network.
    details = report["details"]
    assert len(details["outputs"]) == 8
    assert set(details["losses"]) == {
        "agreement",
        "total",
        *(f"{t}_{e}" for t in ("cross_entropy", "calibration", "alignment") for e in EXPERTS),
    }
    networks = {"cub": 7, "sun": 5, "awa2": 5}[report["recipe_model"]]
    tensors = networks * (6 if config.model.rank else 5)
    assert len(details["gradients"]) == len(details["trajectory"]) == tensors
    assert f"Published {report['recipe_model']} model" in comparison_text(report)
