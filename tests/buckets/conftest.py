"""Fake buckets over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from benchmarks.fake_buckets import BUCKET, fake_amazon, fake_google
from dedn_jax.buckets import inputs, mirror, outputs
from tests.helpers.buckets import MemoryBucket

_numbers = itertools.count()


@pytest.fixture(scope="session")
def google() -> Iterator[dict[str, str]]:
    with fake_google() as environment:
        yield environment


@pytest.fixture(scope="session")
def amazon() -> Iterator[dict[str, str]]:
    with fake_amazon() as environment:
        yield environment


@pytest.fixture(params=["gs", "s3"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in a bucket that nothing is at yet."""
    server = {"gs": "google", "s3": "amazon"}[request.param]
    for name, value in request.getfixturevalue(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mirror, "_mirrors", {})
    return f"{request.param}://{BUCKET}/runs {next(_numbers)}"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    """Every bucket, in memory."""
    bucket = MemoryBucket()
    for module in (mirror, inputs, outputs):
        monkeypatch.setattr(module, "open_bucket", lambda scheme, name: bucket)
    monkeypatch.setattr(mirror, "_mirrors", {})
    return bucket
