"""Compiled programs kept on disk, for the next run that needs them."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from ml_collections import ConfigDict


def use_compilation_cache(folder: Path, config: ConfigDict) -> None:
    """Keeps programs beside a work directory or a store, so that all runs there share them.

    Not where `config.train.compilation_cache` is false, or JAX was told of a place by its own
    variable, JAX_COMPILATION_CACHE_DIR.
    """
    if config.train.compilation_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = folder.resolve().parent / ".compilation_cache"
        jax.config.update("jax_compilation_cache_dir", str(cache))
