"""Compiled programs kept on disk, for the next run that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from ml_collections import ConfigDict


@contextmanager
def compilation_cache(folder: Path, config: ConfigDict) -> Iterator[None]:
    """Within the block, JAX keeps compiled programs in `.compilation_cache` beside `folder`.

    All runs in one place share them. Nothing changes where `config.train.compilation_cache` is
    false or JAX has a cache already (JAX_COMPILATION_CACHE_DIR).
    """
    if jax.config.values["jax_compilation_cache_dir"] or not config.train.compilation_cache:
        yield
        return
    cache = folder.resolve().parent / ".compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    reset_cache()  # JAX reads the setting once, at its first compilation
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        reset_cache()
