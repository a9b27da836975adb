"""Feature maps, indexed by image, and how they are normalised."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping, Sequence
from math import isqrt
from types import MappingProxyType
from typing import Any

import h5py
import ml_dtypes
import numpy as np
from jaxtyping import Float, Int, Int64

from dedn_jax.data.annotations import digest
from dedn_jax.errors import InputError
from dedn_jax.model.norms import MIN_NORM

# Fields of a data set's fingerprint: hashes of some images, of more, and of all values.
FEATURE_SAMPLE, LARGE_SAMPLE, FEATURES = "feature_sample", "feature_sample_large", "features"
_LONGEST = 8  # a grid of regions is at most so many times as wide as it is high
# No backbone has fewer channels. So many regions of so few channels are rather the other way round.
_FEW_CHANNELS, _MANY_REGIONS = 64, 256

# A bfloat16 array has no HDF5 type of its own: h5py writes it as two opaque bytes.
_OPAQUE_PAIR = np.dtype("V2")
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class FeatureMaps(abc.ABC):
    """Feature maps of all images, L2-normalised over channels in every region.

    `features[indices]`, with indices in any order and with repeats, gives a batch.

    Attributes:
      origin: the pictures, transform and backbone they come from, where known; part of the
        fingerprint.
    """

    origin: Mapping[str, object] = MappingProxyType({})

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype: ...

    @property
    @abc.abstractmethod
    def channels(self) -> int: ...

    @property
    @abc.abstractmethod
    def regions(self) -> int: ...

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(
        self, indices: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch channels regions"]: ...

    def fingerprint(self) -> dict[str, object]:
        """Identifies these feature maps; JSON-ready.

        `feature_sample` is of 64 images spread over the set; what identifies all values is up to
        the subclass.
        """
        return {
            "channels": self.channels,
            "regions": self.regions,
            FEATURE_SAMPLE: self.sample_digest(64),
            **self.origin,
        }

    def sample_digest(self, images: int) -> str:
        """A hash of so many images spread over the set."""
        sample = np.unique(np.linspace(0, len(self) - 1, images).astype(np.int64))
        return digest(np.asarray(self[sample], np.float32))


class ValueDigest:
    """A hash of every value of feature maps, as float32, before they are normalised.

    The same however the images are cut into blocks.

    Attributes:
      images: the SHA-256 of every image.
    """

    def __init__(self) -> None:
        self.images: list[bytes] = []

    def update(self, raw: Float[np.ndarray, "images channels regions"]) -> None:
        """Adds the next images."""
        for image in raw:
            values = np.ascontiguousarray(image, np.float32).data
            self.images.append(hashlib.sha256(values).digest())

    def result(self) -> dict[str, str]:
        """For a fingerprint."""
        together = hashlib.sha256(b"".join(self.images))
        return {"of": "all values", "sha256": together.hexdigest()}


class InMemoryFeatures(FeatureMaps):
    """One array in host memory."""

    def __init__(
        self,
        array: Float[np.ndarray, "images channels regions"],
        identity: Mapping[str, str] | None = None,
        image_hashes: Sequence[bytes] = (),
    ) -> None:
        """Keeps `array`.

        Args:
          array: normalised already (see `normalize`).
          identity: for the fingerprint, of what was read to fill it; None: of the array itself.
          image_hashes: of every image as it was read, where known.
        """
        self.image_hashes = image_hashes
        self._identity = identity
        if array.ndim != 3:
            raise ValueError(f"expected [images, channels, regions], got shape {array.shape}")
        self._array = np.ascontiguousarray(array)

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def channels(self) -> int:
        return self._array.shape[1]

    @property
    def regions(self) -> int:
        return self._array.shape[2]

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(
        self, indices: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch channels regions"]:
        return self._array.take(checked_indices(indices, len(self)), axis=0)

    def fingerprint(self) -> dict[str, object]:
        """With a hash of all values."""
        if self._identity is None:
            values = ValueDigest()
            values.update(self._array)
            self._identity = values.result()
        return super().fingerprint() | {FEATURES: dict(self._identity)}


class UnreadFeatures(FeatureMaps):
    """Feature maps of which only the sizes are known."""

    def __init__(self, images: int, channels: int, regions: int, dtype: Any) -> None:
        self._images, self._channels, self._regions = images, channels, regions
        self._dtype = np.dtype(dtype)

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def channels(self) -> int:
        return self._channels

    @property
    def regions(self) -> int:
        return self._regions

    def __len__(self) -> int:
        return self._images

    def __getitem__(
        self, indices: Int[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch channels regions"]:
        raise RuntimeError("the data set was loaded for its sizes alone")

    def fingerprint(self) -> dict[str, object]:
        """As of feature maps that are read, without their values."""
        return {"channels": self.channels, "regions": self.regions, **self.origin}


def normalize(
    raw: Float[np.ndarray, "images channels regions"],
    dtype: Any,
    *,
    out: Float[np.ndarray, "images channels regions"] | None = None,
    source: str = "feature_map",
    images: Int[np.ndarray, " images"] | None = None,
) -> Float[np.ndarray, "images channels regions"]:
    """L2-normalises feature maps over channels in every region: `x / max(||x||, 1e-12)`.

    Computed in float32, image by image: the numbers do not depend on how images are batched, and
    little memory is needed besides the result. Source: the features as the public code uses them.

    Args:
      raw: of any floating-point type.
      dtype: of the result: float32, bfloat16 or float16.
      out: an array of that dtype to write to; may be `raw` itself.
      source: what an error message begins with.
      images: indices of the images, for error messages; default: positions in `raw`.

    Raises:
      InputError: an image has NaN or infinite values, or values too large to square.
    """
    if out is None:
        out = np.empty(raw.shape, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(len(raw)):
            x = raw[i].astype(np.float32, copy=False)
            norm = np.sqrt(np.einsum("cr,cr->r", x, x))
            if not np.isfinite(norm).all():
                image = i if images is None else images[i]
                raise InputError(
                    f"{source}: image {image} (0-based) has NaN or infinite values, or values too "
                    "large to normalise; extract its features again"
                )
            scale = np.maximum(norm, np.float32(MIN_NORM))
            if out.dtype == np.float32:
                np.divide(x, scale, out=out[i])
            else:
                out[i] = x / scale
    return out


def check_channels_first(shape: Sequence[int], where: str) -> None:
    """Refuses feature maps whose channels come last, as JAX, Flax, TensorFlow and Keras make them.

    Read as they are, 7 x 7 regions of 2048 channels would be 7 channels of 7 x 2048 regions. A grid
    of regions is a square or nearly one, and seldom has a side longer than the channels are many.

    Args:
      shape: `[images, channels, height, width]`, or `[images, channels, regions]`.
      where: what the message begins with: the file and the field.

    Raises:
      InputError: the last axis is the channels.
    """
    first, *others = shape[1:]
    last = others[-1]
    if len(others) == 2:
        turned = last > first and (first == others[0] or last > _LONGEST * others[0] > _LONGEST)
        expected, axes = "[images, channels, height, width]", "0, 3, 1, 2"
    else:
        turned = last > max(first, _FEW_CHANNELS) and _is_grid(first)
        turned &= not _is_grid(last) or (first < _FEW_CHANNELS and last >= _MANY_REGIONS)
        expected, axes = "[images, channels, regions]", "0, 2, 1"
    if turned:
        raise InputError(
            f"{where} has shape {tuple(shape)}, which looks like channels last (as JAX, TensorFlow "
            f"and Keras make feature maps), expected {expected}; store "
            f"them as .transpose({axes})"
        )


def _is_grid(regions: int) -> bool:
    """Whether so many regions are a square grid, with or without a class token."""
    return any(isqrt(n) ** 2 == n for n in (regions, regions - 1))


def floating_dtype(dataset: h5py.Dataset) -> np.dtype | None:
    """The NumPy type of a data set's values, bfloat16 included; None if they are not floats."""
    try:
        dtype = dataset.dtype
    except TypeError:  # an HDF5 type that NumPy has no equivalent for
        return None
    if dtype == _OPAQUE_PAIR and dtype.names is None:
        return _BFLOAT16
    return dtype if dtype.kind == "f" else None


def checked_indices(indices: np.ndarray, images: int) -> Int64[np.ndarray, " batch"]:
    """The indices as int64; IndexError unless they are a vector of integers in range."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise IndexError(f"expected [batch] integers, got {indices.dtype} {indices.shape}")
    if indices.size and not 0 <= indices.min() <= indices.max() < images:
        raise IndexError(f"indices {indices.min()} to {indices.max()} of {images} images")
    return indices.astype(np.int64, copy=False)
