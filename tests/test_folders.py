"""A folder that is replaced: the old one is there until the new one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax import folders
from dedn_jax.folders import replace_folder, restore_replaced


class Killed(BaseException):
    pass


def two(tmp_path: Path) -> tuple[Path, Path]:
    written, target = tmp_path / "written", tmp_path / "target"
    for folder in (written, target):
        folder.mkdir()
        (folder / folder.name).touch()
    return written, target


def no_exchange(*_: object) -> bool:
    return False


@pytest.mark.parametrize("exchange", [True, False])
def test_it_is_replaced_and_nothing_else_is_left(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", no_exchange)
    written, target = two(tmp_path)
    replace_folder(written, target)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert [p.name for p in target.iterdir()] == ["written"]
    restore_replaced(target)
    assert [p.name for p in target.iterdir()] == ["written"]
    target.rename(written)
    replace_folder(written, target)  # where there is none
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_one_of_both_is_there_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the exchange and the removal of the old one."""
    written, target = two(tmp_path)

    def kill(_: Path) -> None:
        raise Killed

    monkeypatch.setattr("shutil.rmtree", kill)
    with pytest.raises(Killed):
        replace_folder(written, target)
    assert [p.name for p in target.iterdir()] == ["written"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_without_an_exchange_the_old_one_comes_back(
    tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before, between and after the two renames."""
    written, target = two(tmp_path)
    rename, left = Path.rename, [renames]

    def dying(self: Path, new: Path) -> Path:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return rename(self, new)

    def kill(_: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(folders, "_exchange", no_exchange)
        patched.setattr(Path, "rename", dying)
        patched.setattr("shutil.rmtree", kill)
        with pytest.raises(Killed):
            replace_folder(written, target)
    restore_replaced(target)
    assert [p.name for p in target.iterdir()] == ["written" if renames == 2 else "target"]
    assert {p.name for p in tmp_path.iterdir()} <= {"target", "written"}
