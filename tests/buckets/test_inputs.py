"""Data in buckets."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedn_jax.buckets.inputs import input_path
from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.config import load_config
from dedn_jax.data.load import load_dataset
from dedn_jax.errors import InputError
from tests.buckets.test_storage import opened
from tests.helpers.buckets import MemoryBucket
from tests.made_up import published_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_object(memory: MemoryBucket) -> None:
    memory.write("data/f.hdf5", b"one")
    memory.write("data/f.hdf5.txt", b"another")
    path = input_path("gs://b/data/f.hdf5")
    assert path.name == "f.hdf5" and path.read_bytes() == b"one"
    assert with_addresses(f"{path}: damaged") == "gs://b/data/f.hdf5: damaged"
    path.write_bytes(b"own")  # not fetched again
    assert input_path("gs:/b/data/f.hdf5").read_bytes() == b"own"
    memory.write("data/f.hdf5", b"two")
    assert input_path("gs://b/data/f.hdf5").read_bytes() == b"two"


def test_a_folder(memory: MemoryBucket) -> None:
    for name in ("", "manifest.json", "shards/0.npy", "shards/1.npy"):
        memory.write(f"stores/cub/{name}", name.encode())
    memory.write("stores/cub2/manifest.json", b"")
    path = input_path("s3://b/stores/cub/")

    def local() -> set[str]:
        return {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}

    assert path.name == "cub"
    assert local() == {"manifest.json", "shards/0.npy", "shards/1.npy"}
    memory.delete("stores/cub/shards/1.npy")
    assert input_path("s3://b/stores/cub") == path
    assert local() == {"manifest.json", "shards/0.npy"}


def test_what_was_cut_short_is_fetched_again(
    memory: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.write("f", b"one")
    path = input_path("gs://b/f")
    memory.write("f", b"two")

    def failing(name: str, file: Path) -> None:
        file.write_bytes(b"t")
        raise OSError(5, "cannot be reached", "gs://b/f")

    with monkeypatch.context() as patched:
        patched.setattr(memory, "download", failing)
        with pytest.raises(InputError, match=r"^gs://b/f: cannot be reached"):
            input_path("gs://b/f")
    assert path.read_bytes() == b"t"
    assert input_path("gs://b/f").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gs://b/none", "gs://b/none: no such object or folder in the bucket"),
        ("gs://b", "gs://b: a whole bucket, expected gs://b/NAME"),
        ("gs://b/bad", "gs://b/bad: an object of the name 'bad/../x', which no file can have"),
    ],
)
def test_refused(memory: MemoryBucket, address: str, message: str, tmp_path: Path) -> None:
    memory.write("bad/../x", b"")
    with pytest.raises(InputError, match=message):
        input_path(address)
    assert not [p for p in tmp_path.rglob("x") if p.is_file()]


@pytest.mark.moto
def test_a_data_set(address: str, tmp_path: Path) -> None:
    file = published_file(tmp_path / "f.hdf5")
    bucket, prefix = opened(address)
    bucket.upload(file, f"{prefix}f.hdf5")
    there, here = (
        load_dataset(load_config("base", {"data.path": str(path)}))
        for path in (f"{address}/f.hdf5", file)
    )
    assert there.fingerprint() == here.fingerprint()
