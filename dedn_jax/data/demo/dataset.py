"""The demo pictures as a checked data set."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.demo import filterbank
from dedn_jax.data.demo.pictures import DemoPictures, demo_pictures
from dedn_jax.data.features import InMemoryFeatures, normalize
from dedn_jax.data.wordvectors import read_word_vectors
from dedn_jax.errors import InputError
from dedn_jax.files import atomic_file
from dedn_jax.groups import AttributeGroups

# The pictures are one fixed set: `config.seed` is for training alone, so that seeds are comparable.
_PICTURES_SEED = 0


def load_demo(data: ConfigDict) -> GZSLDataset:
    """The demo set as `config.data` asks for it; drawn on first use.

    Raises:
      InputError: no place for the cache, or word vectors that cannot be used.
    """
    cache_dir = demo_cache_dir(data.path)
    demo = demo_pictures(seed=_PICTURES_SEED, cache_dir=cache_dir)
    maps = _demo_maps(demo.images, cache_dir)
    features = normalize(maps.reshape(*maps.shape[:2], -1), np.dtype(data.dtype), source="demo")
    class_embeddings = np.asarray(demo.class_embeddings, np.float32)
    if data.clip_negative_embeddings:
        class_embeddings = np.maximum(class_embeddings, 0)
    word_vectors = np.asarray(demo.word_vectors, np.float32)
    if data.word_vectors:
        word_vectors = read_word_vectors(data.word_vectors, class_embeddings.shape[1])
    return GZSLDataset(
        source="demo",
        inputs=InMemoryFeatures(features),
        labels=demo.labels,
        class_embeddings=class_embeddings,
        word_vectors=word_vectors,
        trainval=demo.trainval,
        test_seen=demo.test_seen,
        test_unseen=demo.test_unseen,
        class_names=demo.class_names,
        attribute_names=demo.attribute_names,
        validation_classes=demo.validation_classes,
        groups=AttributeGroups(
            tuple(name for name, _ in demo.attribute_groups),
            tuple(tuple(int(i) for i in members) for _, members in demo.attribute_groups),
        ),
    )


def load_demo_pictures(data: ConfigDict) -> DemoPictures:
    """The pictures themselves, drawn on first use."""
    return demo_pictures(seed=_PICTURES_SEED, cache_dir=demo_cache_dir(data.path))


def demo_cache_dir(path: str = "") -> Path | None:
    """Where the demo pictures are kept, made if missing.

    Args:
      path: `config.data.path`; "" for `dedn-jax` in the user's cache folder (`XDG_CACHE_HOME`,
        else `~/.cache`).

    Returns:
      The folder; None where `path` is "" and the user's cache folder cannot be written to: the
      pictures are then drawn every time.

    Raises:
      InputError: `path` is no folder that can be written to.
    """
    if path:
        folder = Path(path).expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG specification: a relative path there is to be ignored.
        root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
        folder = root / "dedn-jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        reason = "not writable"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if writable:
        return folder
    if not path:
        return None
    raise InputError(
        f"{folder}: cannot keep the demo pictures there: {reason}; set --config.data.path to a "
        "folder that can be written to"
    )


def _demo_maps(images: np.ndarray, cache_dir: Path | None) -> np.ndarray:
    """`[images, channels, side, side]` float32 of the filter bank, kept beside the pictures.

    The filter bank takes the better part of a minute on a small machine, and its last bits depend
    on the machine: a run that is resumed should meet the features it began with.
    """
    if cache_dir is None:
        with _on_cpu():
            return filterbank.filter_bank(images)
    # Another filter bank or other pictures are another file: nothing stale is ever read.
    key = hashlib.sha256(Path(filterbank.__file__).read_bytes())
    key.update(images.tobytes())
    path = cache_dir / f"demo-features-{key.hexdigest()[:16]}.npy"
    try:
        maps = np.load(path, allow_pickle=False)
        if maps.ndim == 4 and len(maps) == len(images) and maps.dtype == np.float32:
            return maps
    except (OSError, EOFError, ValueError):  # not there, or damaged: made again
        pass
    with _on_cpu():
        maps = filterbank.filter_bank(images)
    try:
        with atomic_file(path) as file:
            np.save(file, maps)
    except OSError as error:
        raise InputError(
            f"{path}: the demo features cannot be written: {error.strerror}; set "
            "--config.data.path to a folder with 50 MB to spare"
        ) from error
    return maps


def _on_cpu() -> contextlib.AbstractContextManager[object]:
    """Runs the filter bank where its results are the same whatever accelerator there is."""
    import jax

    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use nothing but the accelerator
        return contextlib.nullcontext()
