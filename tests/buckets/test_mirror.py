"""The local copy of a work directory in a bucket."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from dedn_jax.buckets import mirror as mirrors
from dedn_jax.buckets import temporary
from dedn_jax.buckets.mirror import Mirror, mirror_at, workdir_path
from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.errors import InputError
from tests.helpers.buckets import MemoryBucket

ADDRESS = "gs://b/runs/cub"


def written(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)


def there(bucket: MemoryBucket) -> set[str]:
    names = {name.removeprefix("runs/cub/") for name in bucket.content}
    return {name for name in names if not name.startswith(".owner/")}


def test_files_that_speak_of_others_come_after_them(memory: MemoryBucket) -> None:
    mirror = Mirror(ADDRESS)
    written(
        mirror.folder,
        *("config.json", "result.json", "dataset.json", "metrics.jsonl", "final/result.json"),
        *("final/checkpoints/3/_CHECKPOINT_METADATA", "final/checkpoints/3/state/d/x", ".lock"),
        *("final/checkpoints/6.orbax-checkpoint-tmp/state", ".result.json.0123456789abcdef"),
    )
    mirror.push()
    order = [name.removeprefix("runs/cub/") for name in memory.calls]
    first, second = order.index("final/checkpoints/3/state/d/x"), order.index("final/result.json")
    assert first < order.index("final/checkpoints/3/_CHECKPOINT_METADATA") < second
    # Without these two, what is there would be no run.
    assert order[:2] == ["dataset.json", "config.json"]
    assert order[-2:] == ["final/result.json", "result.json"] and len(order) == 7
    memory.calls.clear()
    written(mirror.folder, "final/checkpoints/6/_CHECKPOINT_METADATA", "final/checkpoints/6/state")
    (mirror.folder / "config.json").write_text("of more epochs")
    mirror.push()
    order = [name.removeprefix("runs/cub/final/checkpoints/6/") for name in memory.calls]
    assert order == ["state", "_CHECKPOINT_METADATA", "runs/cub/config.json"]


def test_what_is_removed_goes_in_the_opposite_order(memory: MemoryBucket) -> None:
    mirror = Mirror(ADDRESS)
    step = "final/checkpoints/3"
    written(mirror.folder, f"{step}/_CHECKPOINT_METADATA", f"{step}/state", "config.json")
    mirror.push()
    memory.calls.clear()
    shutil.rmtree(mirror.folder / step)
    mirror.push()
    assert memory.calls == [
        f"-runs/cub/{step}/_CHECKPOINT_METADATA",
        f"-runs/cub/{step}/state",
    ]


def test_only_what_changed_is_sent(memory: MemoryBucket) -> None:
    mirror = Mirror(ADDRESS)
    written(mirror.folder, "config.json", "metrics.jsonl", "tensorboard/final/events")
    mirror.push(logs=False)
    assert len(memory.calls) == 3
    with (mirror.folder / "metrics.jsonl").open("a") as file:
        file.write("more")
    mirror.push(logs=False)  # too soon for a log
    assert len(memory.calls) == 3
    mirror.push()
    assert memory.calls[3:] == ["runs/cub/metrics.jsonl"]
    with (mirror.folder / "metrics.jsonl").open("a") as file:
        file.write("more")
    step = "final/checkpoints/3"
    written(mirror.folder, f"{step}/_CHECKPOINT_METADATA", f"{step}/state")
    mirror.push(logs=False)  # not too soon before the checkpoint that goes on from there
    assert sorted(memory.calls[4:6]) == [f"runs/cub/{step}/state", "runs/cub/metrics.jsonl"]
    assert memory.calls[6:] == [f"runs/cub/{step}/_CHECKPOINT_METADATA"]


def test_fetched_are_the_files_of_a_run(memory: MemoryBucket) -> None:
    names = {
        *(
            "config.json",
            "dataset.json",
            "final/selected/d/x",
            "final/result.json",
            "report/x.html",
        ),
        *("final/checkpoints/3/_CHECKPOINT_METADATA", "final/checkpoints/3/state/d/x"),
        *("final/checkpoints/6/state/d/x", "tensorboard/final/events", "final/../../../x", "x//y"),
    }
    for name in names:
        memory.write(f"runs/cub/{name}", name.encode())
    mirror = Mirror(ADDRESS)

    def local() -> set[str]:
        files = (p for p in mirror.folder.rglob("*") if p.is_file())
        return {p.relative_to(mirror.folder).as_posix() for p in files}

    read = {"config.json", "dataset.json", "final/selected/d/x", "final/result.json"}
    mirror.pull()
    assert local() == read
    mirror.pull(checkpoints=True)
    whole = {f"final/checkpoints/3/{name}" for name in ("_CHECKPOINT_METADATA", "state/d/x")}
    assert local() == read | whole  # the other one is not complete
    memory.calls.clear()
    mirror.push()
    assert memory.calls == []
    memory.write("runs/cub/config.json", b"new")
    memory.delete("runs/cub/final/result.json")
    mirror.pull()
    assert (mirror.folder / "config.json").read_text() == "new"
    assert not (mirror.folder / "final/result.json").exists()
    for name in whole:
        memory.delete(f"runs/cub/{name}")
    mirror.pull(checkpoints=True)
    assert not (mirror.folder / "final/checkpoints").exists()  # nor a folder that is like one


def test_other_things_are_seen_and_left_alone(memory: MemoryBucket) -> None:
    memory.write("runs/cub/photos/1.jpg", b"x" * 1000)
    folder = workdir_path(ADDRESS)
    assert os.listdir(folder) == ["photos"] and (folder / "photos").stat().st_size == 0
    mirror = mirror_at(folder)
    assert mirror is not None
    mirror.push()
    assert there(memory) == {"photos/1.jpg"}


def test_owned(memory: MemoryBucket) -> None:
    mirror = Mirror(ADDRESS)
    with mirror.owned():
        written(mirror.folder, "dataset.json", "config.json")
    assert there(memory) == {"dataset.json", "config.json"}

    def failing() -> None:
        with mirror.owned():
            written(mirror.folder, "metrics.jsonl")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert "metrics.jsonl" in there(memory)  # what was done before an error is kept


def test_taken_over(memory: MemoryBucket) -> None:
    mirror = Mirror(ADDRESS)

    def training() -> None:
        with mirror.owned():
            written(mirror.folder, "config.json")
            memory.write("runs/cub/.owner/00000009", b"{}")

    with pytest.raises(InputError, match="another process has taken over gs://b/runs/cub"):
        training()
    assert there(memory) == set()


def test_noticed_while_training(memory: MemoryBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread is told by what Ctrl-C raises, though it waits."""
    monkeypatch.setattr(mirrors, "LOOK", 0.01)
    monkeypatch.setattr(mirrors, "RENEW", 0.01)
    mirror = Mirror(ADDRESS)
    waited_for: list[str] = []

    def training() -> None:
        with mirror.owned():
            memory.write("runs/cub/.owner/00000009", b"{}")
            time.sleep(60)
            waited_for.append("all of it")

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    try:
        with pytest.raises(InputError, match="another process has taken over"):
            training()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not waited_for


def test_bucket_that_fails(
    memory: MemoryBucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mirrors, "LOOK", 0.01)
    monkeypatch.setattr(mirrors, "_PAUSE", 0.01)
    mirror = Mirror(ADDRESS)

    def training() -> None:
        with mirror.owned():
            memory.fails = True
            written(mirror.folder, "config.json")
            while "cannot be reached; trying again" not in capsys.readouterr().err:
                time.sleep(0.01)

    with pytest.raises(InputError, match=r"cannot be written to .*; the last of it is in /"):
        training()
    temporary._remove(mirror.folder.parent)  # as at the end of the process
    assert (mirror.folder / "config.json").read_text() == "config.json"


def test_messages_name_the_bucket(memory: MemoryBucket) -> None:
    folder = workdir_path("gs:/b//runs/cub/")
    assert folder == workdir_path(ADDRESS) == workdir_path(folder)
    assert with_addresses(f"{folder}/config.json: lacks x") == f"{ADDRESS}/config.json: lacks x"
    assert mirror_at(folder.parent) is None
    with pytest.raises(InputError, match="expected gs://BUCKET/NAME"):
        workdir_path("gs://b/../x")
