"""A tiny data set whose images show their attributes, and configs to train on it."""

from __future__ import annotations

import functools
from pathlib import Path

import h5py
import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.inference.run import open_run

SEEN, UNSEEN, PER_CLASS, TRAINVAL = 6, 2, 12, 8
ATTRIBUTES, WORD_DIM, CHANNELS, SIDE = 6, 5, 8, 2
CLASSES = SEEN + UNSEEN
EPOCHS = 20
# For runs whose model is not what is tested: half the time goes into tracing and compiling it.
ONE_NETWORK: dict[str, object] = {"model__experts": "coarse", "model__branches": "region"}
ONE_NETWORK_FLAGS = ["--config.model.experts=coarse", "--config.model.branches=region"]


def write_tiny(path: Path, seed: int = 0, unseen: int = 0) -> Path:
    """A file in the published layout whose images show their class's attributes, with noise.

    Args:
      path: file to write.
      seed: of everything.
      unseen: of the test images and of the unseen classes' embeddings; nothing else changes.
    """
    rng = np.random.default_rng(seed)
    patterns = (np.arange(1, CLASSES + 1)[:, None] * 7 >> np.arange(ATTRIBUTES)) & 1
    att = 0.15 + 0.7 * patterns + 0.1 * rng.random((CLASSES, ATTRIBUTES))
    looks = rng.standard_normal((ATTRIBUTES, CHANNELS))
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    shape = (len(labels), CHANNELS, SIDE, SIDE)
    noise = 0.3 * rng.standard_normal(shape)
    maps = np.maximum((att @ looks)[labels][:, :, None, None] + noise, 0) + 1e-3
    number = np.tile(np.arange(PER_CLASS), CLASSES)
    trainval = (labels < SEEN) & (number < TRAINVAL)
    if unseen:
        other = np.random.default_rng(unseen)
        maps[~trainval] = other.random(maps[~trainval].shape)
        att[SEEN:] = other.random((UNSEEN, ATTRIBUTES))
    with h5py.File(path, "w") as file:
        file["feature_map"] = maps.astype(np.float32)
        file["labels"] = labels
        file["trainval_loc"] = np.flatnonzero(trainval)
        file["test_seen_loc"] = np.flatnonzero((labels < SEEN) & ~trainval)
        file["test_unseen_loc"] = np.flatnonzero(labels >= SEEN)
        file["att"] = att
        file["w2v_att"] = rng.standard_normal((ATTRIBUTES, WORD_DIM))
    return path


def tiny_overrides(path: Path, **fields: object) -> list[str]:
    """Flags over `configs/base.py`; `train__epochs=3` is `--config.train.epochs=3`."""
    values: dict[str, object] = {
        "data.path": path,
        "data.groups": "0-2;3-5",
        "optimizer.learning_rate": 0.003,
        "loss.margin": 1.0,
        "loss.calibration_weight": 0.1,
        "train.epochs": EPOCHS,
        "train.batch_size": 12,
        "train.log_every": 3,
        "train.checkpoint_every": 20,
        "evaluate.batch_size": 8,
    }
    values |= {name.replace("__", "."): value for name, value in fields.items()}
    return [f"--config.{name}={value}" for name, value in values.items()]


def tiny_config(path: Path, **fields: object) -> ConfigDict:
    return load_config("base", tiny_overrides(path, **fields))


def light_config(path: Path, **fields: object) -> ConfigDict:
    """As `tiny_config`, of one network unless `fields` say otherwise."""
    return tiny_config(path, **ONE_NETWORK | fields)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The selected parameters of a finished run, by name."""
    return named(open_run(path).params)


def named(params: nnx.State) -> dict[str, np.ndarray]:
    """Parameters by name, as `coarse.word_vectors`."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(params))
    name = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
    return {name(key): np.asarray(value) for key, value in leaves}
