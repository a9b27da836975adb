"""One process at a time writes to a folder of a bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dedn_jax.buckets import owner
from dedn_jax.buckets.owner import Owner
from dedn_jax.errors import InputError
from tests.helpers.buckets import MemoryBucket


class Clock:
    """Time that passes in `sleep` alone."""

    def __init__(self) -> None:
        self.now, self.during = 0.0, lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(owner, "time", clock)
    return clock


def elsewhere(bucket: MemoryBucket, number: int = 1) -> None:
    """Makes an owner one of another machine."""
    name = f"run/.owner/{number:08d}"
    bucket.write(name, json.dumps(json.loads(bucket.read(name)) | {"host": "far away"}).encode())


def test_one_after_the_other(clock: Clock) -> None:
    bucket = MemoryBucket()
    first = Owner(bucket, "run/", "gs://b/run")
    assert first.owns() and first.renew()
    first.release()
    second = Owner(bucket, "run/", "gs://b/run")
    assert second.owns() and not first.owns() and not first.renew()
    first.release()  # of what it no longer has
    assert second.owns()
    assert list(bucket.content) == ["run/.owner/00000002"]
    assert clock.now == 0


def test_who_is_alive_is_not_replaced(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = MemoryBucket()
    first = Owner(bucket, "run/", "gs://b/run")
    elsewhere(bucket)

    def beat() -> None:
        if clock.now > 20:
            assert first.renew()

    clock.during = beat
    with pytest.raises(
        InputError, match=r"^--workdir: another process, process \d+ on far, trains"
    ):
        Owner(bucket, "run/", "gs://b/run")
    assert 20 < clock.now < owner.STALE
    assert first.owns()
    assert "waiting 60 s for a sign of life" in capsys.readouterr().err


def test_who_gives_no_sign_of_life_is_replaced(clock: Clock) -> None:
    bucket = MemoryBucket()
    first = Owner(bucket, "run/", "gs://b/run")
    elsewhere(bucket)
    second = Owner(bucket, "run/", "gs://b/run")
    assert owner.STALE <= clock.now <= owner.STALE + owner.RENEW
    # It wakes up, and sees that it is no longer the owner.
    assert second.owns() and not first.renew()
    assert second.owns()


def test_of_two_that_wait_one_gets_it(clock: Clock) -> None:
    bucket = MemoryBucket()
    Owner(bucket, "run/", "gs://b/run")
    elsewhere(bucket)
    others: list[Owner] = []

    def another() -> None:
        if clock.now >= owner.STALE and not others:
            clock.during = lambda: None
            others.append(Owner(bucket, "run/", "gs://b/run"))
            elsewhere(bucket, 2)
            clock.during = others[0].renew

    clock.during = another
    with pytest.raises(InputError, match="another process"):
        Owner(bucket, "run/", "gs://b/run")
    assert others[0].owns()


def test_a_process_of_this_machine_that_ended(clock: Clock) -> None:
    bucket = MemoryBucket()
    Owner(bucket, "run/", "gs://b/run")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    name = "run/.owner/00000001"
    content = json.loads(bucket.read(name))
    assert content["pid"] == os.getpid()
    bucket.write(name, json.dumps(content | {"pid": ended.pid}).encode())
    assert Owner(bucket, "run/", "gs://b/run").owns()
    assert clock.now == 0


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"pid": "x"}', b'{"pid": 99999999999999}', b"[" * 9000]
)
def test_what_others_write_there(clock: Clock, content: bytes) -> None:
    bucket = MemoryBucket()
    bucket.write("run/.owner/00000007", content)
    bucket.write("run/.owner/notes", content)
    assert Owner(bucket, "run/", "gs://b/run").owns()
    assert sorted(bucket.content) == ["run/.owner/00000008", "run/.owner/notes"]
