"""The cache of compiled programs: used within a training, and gone after it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dedn_jax.config import load_config
from dedn_jax.training import compilation_cache as compilation_cache_module
from dedn_jax.training.compilation_cache import compilation_cache
from dedn_jax.user_cache import private_folder, user_cache_dir


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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's compiled programs belong; nothing is there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compilation_cache_module, "_said", set())
    return tmp_path / "cache" / "dedn-jax" / "compiled"


def test_programs_are_kept_in_the_users_cache(
    own: Path, setting: Callable[[str, object], None]
) -> None:
    setting("jax_compilation_cache_dir", None)
    setting("jax_persistent_cache_min_compile_time_secs", 0.0)
    with compilation_cache(load_config("base")):
        assert chosen() == str(own)
        compile_something(2.0)
    assert chosen() is None
    kept = set(own.glob("*-cache"))
    assert kept
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    with pytest.raises(RuntimeError), compilation_cache(load_config("base")):
        raise RuntimeError
    compile_something(3.0)
    assert chosen() is None
    assert set(own.glob("*-cache")) == kept


@pytest.mark.parametrize(("chosen_before", "within"), [(1.0, 0.05), (0.0, 0.0), (3.0, 3.0)])
def test_small_programs_are_kept_too_unless_a_time_was_chosen(
    chosen_before: float, within: float, own: Path, setting: Callable[[str, object], None]
) -> None:
    name = "jax_persistent_cache_min_compile_time_secs"
    setting("jax_compilation_cache_dir", None)
    setting(name, chosen_before)
    with compilation_cache(load_config("base")):
        assert jax.config.values[name] == within
    assert jax.config.values[name] == chosen_before


def _writable_by_all(own: Path) -> None:
    own.mkdir(parents=True)
    own.chmod(0o777)


def _link(own: Path) -> None:
    own.parent.mkdir(parents=True)
    own.symlink_to(own.parent)


def _file(own: Path) -> None:
    own.parent.mkdir(parents=True)
    own.touch()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_writable_by_all, "others can write to"),
        (_link, "is not a folder"),
        (_file, "File exists"),
    ],
)
def test_programs_that_others_may_have_put_there_are_not_opened(
    make: Callable[[Path], None],
    reason: str,
    own: Path,
    setting: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    setting("jax_compilation_cache_dir", None)
    make(own)
    for _ in range(2):
        with compilation_cache(load_config("base")):
            assert chosen() is None
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(own) in told and reason in told and "XDG_CACHE_HOME" in told


def test_a_folder_of_another_user_is_not_opened(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert private_folder(own) == ""
    own.parent.chmod(0o775)  # by a umask of 002
    assert private_folder(own) == ""
    assert stat.S_IMODE(own.parent.stat().st_mode) == 0o755
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert private_folder(own) == f"{own.parent} belongs to another user"


def test_no_home_no_cache(
    monkeypatch: pytest.MonkeyPatch, setting: Callable[[str, object], None]
) -> None:
    setting("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    config = load_config("base")
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert user_cache_dir() is None
    with compilation_cache(config):
        assert chosen() is None


def test_a_cache_of_the_users_own_stays(
    tmp_path: Path, own: Path, setting: Callable[[str, object], None]
) -> None:
    setting("jax_compilation_cache_dir", str(tmp_path / "mine"))
    with compilation_cache(load_config("base")):
        assert chosen() == str(tmp_path / "mine")
    assert chosen() == str(tmp_path / "mine")


def test_no_cache(own: Path, setting: Callable[[str, object], None]) -> None:
    setting("jax_compilation_cache_dir", None)
    config = load_config("base", {"train.compilation_cache": False})
    with compilation_cache(config):
        assert chosen() is None
    assert not own.exists()
