"""Small made-up data for tests that go from pictures to a result."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from dedn_jax.data.prepared.build import build
from dedn_jax.data.sources.folder import read_folder
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.weights import expected_arrays

CLASSES, ATTRIBUTES = 8, 6
# With running statistics, as ResNets have; they take seven times as long for a picture.
BACKBONE, CHANNELS = "mobilenet_v1", 1024


def picture_folder(root: Path, pictures: int = 6, size: int = 40) -> Path:
    """A folder for `dedn data build folder`: six seen classes, two unseen, noisy colours."""
    rng = np.random.default_rng(0)
    table = [",".join(["class", *(f"attribute {a}" for a in range(ATTRIBUTES)), "split"])]
    for k in range(CLASSES):
        values = rng.integers(0, 2, ATTRIBUTES)
        values[k % ATTRIBUTES] = 1 - values[(k + 1) % ATTRIBUTES]
        role = "unseen" if k >= CLASSES - 2 else "seen"
        table.append(",".join([f"class {k}", *map(str, values), role]))
        folder = root / "pictures" / f"class {k}"
        folder.mkdir(parents=True)
        for i in range(pictures):
            noise = rng.integers(0, 120, (size + 3 * i, size, 3))
            noise += (20 * values[:3] + 10 * k).astype(np.int64)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg")
    (root / "attributes.csv").write_text("\n".join(table) + "\n")
    return root


def bmp(side: int, seed: int = 0) -> bytes:
    """A picture of noise, of `3 * side * side` bytes and a header."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP")
    return out.getvalue()


def prepared_folder(root: Path, **arguments: int) -> Path:
    """The prepared set of `picture_folder`."""
    mine = read_folder(picture_folder(root / "mine", **arguments))
    return build(mine, root / "prepared").folder


def published_file(path: Path, images: int = 96) -> Path:
    """A feature file in the published layout: eight classes of twelve images, two unseen."""
    rng = np.random.default_rng(1)
    labels = np.arange(images) % CLASSES
    att = rng.random((CLASSES, ATTRIBUTES)) + np.eye(CLASSES, ATTRIBUTES)
    maps = rng.random((images, 16, 3, 3)) + 0.5 * rng.random((CLASSES, 16, 1, 1))[labels]
    seen = labels < CLASSES - 2
    test = np.arange(images) // CLASSES % 4 == 3
    with h5py.File(path, "w") as file:
        file["feature_map"] = maps.astype(np.float32)
        file["labels"] = labels
        file["trainval_loc"] = np.flatnonzero(seen & ~test)
        file["test_seen_loc"] = np.flatnonzero(seen & test)
        file["test_unseen_loc"] = np.flatnonzero(~seen)
        file["att"] = att
        file["w2v_att"] = rng.standard_normal((ATTRIBUTES, 20))
    return path


def backbone_weights(path: Path, name: str = BACKBONE, seed: int = 0) -> Path:
    """A `.safetensors` file of random weights whose activations keep their size."""
    rng = np.random.default_rng(seed)
    arrays = {}
    backbone = nnx.eval_shape(lambda: make_backbone(name, "float32", nnx.Rngs(0)))
    for key, shape in expected_arrays(backbone).items():
        if len(shape) > 1:
            deviation = (2 / np.prod(_inputs(key, shape))) ** 0.5
            arrays[key] = (deviation * rng.standard_normal(shape)).astype(np.float32)
        else:
            low, high = (-0.1, 0.1) if key.endswith(("bias", "beta", "mean")) else (0.7, 1.1)
            arrays[key] = rng.uniform(low, high, shape).astype(np.float32)
    save_file(arrays, str(path))
    return path


def _inputs(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of an array that are summed over: Keras has outputs last, PyTorch first."""
    if key.endswith("depthwise_kernel"):
        return shape[:2]
    return shape[:-1] if key.endswith("kernel") else shape[1:]
