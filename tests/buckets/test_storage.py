"""What both kinds of bucket do alike, asked of fake ones over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dedn_jax.buckets.storage import Bucket, open_bucket
from dedn_jax.cli.main import main
from dedn_jax.errors import InputError


def opened(address: str) -> tuple[Bucket, str]:
    scheme, _, rest = address.partition("://")
    bucket, _, name = rest.partition("/")
    return open_bucket(scheme, bucket), f"{name}/"


@pytest.mark.moto
def test_objects(address: str, tmp_path: Path) -> None:
    bucket, prefix = opened(address)
    assert bucket.objects(prefix, 10) == {}
    bucket.write(f"{prefix}a/b c.txt", b"one")
    before = bucket.objects(prefix, 10)
    assert {name: size for name, (size, _) in before.items()} == {f"{prefix}a/b c.txt": 3}
    bucket.write(f"{prefix}a/b c.txt", b"two")
    assert bucket.objects(prefix, 10) != before
    assert bucket.read(f"{prefix}a/b c.txt") == b"two"
    (tmp_path / "large").write_bytes(bytes(range(256)) * 50_000)
    bucket.upload(tmp_path / "large", f"{prefix}large")
    bucket.download(f"{prefix}large", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()
    for _ in range(2):
        bucket.delete(f"{prefix}large")
    assert list(bucket.objects(prefix, 10)) == [f"{prefix}a/b c.txt"]


@pytest.mark.moto
def test_only_the_first_creates(address: str) -> None:
    bucket, prefix = opened(address)
    assert bucket.create(f"{prefix}a", b"one")
    assert not bucket.create(f"{prefix}a", b"two")
    assert bucket.read(f"{prefix}a") == b"one"


@pytest.mark.moto
def test_what_is_not_there(address: str, tmp_path: Path) -> None:
    bucket, prefix = opened(address)
    with pytest.raises(FileNotFoundError):
        bucket.read(f"{prefix}a")
    other = open_bucket(address.partition("://")[0], "no-such-bucket")
    for call in (
        lambda: other.objects("a", 10),
        lambda: other.write("a", b""),
        lambda: other.create("a", b""),
        lambda: other.download("a", tmp_path / "a"),
    ):
        with pytest.raises(FileNotFoundError, match="no such object or bucket"):
            call()


@pytest.mark.parametrize(("scheme", "package"), [("gs", "google.cloud.storage"), ("s3", "boto3")])
def test_missing_package(
    scheme: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'dedn-jax\[bucket\]'"):
        open_bucket(scheme, "b")
    assert main(["evaluate", f"--workdir={scheme}://b/run"]) == 2
    printed = capsys.readouterr().err
    assert printed == (
        f"dedn: {scheme}://b: needs {package}, which is not installed; run: pip install "
        "'dedn-jax[bucket]'\n"
    )


@pytest.mark.moto
def test_nobody_answers(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scheme = address.partition("://")[0]
    assert main(["evaluate", f"--workdir={scheme}://no-such-bucket/run"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"dedn: {scheme}://no-such-bucket/run")
    assert "no such object or bucket; choose another" in printed and printed.count("\n") == 1
