"""Where feature maps are kept, and that they are the same wherever they come from."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.data.features.maps import FeatureMaps, InMemoryFeatures
from dedn_jax.errors import InputError
from dedn_jax.parallel.mesh import CUT, WHOLE, Layout
from dedn_jax.parallel.resident import placement as kept_features
from dedn_jax.parallel.resident import table as feature_table
from dedn_jax.parallel.resident.placement import keep_features
from dedn_jax.parallel.resident.rule import residency

IMAGES, CHANNELS, REGIONS = 37, 6, 4
PICTURES: Any = range(3)  # no feature maps


def maps(dtype: str = "float32") -> FeatureMaps:
    values = np.random.default_rng(0).standard_normal((IMAGES, CHANNELS, REGIONS))
    return InMemoryFeatures(values.astype(dtype))


def config(choice: str) -> ConfigDict:
    return load_config("cub_gzsl", [f"--config.data.on_device={choice}"])


def check_tables() -> None:
    """On eight devices: every image found, wherever it lies, in every type and in several turns."""
    assert jax.device_count() == 8
    rng = np.random.default_rng(1)
    for shards in (1, 2):
        layout = Layout.of_devices(attribute_shards=shards)
        for dtype in ("float32", ml_dtypes.bfloat16):
            inputs = maps(dtype)
            for cut in (False, True):
                table = feature_table.make_table(inputs, layout, cut=cut)
                look_up = layout.over_batch(
                    feature_table.look_up, (feature_table.table_spec(table), CUT), CUT
                )
                for block in (2**28, 8 * 2 * CHANNELS * REGIONS * 4, 1):
                    feature_table._BLOCK_BYTES = block
                    wanted = rng.integers(0, IMAGES, 48).astype(np.int32)
                    found = jax.jit(look_up)(table, wanted)
                    np.testing.assert_array_equal(np.asarray(found), inputs[wanted])
                    jax.clear_caches()
                each = -(-IMAGES // layout.parts) if cut else IMAGES
                assert {s.data.shape[0] for s in table.bits.addressable_shards} == {each}


def test_tables_on_eight_devices() -> None:
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    code = "from tests.parallel.resident.test_placement import check_tables; check_tables()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("free", "parts", "processes", "kept"),
    [
        (100, 1, 1, "always"),
        (99, 1, 1, "never"),
        (99, 2, 2, "cut"),
        (50, 2, 1, "cut"),
        (49, 2, 1, "never"),
        (50, 32, 8, "cut"),
        (50, 32, 9, "never"),
        (100, 32, 9, "always"),
    ],
)
def test_residency(free: int, parts: int, processes: int, kept: str) -> None:
    assert residency(60, free, parts, processes) == kept


@pytest.mark.parametrize(
    ("free", "text"),
    [
        (None, ""),
        (IMAGES * CHANNELS * REGIONS * 4, "0.0 GB are free: read"),
        (10**9, "feature maps stay on the device: 0.00 GB of float32, all on each"),
    ],
)
def test_auto_says_what_it_does(
    free: int | None,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kept_features, "_free_bytes", lambda: free)
    found = keep_features(maps(), config("auto"), Layout.of_devices(jax.devices()[:1]))
    assert (found is None) == (free != 10**9)
    assert text in capsys.readouterr().err
    if found is not None:
        np.testing.assert_array_equal(found.maps(np.arange(IMAGES)), maps()[np.arange(IMAGES)])


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
    assert kept_features._free_bytes() == free


def test_refusals() -> None:
    one = Layout.of_devices(jax.devices()[:1])
    with pytest.raises(InputError, match="on_device=cut: no devices share a batch here"):
        keep_features(maps(), config("cut"), one)
    for choice in ("cut", "always"):
        with pytest.raises(InputError, match=f"on_device={choice}: pictures cannot stay"):
            keep_features(PICTURES, config(choice), one)
    assert keep_features(PICTURES, config("auto"), one) is None
    assert feature_table.table_spec(None) == WHOLE
