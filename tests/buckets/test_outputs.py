"""Files that jobs write to buckets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.buckets import outputs
from dedn_jax.buckets.outputs import (
    fetch_part,
    output_address,
    output_path,
    send_part,
    upload_outputs,
)
from dedn_jax.cli.main import main
from dedn_jax.errors import InputError
from tests.helpers.buckets import MemoryBucket

VECTORS = "gs://b/words/v.npy"


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A job that writes a small file, but for its `--out`."""
    monkeypatch.setattr(outputs, "_outputs", {})
    (tmp_path / "glove.txt").write_text("blue 1 2\nwing 3 4\n")
    (tmp_path / "names.txt").write_text("blue wing\n")
    return [
        *("data", "wordvectors", f"--glove={tmp_path / 'glove.txt'}"),
        f"--attributes={tmp_path / 'names.txt'}",
    ]


def test_uploaded(
    memory: MemoryBucket, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"--out={VECTORS}"]) == 0
    assert memory.calls == ["words/v.npy"]
    np.testing.assert_array_equal(np.load(io.BytesIO(memory.content["words/v.npy"])), [[2, 3]])
    assert f"Wrote {VECTORS}: 1 vectors of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("gs://b", "gs://b: a whole bucket, expected gs://b/NAME"),
        ("gs://b/words/v.txt", "gs://b/words/v.txt: expected a name that ends in .npy"),
        (
            "gs://b/runs/cub/final/v.npy",
            "gs://b/runs/cub/final/v.npy: final belongs to the run in gs://b/runs/cub, which",
        ),
        ("gs://b/store/v.npy", "gs://b/store/v.npy: v.npy belongs to the feature store in"),
    ],
)
def test_refused_before_the_work(
    out: str,
    text: str,
    memory: MemoryBucket,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("cub/config.json", "cub/dataset.json", "other/config.json.old"):
        memory.write(f"runs/{name}", b"{}")
    for name in ("manifest.json", "annotations.npz"):
        memory.write(f"store/{name}", b"")
    before = set(memory.content)
    assert main([*words, f"--out={out}"]) == 2
    assert f"dedn: {text}" in capsys.readouterr().err
    assert set(memory.content) == before
    assert main([*words, "--out=gs://b/runs/cub/v.npy"]) == 0  # beside the files of a run


def test_a_bucket_that_fails(
    memory: MemoryBucket, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    memory.fails = True
    assert main([*words, f"--out={VECTORS}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("dedn: words/v.npy: cannot be reached; choose another, or copy it there")
    kept = Path(said.rpartition(": it is in ")[2], "v.npy")
    np.testing.assert_array_equal(np.load(kept), [[2, 3]])


def test_parts_of_several_processes(memory: MemoryBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_outputs", {})
    theirs, mine = output_path("gs://b/p/a.csv"), output_path("gs://b/p/a.csv")
    assert output_address(mine) == "gs://b/p/a.csv"
    part = ".a.csv.1-of-2"
    theirs.with_name(part).write_bytes(b"1")
    send_part(theirs.with_name(part))
    assert list(memory.content) == [f"p/{part}"]
    fetch_part(mine.with_name(part))
    assert mine.with_name(part).read_bytes() == b"1"
    assert not memory.content
    mine.with_name(part).unlink()
    mine.write_bytes(b"0, 1")
    upload_outputs()
    assert memory.content == {"p/a.csv": b"0, 1"}


def test_other_paths_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    assert output_path(file) == file and output_address(file) is None
    file.write_bytes(b"0")
    send_part(file)
    fetch_part(file)
    assert file.read_bytes() == b"0"


@pytest.mark.parametrize("job", ["explain", "features extract", "data build", "data show"])
def test_folders_are_refused(
    job: str, memory: MemoryBucket, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"explain": ["--workdir=w", "p.jpg"], "features extract": ["--config=demo"]}
    assert main([*job.split(), *flags.get(job, ["demo"]), "--out=gs://b/folder"]) == 2
    said = capsys.readouterr().err
    assert "dedn: gs://b/folder: only a path on this machine, or mounted on it, works here" in said


def test_unusable_addresses() -> None:
    with pytest.raises(InputError, match="only a path on this machine"):
        output_path("https://x.org/a.csv")
