"""A small data set's annotations and features, and stores made from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.features.store.manifest import StorePlan
from dedn_jax.data.features.store.writer import StoreWriter

_ROOT = Path(__file__).resolve().parents[4]

# Defines `annotations`, `plan` and `features` for processes of their own as well.
HELPERS = '''
import numpy as np
from dedn_jax.data.annotations import Annotations
from dedn_jax.data.features.store.manifest import StorePlan

def make_annotations(images):
    """Image i has class i % 4; class 3 is unseen."""
    labels = (np.arange(images) % 4).astype(np.int32)
    seen = np.flatnonzero(labels < 3)
    rng = np.random.default_rng(0)
    return Annotations(
        source="here",
        labels=labels,
        class_embeddings=rng.random((4, 5), np.float32),
        word_vectors=rng.random((5, 3), np.float32),
        trainval=seen[:-3],
        test_seen=seen[-3:],
        test_unseen=np.flatnonzero(labels == 3),
        class_names=("a", "b", "c", "d"),
        attribute_names=("p", "q", "r", "s", "t"),
    )

def make_plan(images=26, channels=8, grid=(3, 2), **changes):
    fields = dict(
        images=images, channels=channels, grid=grid, dtype="float16", normalized=True,
        origin="extracted", pictures="0123456789abcdef", transform={"resize": 448, "crop": 448},
        backbone={"name": "resnet101", "sha256": "ab" * 32, "dtype": "float32"}, shard_images=4,
    )
    return StorePlan(**fields | changes)

def make_features(plan, images):
    """What the network gives for these images."""
    maps = [np.random.default_rng([7, i]).gamma(0.5, 3, plan.image_shape) for i in images]
    return np.asarray(maps, np.float32)
'''
_made: dict[str, Any] = {}
exec(HELPERS, _made)


@pytest.fixture
def annotations() -> Annotations:
    return _made["make_annotations"](26)


@pytest.fixture
def make_annotations() -> Callable[[int], Annotations]:
    return _made["make_annotations"]


@pytest.fixture
def make_plan() -> Callable[..., StorePlan]:
    """`make_plan(field=value)`: 26 images in 7 shards."""
    return _made["make_plan"]


@pytest.fixture
def make_features() -> Callable[..., np.ndarray]:
    return _made["make_features"]


@pytest.fixture
def write_store(tmp_path, annotations, make_plan, make_features) -> Callable[..., Path]:
    """`write_store(name, field=value)` writes a complete store of that plan."""

    def write(name: str = "store", **changes: Any) -> Path:
        plan = make_plan(**changes)
        with StoreWriter(tmp_path / name, plan, annotations) as writer:
            for shard in writer.missing():
                writer.write(shard, make_features(plan, writer.image_range(shard)))
            writer.finish()
        return tmp_path / name

    return write


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen[str]]:
    """`start_python(code, *arguments)` runs code after `HELPERS` in a process of its own."""

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HELPERS + code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"},
        )

    return start


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """The bytes of every file in a folder."""
    return lambda folder: {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
