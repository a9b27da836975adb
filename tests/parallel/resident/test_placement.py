"""Where feature maps are resident, and that they are the same wherever they come from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.data.features.maps import FeatureMaps, InMemoryFeatures
from dedn_jax.errors import InputError
from dedn_jax.parallel.mesh import REPLICATED, SHARDED, Layout
from dedn_jax.parallel.resident import features as resident
from dedn_jax.parallel.resident import placement
from dedn_jax.parallel.resident.features import lookup
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.parallel.resident.rule import residency
from tests.helpers.devices import run_on_devices

IMAGES, CHANNELS, REGIONS = 37, 6, 4
PICTURES: Any = range(3)  # no feature maps


def maps(dtype: str = "float32") -> FeatureMaps:
    values = np.random.default_rng(0).standard_normal((IMAGES, CHANNELS, REGIONS))
    return InMemoryFeatures(values.astype(dtype))


def config(choice: str) -> ConfigDict:
    return load_config("cub_gzsl", [f"--config.data.on_device={choice}"])


def check_lookups() -> None:
    """On eight devices: every image found, wherever it lies, in every type, by any block size."""
    assert jax.device_count() == 8
    rng = np.random.default_rng(1)
    for shards in (1, 2):
        layout = Layout.of_devices(attribute_shards=shards)
        for dtype in ("float32", ml_dtypes.bfloat16):
            inputs = maps(dtype)
            for shard in (False, True):
                features = resident.make_resident(inputs, layout, shard=shard)
                lookup = layout.map_over_batch(
                    resident.lookup, (resident.features_spec(features), SHARDED), SHARDED
                )
                for block in (2**28, 8 * 2 * CHANNELS * REGIONS * 4, 1):
                    resident._BLOCK_BYTES = block
                    wanted = rng.integers(0, IMAGES, 48).astype(np.int32)
                    found = jax.jit(lookup)(features, wanted)
                    np.testing.assert_array_equal(np.asarray(found), inputs[wanted])
                    jax.clear_caches()
                each = -(-IMAGES // layout.num_shards) + 1 if shard else IMAGES  # one of zeros
                assert {s.data.shape[0] for s in features.maps.addressable_shards} == {each}


def test_lookups_on_eight_devices() -> None:
    code = "from tests.parallel.resident.test_placement import check_lookups; check_lookups()"
    run_on_devices("-c", code)


@pytest.mark.parametrize(
    ("free", "shards", "processes", "chosen", "by_half"),
    [
        (100, 1, 1, ("replicated", False), ("replicated", False)),
        (99, 1, 1, ("never", False), ("replicated", True)),
        (49, 1, 1, ("never", False), ("never", False)),
        (99, 2, 2, ("sharded", False), ("replicated", True)),
        (50, 2, 1, ("sharded", False), ("replicated", True)),
        (49, 2, 1, ("never", False), ("sharded", True)),
        (24, 2, 1, ("never", False), ("never", False)),
        (50, 32, 8, ("sharded", False), ("replicated", True)),
        (49, 32, 9, ("never", False), ("never", False)),
        (100, 32, 9, ("replicated", False), ("replicated", False)),
    ],
)
def test_residency(
    free: int,
    shards: int,
    processes: int,
    chosen: tuple[str, bool],
    by_half: tuple[str, bool],
) -> None:
    assert residency(60, free, shards, processes) == chosen
    assert residency(60, free, shards, processes, half=True) == by_half


def test_half_the_bits_before_streaming(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounded to what products would round them to; not where products are float32."""
    one = Layout.of_devices(jax.devices()[:1])
    monkeypatch.setattr(placement, "_free_bytes", lambda: IMAGES * CHANNELS * REGIONS * 4)
    settings = config("auto")
    assert place_features(maps(), settings, one) is None
    settings.model.precision = "bfloat16"
    found = place_features(maps(), settings, one)
    assert found is not None
    assert "GB of bfloat16, as model.precision would round them" in capsys.readouterr().err
    every = np.arange(IMAGES)
    expected = maps()[every].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(lookup(found, jnp.asarray(every)), expected)


@pytest.mark.parametrize(
    ("free", "text"),
    [
        (None, ""),
        (
            IMAGES * CHANNELS * REGIONS * 4,
            "streaming features from the host: 0.0 GB, more than 60% of the 0.0 GB that are free",
        ),
        (10**9, "resident features: 0.00 GB of float32, replicated"),
    ],
)
def test_auto_says_what_it_does(
    free: int | None,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(placement, "_free_bytes", lambda: free)
    found = place_features(maps(), config("auto"), Layout.of_devices(jax.devices()[:1]))
    assert (found is None) == (free != 10**9)
    assert text in capsys.readouterr().err
    if found is not None:
        every = np.arange(IMAGES)
        np.testing.assert_array_equal(lookup(found, jnp.asarray(every)), maps()[every])


class Chip:
    """A device that is no CPU."""

    platform = "tpu"

    def __init__(self, limit: int, used: int) -> None:
        self._statistics = {"bytes_limit": limit, "bytes_in_use": used} if limit else None

    def memory_stats(self) -> dict[str, int] | None:
        return self._statistics


@pytest.mark.parametrize(
    ("chips", "free"),
    [
        ([Chip(80 << 30, 1 << 30), Chip(80 << 30, 3 << 30)], 77 << 30),  # more than 32 bits hold
        ([Chip(80 << 30, 0), Chip(0, 0)], None),
    ],
)
def test_free_memory_is_that_of_the_fullest(
    chips: list[Chip], free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: chips)
    assert placement._free_bytes() == free


def test_refusals() -> None:
    one = Layout.of_devices(jax.devices()[:1])
    with pytest.raises(InputError, match="on_device=sharded: a batch has one shard here"):
        place_features(maps(), config("sharded"), one)
    for choice in ("sharded", "replicated"):
        with pytest.raises(InputError, match=f"on_device={choice}: pictures cannot be resident"):
            place_features(PICTURES, config(choice), one)
    assert place_features(PICTURES, config("auto"), one) is None
    assert resident.features_spec(None) == REPLICATED
