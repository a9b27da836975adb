"""The manifest of a feature store and the layout of its shards.

A store is a folder of `manifest.json`, `annotations.npz` and shards `shard-00000-of-00012.npy`:
plain `.npy` arrays `[images, channels, rows * columns]`, images in index order, the same number in
every shard but the last. bfloat16 is stored as the bits of uint16. While it is written, the folder
holds `plan.json` in place of the manifest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.files import open_regular, read_json

FORMAT = 1
HEADER_BYTES = 128
MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.json"
SHARD_BYTES = 64 * 10**6  # small enough to lose little when killed, large enough to read fast
ORIGINS = ("extracted", "imported")
_DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
_STORED = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StorePlan:
    """What a store is to hold.

    Attributes:
      images: how many.
      channels: of each feature map.
      grid: rows and columns of a feature map's regions.
      dtype: of the values: float16, bfloat16 or float32.
      normalized: whether they are L2-normalised over channels in every region.
      origin: "extracted" from pictures, or "imported".
      pictures: digest of the pictures; None where they are not known.
      transform: how a picture is prepared, such as `{"resize": 448, "crop": 448}`, or None.
      backbone: `{"name", "sha256", "dtype"}` of the network, with `"class_token": true` where its
        class token is one more region, the last; or None.
      shard_images: images in every shard but the last; 0 for as many as 64 MB hold.
    """

    images: int
    channels: int
    grid: tuple[int, int]
    dtype: str
    normalized: bool
    origin: str
    pictures: str | None = None
    transform: dict[str, Any] | None = None
    backbone: dict[str, Any] | None = None
    shard_images: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "channels"):
            _check_count(name, getattr(self, name), 1)
        if len(self.grid) != 2:
            raise ValueError(f"grid={self.grid!r}, expected rows and columns")
        for side in self.grid:
            _check_count("grid", side, 1)
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype={self.dtype!r}, expected {', '.join(_DTYPES)}")
        if not isinstance(self.normalized, bool):
            raise ValueError(f"normalized={self.normalized!r}, expected true or false")
        if self.origin not in ORIGINS:
            raise ValueError(f"origin={self.origin!r}, expected {' or '.join(ORIGINS)}")
        if not isinstance(self.pictures, str | None):
            raise ValueError(f"pictures={self.pictures!r}, expected a digest or null")
        for name in ("transform", "backbone"):
            if not isinstance(getattr(self, name), dict | None):
                raise ValueError(f"{name}={getattr(self, name)!r}, expected an object or null")
        _check_count("shard_images", self.shard_images, 0)
        object.__setattr__(self, "grid", tuple(self.grid))
        if not self.shard_images:
            object.__setattr__(self, "shard_images", shard_images(self.image_bytes))

    @property
    def regions(self) -> int:
        return self.grid[0] * self.grid[1] + self.class_token

    @property
    def class_token(self) -> bool:
        """Whether the last region is the class token."""
        return bool(self.backbone and self.backbone.get("class_token"))

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.channels, self.regions

    @property
    def value_dtype(self) -> np.dtype:
        """The NumPy type of the values."""
        return np.dtype(_DTYPES[self.dtype])

    @property
    def stored_dtype(self) -> np.dtype:
        """The type that the `.npy` files say they have."""
        return np.dtype(_STORED[self.dtype])

    @property
    def image_bytes(self) -> int:
        return self.channels * self.regions * self.stored_dtype.itemsize

    @property
    def num_shards(self) -> int:
        return -(-self.images // self.shard_images)

    def shard_name(self, shard: int) -> str:
        return f"shard-{shard:05d}-of-{self.num_shards:05d}.npy"

    def image_range(self, shard: int) -> range:
        """The images of a shard."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of {self.num_shards}")
        start = shard * self.shard_images
        return range(start, min(start + self.shard_images, self.images))

    def shard_shape(self, shard: int) -> tuple[int, int, int]:
        return len(self.image_range(shard)), *self.image_shape

    def shard_header(self, shard: int) -> bytes:
        """The 128 bytes of a shard's file before its values.

        Written here, not by NumPy, whose padding has changed: equal stores have equal bytes.
        Source: the `.npy` format, version 1.0.
        """
        shape = self.shard_shape(shard)
        text = f"{{'descr': '{self.stored_dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
        start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
        return start + text.encode().ljust(HEADER_BYTES - 11) + b"\n"

    def plan_json(self) -> dict[str, Any]:
        """The fields of the plan, as JSON gives them back."""
        return json.loads(
            json.dumps(
                {
                    "format": FORMAT,
                    "images": self.images,
                    "channels": self.channels,
                    "regions": self.regions,
                    "grid": self.grid,
                    "dtype": self.dtype,
                    "normalized": self.normalized,
                    "shard_images": self.shard_images,
                    "pictures": self.pictures,
                    "transform": self.transform,
                    "backbone": self.backbone,
                    "origin": self.origin,
                }
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(StorePlan):
    """A complete store's plan, and the hashes of its files.

    Attributes:
      annotations: SHA-256 of `annotations.npz`.
      shards: SHA-256 of every shard.
    """

    annotations: str
    shards: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        shards = [
            {"file": self.shard_name(i), "images": len(self.image_range(i)), "sha256": sha256}
            for i, sha256 in enumerate(self.shards)
        ]
        return self.plan_json() | {"annotations": self.annotations, "shards": shards}


def shard_images(image_bytes: int, shard_bytes: int = SHARD_BYTES) -> int:
    """How many images of `image_bytes` each make a shard of about `shard_bytes`; at least 1."""
    return max(1, shard_bytes // image_bytes)


def read_plan(path: Path) -> tuple[StorePlan, str]:
    """Reads `plan.json`: the plan and the SHA-256 of the annotations.

    Raises:
      InputError: it is damaged, or another version wrote it.
    """
    value = _read(path)
    try:
        plan = StorePlan(**_plan_fields(value))
        _check_regions(value, plan)
        return plan, _sha256("annotations", value["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def read_manifest(path: Path) -> Manifest:
    """Reads `manifest.json`.

    Raises:
      InputError: it is damaged, or another version wrote it.
    """
    value = _read(path)
    try:
        manifest = Manifest(
            **_plan_fields(value),
            annotations=_sha256("annotations", value["annotations"]),
            shards=tuple(_sha256("sha256", s["sha256"]) for s in value["shards"]),
        )
        _check_regions(value, manifest)
        # File names are never taken from the manifest: they could lead out of the folder.
        if value["shards"] != manifest.to_json()["shards"]:
            raise ValueError("shards: files or numbers of images do not fit images, shard_images")
        if len(manifest.shards) != manifest.num_shards:
            raise ValueError(f"shards: {len(manifest.shards)}, expected {manifest.num_shards}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(path, error) from error
    return manifest


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if value.get("format") != FORMAT:
        raise InputError(
            f"{path}: format is {value.get('format')!r}, expected {FORMAT}: written by another "
            "version, or not a feature store"
        )
    return value


def _plan_fields(value: dict[str, Any]) -> dict[str, Any]:
    fields = {f.name: value[f.name] for f in dataclasses.fields(StorePlan)}
    fields["grid"] = tuple(fields["grid"])
    _check_count("shard_images", fields["shard_images"], 1)
    return fields


def _check_regions(value: dict[str, Any], plan: StorePlan) -> None:
    if value["regions"] != plan.regions:
        raise ValueError(f"regions is {value['regions']} for grid {list(plan.grid)}")


def _damaged(path: Path, error: Exception) -> InputError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return InputError(
        f"{path}: is damaged ({' '.join(reason.split())[:200]}); copy the store again, or remove "
        f"{path.parent} and make it again"
    )


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}, expected a whole number from {least}")


def _sha256(name: str, value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{name}={value!r}, expected a SHA-256 of 64 hexadecimal digits")
    return value


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Where two JSON objects differ: field (dotted if nested), found value, expected value."""
    result: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*found, *expected]):
        a, b = found.get(key), expected.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            result += differences(a, b, f"{prefix}{key}.")
        elif a != b or (key in found) != (key in expected):
            result.append((f"{prefix}{key}", a, b))
    return result


def difference_text(differing: list[tuple[str, Any, Any]]) -> str:
    """The first few differences for an error message."""
    return "; ".join(f"{k}={json.dumps(a)}, expected {json.dumps(b)}" for k, a, b in differing[:4])


def is_complete_shard(path: Path, plan: StorePlan, shard: int) -> bool:
    """Whether a shard's file has the header and the size that the plan gives it.

    Raises:
      OSError: it cannot be looked at.
    """
    header = plan.shard_header(shard)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            return (
                size == len(header) + len(plan.image_range(shard)) * plan.image_bytes
                and file.read(len(header)) == header
            )
    except FileNotFoundError:
        return False
