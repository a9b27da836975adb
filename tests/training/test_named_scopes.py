"""The parts of a step keep their names in the compiled program, where a profile reads them."""

from __future__ import annotations

import re

import jax

from dedn_jax.config import load_config
from dedn_jax.parallel.mesh import Layout
from dedn_jax.plan.programs import abstract_features, train_program
from dedn_jax.plan.sizes import Sizes
from tests.helpers.devices import run_on_devices

SCOPES = {"fold", "region", "channel", "losses", "optimizer", "lookup", "exchange"}
# The gradient's operations keep the scope of what they are the gradient of.
WITH_GRADIENT = {"fold", "region", "channel", "losses"}


def names(devices: int) -> tuple[set[str], set[str]]:
    """Scopes in the operations of a compiled step, and those in its gradient's operations."""
    sizes = Sizes("", 96, 128, 5, 12, 64, 9, ((0, 1, 2), tuple(range(3, 12))), 6, "float32", 0, 7)
    layout = Layout.of_devices(jax.devices()[:devices])
    features = abstract_features(sizes, "sharded" if devices > 1 else "replicated", layout)
    program = train_program(load_config("cub_gzsl"), sizes, sizes.batch, layout, features=features)
    text = program.lower(layout).compile().as_text()
    everywhere: set[str] = set()
    gradient: set[str] = set()
    for name in re.findall(r'op_name="([^"]*)"', text):
        scopes = SCOPES & set(re.split(r"[/()]", name))
        everywhere |= scopes
        if "transpose(" in name:
            gradient |= scopes
    return everywhere, gradient


def test_one_device() -> None:
    everywhere, gradient = names(1)
    assert everywhere == SCOPES - {"exchange"}
    assert gradient == WITH_GRADIENT


def test_sharded() -> None:
    """Two devices exchange images and gradients."""
    output, _ = run_on_devices("-m", "tests.training.test_named_scopes", devices=2, quick=True)
    assert set(output.split()) == SCOPES


if __name__ == "__main__":
    print(*names(2)[0])
