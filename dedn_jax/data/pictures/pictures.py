"""Encoded pictures as what a backbone is fed: decoded, resized, cropped, in batches."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.transforms import flip, random_resized_crop, standard

_threads: int | None = None


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """From here on, `Pictures` first used in this process decode with `count` threads.

    For processes that read side by side, so that together they have one thread a core.
    """
    global _threads
    _threads = count


class Encoded(Protocol):
    """Encoded pictures by image index: `encoded[i]` gives the bytes and a name for messages."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[bytes, str]: ...


@dataclasses.dataclass(frozen=True)
class PictureTransform:
    """How a picture becomes `[crop, crop, 3]`; the fields of `config.picture`.

    Attributes:
      resize: the short side, in pixels, before the crop.
      crop: side of the square, in pixels, cut from the middle.
      augment: while training, cut a random part instead and mirror it at random.
      smallest_area: the least share of the picture that a random part has.
      flip_probability: how often it is mirrored.
    """

    resize: int
    crop: int
    augment: bool
    smallest_area: float
    flip_probability: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> PictureTransform:
        return cls(**config.picture.to_dict())

    def fixed(self) -> dict[str, int]:
        """What decides the pixels outside training; JSON-ready, for manifests."""
        return {"resize": self.resize, "crop": self.crop}


class Pictures:
    """Pictures of one size, indexed by image.

    `pictures[indices]`, with int `[batch]` in any order and with repeats, gives
    `[batch, crop, crop, 3]` uint8. A batch's pictures are decoded by as many threads as there are
    cores, or as `limit_threads` says. Safe to pickle, to fork and to share between threads.
    """

    def __init__(self, encoded: Encoded, transform: PictureTransform, digest: str) -> None:
        """Keeps what is given; `digest` tells these encoded pictures from any others."""
        self._encoded = encoded
        self.transform = transform
        self.digest = digest
        self._pool: tuple[int, ThreadPoolExecutor] | None = None  # and whose process it is

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.transform.crop

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """As the class says.

        Raises:
          InputError: a picture cannot be decoded.
        """
        return self._map(self._plain, indices)

    def training(self, indices: np.ndarray, seeds: Sequence[tuple[int, ...]]) -> np.ndarray:
        """As `[indices]`, augmented where the transform says so, each picture by its own seed."""
        if not self.transform.augment:
            return self[indices]
        return self._map(self._augmented, indices, seeds)

    def fingerprint(self) -> dict[str, object]:
        """What tells these pictures from any other; JSON-ready."""
        return {"pictures": self.digest}

    def _map(self, function: Callable[..., np.ndarray], *columns: Any) -> np.ndarray:
        # In one assignment, and used from here: two threads may come first at the same time.
        pool = self._pool
        if pool is None or pool[0] != os.getpid():  # threads do not survive a fork
            pool = self._pool = os.getpid(), ThreadPoolExecutor(_threads or cores())
        # Straight into place: a second copy of a batch of large pictures would be felt.
        out = np.empty((len(columns[0]), self.size, self.size, 3), np.uint8)

        def fill(row: int, *arguments: Any) -> None:
            out[row] = function(*arguments)

        for _ in pool[1].map(fill, range(len(out)), *columns):
            pass
        return out

    def _decoded(self, index: int) -> np.ndarray:
        return decode(*self._encoded[int(index)])

    def _plain(self, index: int) -> np.ndarray:
        return standard(self._decoded(index), self.transform.resize, self.transform.crop)

    def _augmented(self, index: int, seed: tuple[int, ...]) -> np.ndarray:
        t = self.transform
        rng = np.random.default_rng(seed)
        part = random_resized_crop(self._decoded(index), t.crop, rng, smallest_area=t.smallest_area)
        return flip(part, rng, t.flip_probability)
