"""What several modules give to the command."""

from __future__ import annotations

import pytest

from tests.made_up import backbone_weights


@pytest.fixture(scope="session")
def frozen_backbone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a small one: a step that trains it takes several times as long to compile."""
    weights = tmp_path_factory.mktemp("backbone") / "small.safetensors"
    backbone_weights(weights, "small")
    return ["--config.backbone.trained=false", f"--config.backbone.weights={weights}"]
