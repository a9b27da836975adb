"""Which states are sharded, and what of them a device then has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.model.experts import DualExpert
from dedn_jax.parallel.mesh import COLUMNS, REPLICATED, SHARDED, Layout
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import init_state
from tests.helpers.devices import run_on_devices

CHANNELS = 16


def model(channels: int = CHANNELS, rank: int = 0, branches: str = "both") -> nnx.State:
    vectors = np.random.default_rng(0).standard_normal((5, 7))
    experts = DualExpert(
        vectors,
        "0-3;4",
        channels=channels,
        regions=6,
        rank=rank,
        rngs=nnx.Rngs(0),
        branches=branches,  # type: ignore[arg-type]
    )
    return nnx.state(experts, nnx.Param)


def test_on_eight_devices() -> None:
    run_on_devices("-m", "tests.parallel.test_sharded_state")


def check_on_eight_devices() -> None:
    """Needs eight devices: a process of its own."""
    config = load_config("base", {"optimizer.ema_decay": 0.5, "model.rank": 2})
    assert Layout.from_config(config, model()).shard_state is False  # auto, on CPUs
    config.distribution.state = "sharded"
    layout = Layout.from_config(config, model(rank=2))
    assert layout.shard_state
    assert "sharded over 8 devices, as distribution.state=auto" in layout.state_note("auto")
    assert not layout.state_note("sharded")
    assert not Layout.of_devices().state_note("auto")
    state = init_state(model(rank=2), make_optimizer(config))
    placed = layout.place_state(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(placed):
        own = leaf.addressable_shards[0].data.shape
        if leaf.shape[-1:] == (CHANNELS,):
            assert own == (leaf.shape[0], CHANNELS // 8), path
        else:
            assert own == leaf.shape, path
    # Matrices with a column for each channel, of three networks: parameters, two slots, average.
    sharded = [leaf for leaf in jax.tree.leaves(placed) if leaf.shape[-1:] == (CHANNELS,)]
    assert len(sharded) == 2 * 3 * 4
    back = layout.gather_state(placed)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(back))
    same = jax.tree.map(jnp.array_equal, state, back)
    assert all(jax.tree.leaves(same))
    _check_gather(layout)
    with pytest.raises(InputError, match="12 channels cannot be divided over the 8 shards"):
        Layout.from_config(config, model(12))
    with pytest.raises(InputError, match="a model without region branches cannot be divided"):
        Layout.from_config(config, model(branches="channel"))


def _check_gather(layout: Layout) -> None:
    """Rows are sent in bfloat16, the gradients of eight devices summed in float32."""
    columns = layout.axes.columns
    assert columns is not None
    rows = jnp.asarray(np.random.default_rng(1).random((3, CHANNELS)), jnp.float32)
    # A bfloat16 sum of one large and seven small numbers would lose these.
    cotangents = jnp.where(jnp.arange(8) == 0, 1.0, 2.0**-10).astype(jnp.float32)

    def gathered(local: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, pull = jax.vjp(lambda x: columns.gather(x, jnp.bfloat16), local)
        (gradient,) = pull(jnp.full_like(found, cotangent[0]))
        return found, gradient

    found, gradient = jax.jit(
        layout.map_over_batch(gathered, (COLUMNS, SHARDED), (REPLICATED, COLUMNS))
    )(rows, cotangents)
    assert found.dtype == gradient.dtype == jnp.float32
    np.testing.assert_array_equal(found, rows.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(gradient, np.full((3, CHANNELS), 1 + 7 * 2.0**-10, np.float32))


def test_one_device_has_all() -> None:
    config = load_config("base", {"distribution.state": "sharded"})
    layout = Layout.from_config(config, model(), jax.devices()[:1])
    state = {"coarse": {"region_score": jnp.ones((2, CHANNELS))}}
    assert layout.gather_state(layout.place_state(state)) is not None
    assert layout.axes.columns is None


if __name__ == "__main__":
    check_on_eight_devices()
