"""The cache of compiled programs: used within a training, and gone after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dedn_jax.config import load_config
from dedn_jax.training.compilation_cache import compilation_cache


def chosen() -> str | None:
    return jax.config.values["jax_compilation_cache_dir"]


def compile_something(factor: float) -> None:
    jax.jit(lambda x: x * factor)(jnp.ones(3))


@pytest.fixture
def setting() -> Iterator[Callable[[str, object], None]]:
    """`setting(name, value)` changes a setting of JAX until the test ends."""
    before: dict[str, object] = {}

    def change(name: str, value: object) -> None:
        before.setdefault(name, jax.config.values[name])
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_beside_the_run(
    tmp_path: Path, setting: Callable[[str, object], None]
) -> None:
    setting("jax_compilation_cache_dir", None)
    setting("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = load_config("base")
    for name in ("one", "other"):  # each place has its own
        with compilation_cache(tmp_path / name / "run", config):
            assert chosen() == str(tmp_path / name / ".compilation_cache")
            compile_something(2.0)
        assert chosen() is None
        assert len(list((tmp_path / name / ".compilation_cache").glob("*-cache"))) >= 1
    with pytest.raises(RuntimeError), compilation_cache(tmp_path / "third" / "run", config):
        raise RuntimeError
    compile_something(3.0)
    assert chosen() is None
    assert not (tmp_path / "third").exists()


def test_a_cache_of_the_users_own_stays(
    tmp_path: Path, setting: Callable[[str, object], None]
) -> None:
    setting("jax_compilation_cache_dir", str(tmp_path / "mine"))
    with compilation_cache(tmp_path / "run", load_config("base")):
        assert chosen() == str(tmp_path / "mine")
    assert chosen() == str(tmp_path / "mine")


def test_no_cache(tmp_path: Path, setting: Callable[[str, object], None]) -> None:
    setting("jax_compilation_cache_dir", None)
    config = load_config("base", {"train.compilation_cache": False})
    with compilation_cache(tmp_path / "run", config):
        assert chosen() is None
