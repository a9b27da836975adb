"""Compiled programs kept on disk, for the next run that needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from ml_collections import ConfigDict

from dedn_jax.user_cache import private_folder, user_cache_dir

_FOLDER = "compiled"
# JAX keeps what took a second to compile. Most programs here take less, and many of them together
# several seconds in every command; one is read in a few hundredths.
_MIN_TIME = "jax_persistent_cache_min_compile_time_secs"
_JAX_DEFAULT, _OURS = 1.0, 0.05
_said: set[str] = set()


@contextmanager
def compilation_cache(config: ConfigDict) -> Iterator[None]:
    """Within the block, JAX keeps compiled programs in the user's own cache folder.

    What lies there is loaded and run as machine code, so it is used only where nobody else can have
    written it, and never comes from a work directory. Nothing changes where
    `config.train.compilation_cache` is false or JAX has a cache already
    (JAX_COMPILATION_CACHE_DIR).
    """
    if jax.config.values["jax_compilation_cache_dir"] or not config.train.compilation_cache:
        yield
        return
    base = user_cache_dir()
    problem = "no home directory" if base is None else private_folder(base / _FOLDER)
    if base is None or problem:
        _say(f"compiled programs are not kept: {problem}; set XDG_CACHE_HOME to a folder of yours")
        yield
        return
    chosen = jax.config.values[_MIN_TIME]
    jax.config.update(_MIN_TIME, _OURS if chosen == _JAX_DEFAULT else chosen)
    jax.config.update("jax_compilation_cache_dir", str(base / _FOLDER))
    reset_cache()  # JAX reads the setting once, at its first compilation
    try:
        yield
    finally:
        jax.config.update(_MIN_TIME, chosen)
        jax.config.update("jax_compilation_cache_dir", None)
        reset_cache()


def _say(text: str) -> None:
    """Prints once what would otherwise be printed before every computation."""
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)
