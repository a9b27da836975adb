"""Whole data sets, from archives that are there instead of the published ones."""

from __future__ import annotations

import hashlib
import shutil
import zipfile

import pytest

from dedn_jax.data.sources import fetch as module
from dedn_jax.data.sources.fetch import Fetched, fetch_dataset
from dedn_jax.data.sources.published_archives import Archive
from dedn_jax.errors import InputError

FILES = {"images.zip": "images/a.jpg", "names.zip": "names/n.mat", "splits.zip": "xlsa17/s.mat"}


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The names of the archives downloaded, in order."""
    table = tuple(
        Archive(f"http://127.0.0.1/{name}", name, "." if name == "splits.zip" else "SUN")
        for name in FILES
    )
    calls = []

    def download(archive, folder, *, sha256=None):
        calls.append((archive.file_name, sha256))
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / archive.file_name, "w") as out:
            out.writestr(zipfile.ZipInfo(FILES[archive.file_name]), archive.file_name)
        return folder / archive.file_name

    monkeypatch.setattr(module, "ARCHIVES", {"SUN": table})
    monkeypatch.setattr(module, "download", download)
    return calls


def test_fetch(calls, tmp_path):
    fetched = fetch_dataset("SUN", tmp_path)
    assert [(f.entries, f.new) for f in fetched] == [
        (["images"], True),
        (["names"], True),
        (["xlsa17"], True),
    ]
    assert (tmp_path / "SUN/images/a.jpg").read_text() == "images.zip"
    assert (tmp_path / "SUN/names/n.mat").exists()
    assert (tmp_path / "xlsa17/s.mat").exists()
    assert not (tmp_path / "downloads").exists()
    again = fetch_dataset("SUN", tmp_path)
    assert [f._replace(new=False) for f in fetched] == again
    assert len(calls) == 3


def test_archives_can_stay(calls, tmp_path):
    fetched = fetch_dataset("SUN", tmp_path, keep_archives=True)
    for one in fetched:
        data = (tmp_path / "downloads" / one.archive.file_name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == one.sha256


def test_only_what_is_missing(calls, tmp_path):
    fetch_dataset("SUN", tmp_path)
    (tmp_path / "SUN/names").rename(tmp_path / "elsewhere")
    fetch_dataset("SUN", tmp_path)
    assert [name for name, _ in calls][3:] == ["names.zip"]
    assert (tmp_path / "SUN/names/n.mat").exists()


def test_what_the_user_put_there_stays(calls, tmp_path):
    (tmp_path / "SUN/images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"SUN/images: exists already"):
        fetch_dataset("SUN", tmp_path)
    assert not list((tmp_path / "SUN/images").iterdir())


def test_what_was_unpacked_by_hand_is_there(calls, tmp_path, monkeypatch):
    one = Archive("http://127.0.0.1/a", "images.zip", "SUN", unpacks_to=("images", "more"))
    monkeypatch.setattr(module, "ARCHIVES", {"SUN": (one,)})
    (tmp_path / "SUN/images").mkdir(parents=True)
    found = fetch_dataset("SUN", tmp_path)
    assert found == [Fetched(one, tmp_path / "SUN", ["images"], None, new=False)]
    assert not calls
    with pytest.raises(InputError, match="SUN/images: was unpacked by hand, so the sha256"):
        fetch_dataset("SUN", tmp_path, sha256={"images.zip": "0" * 64})
    # But what a call of ours began is taken to its end.
    shutil.rmtree(tmp_path / "SUN")
    fetch_dataset("SUN", tmp_path)
    (tmp_path / "SUN/images").rename(tmp_path / "SUN/more")
    assert fetch_dataset("SUN", tmp_path)[0].new
    assert len(calls) == 2


def test_hashes_of_the_caller(calls, tmp_path):
    found = fetch_dataset("SUN", tmp_path)[0].sha256
    fetch_dataset("SUN", tmp_path, sha256={"images.zip": found})
    with pytest.raises(InputError, match="expected 0000"):
        fetch_dataset("SUN", tmp_path, sha256={"images.zip": "0" * 64})
    with pytest.raises(InputError, match=r"unknown archive 'x\.zip'"):
        fetch_dataset("SUN", tmp_path, sha256={"x.zip": found})


def test_unknown_name(tmp_path):
    with pytest.raises(InputError, match="NABirds: cannot be downloaded"):
        fetch_dataset("NABirds", tmp_path)
