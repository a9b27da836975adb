"""Encoded pictures as a backbone takes them: decoded, resized and cropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.transforms import flip, random_resized_crop, standard


class Encoded(Protocol):
    """Encoded pictures by image index: `encoded[i]` is the bytes and a name for error messages."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[bytes, str]: ...


@dataclasses.dataclass(frozen=True)
class PictureTransform:
    """How a picture is resized and cropped; the fields of `config.picture`.

    Attributes:
      resize: short side in pixels, before the crop.
      crop: side in pixels of the square cut from the centre.
      augment: whether training takes a random resized crop and flips it at random instead.
      smallest_area: least area of a random crop, as a share of the picture.
      flip_probability: of a horizontal flip.
    """

    resize: int
    crop: int
    augment: bool
    smallest_area: float
    flip_probability: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> PictureTransform:
        return cls(**config.picture.to_dict())

    def evaluated(
        self, pixels: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "crop crop 3"]:
        """A picture as it is evaluated, not augmented."""
        # A view would keep the larger picture that it was cut from in memory.
        return np.ascontiguousarray(standard(pixels, self.resize, self.crop))

    def fixed(self) -> dict[str, int]:
        """What determines the pixels in evaluation; JSON-ready, for manifests."""
        return {"resize": self.resize, "crop": self.crop}


class Pictures:
    """Pictures of one size, indexed by image; safe to pickle, to fork and to share between threads.

    `pictures[indices]`, with indices in any order and with repeats, decodes them one after the
    other. The input pipeline decodes single pictures (`read`) in parallel.
    """

    def __init__(self, encoded: Encoded, transform: PictureTransform, digest: str) -> None:
        """Keeps what is given; `digest` identifies the encoded pictures."""
        self._encoded = encoded
        self.transform = transform
        self.digest = digest

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.transform.crop

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(
        self, indices: Int[np.ndarray, " batch"]
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Pictures as they are evaluated.

        Raises:
          InputError: a picture cannot be decoded.
        """
        batch = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for row, index in enumerate(indices):
            batch[row] = self.read(index)
        return batch

    def read(
        self, index: int, key: Sequence[int] | None = None
    ) -> UInt8[np.ndarray, "crop crop 3"]:
        """One picture, resized and cropped.

        Args:
          index: which one.
          key: seeds the augmentation, where the transform has one; None: as in evaluation.

        Raises:
          InputError: the picture cannot be decoded.
        """
        t = self.transform
        pixels = decode(*self._encoded[int(index)])
        if key is None or not t.augment:
            return t.evaluated(pixels)
        rng = np.random.default_rng(key)
        part = random_resized_crop(pixels, t.crop, rng, smallest_area=t.smallest_area)
        return np.ascontiguousarray(flip(part, rng, t.flip_probability))

    def fingerprint(self) -> dict[str, object]:
        """Identifies these pictures; JSON-ready."""
        return {"pictures": self.digest}
