"""What the start of a training says about the kernel of attention pooling."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.model.experts import DualExpert
from dedn_jax.training.network import NONE_FROZEN, Network
from dedn_jax.training.phases import note_kernel


@pytest.mark.parametrize(
    ("choice", "kernel", "said"),
    [("auto", "pallas", True), ("auto", "tpu", False), ("pallas", "pallas", False)],
)
def test_unmeasured_kernels_are_named_unless_asked_for(
    choice: str, kernel: str, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.eye(3, dtype=np.float32)
    experts = DualExpert(
        vectors,
        {"all": [0, 1, 2]},
        channels=4,
        regions=2,
        rngs=nnx.Rngs(0),
        kernel=kernel,  # type: ignore[arg-type]
    )
    config = ConfigDict({"model": {"kernel": choice}})
    trainer = SimpleNamespace(network=Network(*nnx.split(experts), NONE_FROZEN), config=config)
    note_kernel(trainer)  # type: ignore[arg-type]
    text = capsys.readouterr().err
    assert ("scheduled, not measured" in text) == said
    assert len(text.splitlines()) == said
