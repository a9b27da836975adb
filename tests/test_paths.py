"""Paths as people give them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dedn_jax.buckets.inputs import input_path
from dedn_jax.buckets.mirror import workdir_path
from dedn_jax.buckets.outputs import output_path
from dedn_jax.errors import InputError
from dedn_jax.paths import local_path


@pytest.mark.parametrize("given", ["runs/a", "/runs/a", "/x/gs:/a", "a:b", "C:/x", "-", "a/gs://b"])
def test_paths_stay(given: str) -> None:
    assert local_path(given) == local_path(Path(given)) == Path(given)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:///a/b%20c", "/a/b c"),
        ("file:/a/b", "/a/b"),
        ("file://localhost/a", "/a"),
        ("FILE:///a", "/a"),
    ],
)
def test_addresses_of_files(given: str, path: str) -> None:
    assert local_path(given) == Path(path)


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert local_path("~/a") == local_path(Path("~/a")) == Path("/home/of/mine/a")
    with pytest.raises(InputError, match=r"^~nobody-has-this-name/a: .*; give the whole path$"):
        local_path("~nobody-has-this-name/a")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("gs://b/runs/a", "(gcsfuse b FOLDER) and give FOLDER/runs/a, or copy it (gcloud storage"),
        ("gs:/b/runs/a", "(gcsfuse b FOLDER) and give FOLDER/runs/a, or copy it (gcloud storage"),
        ("GS://b/runs/a", "cp --recursive gs://b/runs/a FOLDER)"),
        ("s3://b/f.hdf5", "(mount-s3 b FOLDER) and give FOLDER/f.hdf5, or copy it (aws s3 cp"),
        ("https://x.org/f.hdf5", "download it and give the file"),
        ("hdfs://host/a", "mount that storage and give a path there, or copy it"),
    ],
)
def test_other_storage_is_refused(given: str, advice: str) -> None:
    for form in (given, Path(given)):
        with pytest.raises(InputError) as refused:
            local_path(form)
        text = str(refused.value)
        scheme, _, rest = given.partition(":")
        address = f"{scheme.lower()}://{rest.lstrip('/')}"
        assert text.startswith(f"{address}: only a path on this machine, or mounted on it, works")
        assert advice in text
        assert "\n" not in text


def test_an_empty_text_is_not_the_current_folder() -> None:
    for path in (local_path, input_path, output_path, workdir_path):
        with pytest.raises(InputError, match=r"^an empty path; give the name of a file or folder"):
            path("")
    assert local_path(".") == Path()


def test_files_of_other_machines_are_refused() -> None:
    with pytest.raises(InputError, match="a file of another machine, far; expected file:///PATH"):
        local_path("file://far/a")


def test_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        local_path("gs://b/a")
    assert os.listdir(tmp_path) == []
