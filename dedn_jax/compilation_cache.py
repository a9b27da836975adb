"""Compiled programs kept on disk, for the next run that needs them."""

from __future__ import annotations

from pathlib import Path

import jax
from ml_collections import ConfigDict


def use_compilation_cache(workdir: Path, config: ConfigDict) -> None:
    """Keeps programs beside the work directory, so that all runs of a folder share them.

    Not where `config.train.compilation_cache` is false.
    """
    if config.train.compilation_cache:
        cache = workdir.resolve().parent / ".compilation_cache"
        jax.config.update("jax_compilation_cache_dir", str(cache))
