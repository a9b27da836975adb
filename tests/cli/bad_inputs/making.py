"""What rows are made of."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.weights import expected_arrays


class Hostile:
    """Unpickled, it would leave a file in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel: few bytes, however large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = bytes(1 + width // 8)
    pixels = zlib.compress(row * min(height, 100), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg(side: int = 64) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(out, "JPEG", quality=90)
    return out.getvalue()


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, "x")
    return out.getvalue()


def weight_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a file of its weights, without making any."""
    return expected_arrays(nnx.eval_shape(lambda: make_backbone(backbone, "float32", nnx.Rngs(0))))
