"""Files that are whole or absent."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from dedn_jax.errors import InputError, one_line
from dedn_jax.files import (
    atomic_file,
    check_contained,
    check_output,
    file_sha256,
    hold_lock,
    locked_folder,
    open_regular,
    read_json,
    read_regular,
    read_text_lines,
    write_json,
)
from dedn_jax.owned import check_not_owned


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"{")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_can_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "new" / "value.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "value.json").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_what_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "value.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"value\.json: "):
        read_json(path)


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "report.json")
    (tmp_path / "features.h5").write_text("precious")
    (tmp_path / "link.json").symlink_to(tmp_path / "features.h5")
    (tmp_path / "folder.json").mkdir()
    for name, reason in (
        ("features.h5", "ends in .json"),
        ("link.json", "not a regular file"),
        ("folder.json", "not a regular file"),
        ("features.h5/report.json", "is not a writable folder"),
    ):
        with pytest.raises(InputError, match=reason):
            check_output(tmp_path / name)


def test_outputs_are_no_part_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("config.json", "dataset.json"):
        write_json(run / name, {})
    (tmp_path / "link").symlink_to(run)
    for name in (
        "run/config.json",
        "run/tensorboard/final/new.json",
        "run/validation/x.json",
        "run/starts/1/environment.json",
        "run/result-40-epochs.json",
        "link/config.json",
        "other/../run/config.json",
    ):
        with pytest.raises(InputError, match=f"belongs to the run in {run}, which would be des"):
            check_output(tmp_path / name)
    for free in ("run/evaluation.json", "run/report/report.json", "config.json"):
        check_output(tmp_path / free)
    # A config alone is not a run: folders of other programs have such files.
    (run / "dataset.json").unlink()
    check_output(run / "config.json")


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(tmp_path / "value.json", {})
    assert caught.value.filename == str(tmp_path / "value.json")
    assert not list(tmp_path.iterdir())


def test_a_lock_on_a_removed_file_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold_lock(path, wait=False):
        with pytest.raises(BlockingIOError):
            hold_lock(path, wait=False)
        path.unlink()
        with hold_lock(path, wait=False), pytest.raises(BlockingIOError):
            hold_lock(path, wait=False)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_writing_warns_and_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
) -> None:
    """NFS without a lock service, Lustre without its option, some FUSE mounts."""

    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for _ in range(2):
        with locked_folder(tmp_path / "run", ".lock", wait=True):
            (tmp_path / "run" / "result").touch()
        with hold_lock(tmp_path / "run" / ".other", wait=False):
            pass
    assert (tmp_path / "run" / "result").exists()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1  # once for the folder
    assert str(tmp_path / "run") in said[0]
    assert os.strerror(code) in said[0]
    assert "only one" in said[0]


def test_other_errors_of_locks_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"):
        hold_lock(tmp_path / ".lock", wait=False)


def test_an_error_takes_a_new_folder_away(tmp_path: Path) -> None:
    def fail(folder: Path, *, leave: str = "") -> None:
        with locked_folder(folder, ".lock"):
            assert (folder / ".lock").exists()
            if leave:
                (folder / leave).touch()
            raise RuntimeError("no")

    for folder, leave, left in (
        (tmp_path / "a" / "b", "", []),
        (tmp_path / "c" / "d", "kept", ["c", "d", "kept"]),
    ):
        with pytest.raises(RuntimeError, match="no"):
            fail(folder, leave=leave)
        assert sorted(p.name for p in tmp_path.rglob("*")) == left


def test_file_sha256(tmp_path: Path) -> None:
    data = bytes(3 * 2**20 // 2)
    (tmp_path / "a").write_bytes(data)
    pieces: list[int] = []
    assert file_sha256(tmp_path / "a", pieces.append) == hashlib.sha256(data).hexdigest()
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert sum(pieces) == len(data)


def test_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("x" * 999), limit=7) == "x" * 7
    assert len(one_line(ValueError("x" * 999))) == 200


def test_text_lines_of_somebody_else(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("wing\nbill\n")
    assert read_text_lines(file, 100, "give names") == ["wing", "bill"]
    for content, limit, message in (
        (b"x" * 11, 10, "11 bytes, expected at most 10; give names"),
        (b"\xff\xfe", 100, "not UTF-8 text; give names"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_text_lines(file, limit, "give names")
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    with pytest.raises(InputError, match="pipe: a pipe or socket, expected a regular file; give"):
        read_text_lines(tmp_path / "pipe", 100, "give names")
    with pytest.raises(InputError, match="No such file or directory; give names"):
        read_text_lines(tmp_path / "none", 100, "give names")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pipe", "a pipe or socket, expected a regular file"),
        ("/dev/zero", "a device, expected a regular file"),
        ("", "a folder, expected a regular file"),
        ("large", "101 bytes, expected at most 100"),
        ("link", "101 bytes, expected at most 100"),
    ],
)
def test_only_regular_files_of_a_stated_size(tmp_path: Path, name: str, expected: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(101))
    (tmp_path / "link").symlink_to("large")
    with pytest.raises(InputError, match=expected):
        open_regular(tmp_path / name, 100)
    with pytest.raises(InputError, match=f"{expected}; give another"):
        read_text_lines(tmp_path / name, 100, "give another")
    with pytest.raises(InputError, match="restore or remove it"):
        read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    assert read_regular(tmp_path / "link", 101) == bytes(101)


def test_a_folder_contains_what_is_in_it(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    (mine / "sub").mkdir(parents=True)
    other.mkdir()
    (mine / "sub" / "inner").symlink_to("../sub")
    (tmp_path / "way").symlink_to("mine")
    check_contained(tmp_path / "way")  # the way to it is the user's
    check_contained(tmp_path / "none")
    for target in (other, tmp_path / "missing", "../../other"):
        link = mine / "sub" / "outer"
        link.symlink_to(target)
        with pytest.raises(InputError, match=r"mine/sub/outer: a link out of "):
            check_contained(mine)
        link.unlink()
    circle = mine / "sub" / "circle"
    circle.symlink_to("circle")
    for inside in (mine, circle):
        with pytest.raises(InputError, match=r"sub/circle: a link that leads round in a circle"):
            check_contained(inside)
    with pytest.raises(InputError, match=r"sub/circle: a link that leads round in a circle"):
        check_not_owned(circle / "report.json")
    circle.unlink()
    os.mkfifo(mine / "sub" / "pipe")
    with pytest.raises(InputError, match=r"mine/sub/pipe: a pipe or socket"):
        check_contained(mine)


def test_no_lock_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".lock").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(InputError, match="a link out of"),
        locked_folder(tmp_path / "mine", ".lock"),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()
