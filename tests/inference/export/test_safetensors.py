"""Parameters as safetensors: back again to the bit; files of other models are refused."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dedn_jax.cli.main import main
from dedn_jax.errors import InputError
from dedn_jax.inference.export.safetensors import export_safetensors, read_safetensors
from dedn_jax.inference.run import Run, train
from tests.helpers.picture_runs import PictureRuns
from tests.helpers.tiny import tiny_config, write_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return train(tiny_config(write_tiny(folder / "tiny.hdf5"), train__epochs=2), folder / "run")


def assert_same(run: Run, path: Path) -> None:
    again = read_safetensors(run, path)
    assert jax.tree.structure(again) == jax.tree.structure(run.params)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(run.params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_there_and_back(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.safetensors"
    work = f"--workdir={run.workdir.path}"
    assert main(["export", work, "--format=safetensors", f"--out={file}"]) == 0
    assert_same(run, file)
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["config"]) == run.config.to_dict()
    assert json.loads(metadata["class_names"])[2] == "class 2"
    assert json.loads(metadata["group_members"]) == [[0, 1, 2], [3, 4, 5]]
    capsys.readouterr()
    assert main(["evaluate", work, f"--weights={file}"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["test"] == run.result["test"]


def test_a_trained_backbone_goes_along(picture_runs: PictureRuns, tmp_path: Path) -> None:
    run = picture_runs.images
    export_safetensors(run, tmp_path / "model.safetensors")
    assert_same(run, tmp_path / "model.safetensors")


def test_of_another_model(run: Run, tmp_path: Path) -> None:
    export_safetensors(run, tmp_path / "model.safetensors")
    arrays = load_file(tmp_path / "model.safetensors")
    other = tmp_path / "other.safetensors"
    name = "coarse.region_score"
    save_file({**arrays, name: arrays[name][:, :-1].copy()}, other)
    with pytest.raises(InputError, match=r"coarse.region_score has shape \[5, 7\], the run's"):
        read_safetensors(run, other)
    save_file({k: v for k, v in arrays.items() if k != name}, other)
    with pytest.raises(InputError, match=r"lacks coarse.region_score; it is of another model"):
        read_safetensors(run, other)
    save_file({**arrays, "more": np.zeros(1)}, other)
    with pytest.raises(InputError, match="more is no parameter of the run's model"):
        read_safetensors(run, other)
    for content in (b"", b"\xff" * 64, b"{}" * 9):
        other.write_bytes(content)
        with pytest.raises(InputError, match=r"not a readable .safetensors file"):
            read_safetensors(run, other)
    with pytest.raises(InputError, match="no such file"):
        read_safetensors(run, tmp_path / "missing.safetensors")


def test_of_other_attributes(run: Run, tmp_path: Path) -> None:
    """Of the same shapes: the metadata alone tells."""
    export_safetensors(run, tmp_path / "model.safetensors")
    arrays, other = load_file(tmp_path / "model.safetensors"), tmp_path / "other.safetensors"
    names = list(run.outline.attribute_names)
    swapped = [names[1], names[0], *names[2:]]
    for metadata, message in (
        ({"group_members": "[[3, 4, 5], [0, 1, 2]]"}, "in other groups than the run's"),
        ({"group_members": "[[0, 1, 3], [2, 4, 5]]"}, "in other groups than the run's"),
        ({"attribute_names": json.dumps(swapped)}, "number 1 is 'attribute 1', the run's 'attr"),
        ({"group_members": "{"}, "group_members in its metadata is no JSON"),
        ({"group_members": "[" * 100_000}, "group_members in its metadata is no JSON"),
        ({"attribute_names": "3"}, "attribute_names in its metadata is no list"),
    ):
        save_file(arrays, other, metadata)
        with pytest.raises(InputError, match=message) as caught:
            read_safetensors(run, other)
        assert len(str(caught.value).splitlines()) == 1
    renamed = json.dumps([f"new {name}" for name in names])
    for allowed in ({"attribute_names": renamed}, {"attribute_names": "[1]"}, {}, None):
        save_file(arrays, other, allowed)
        assert_same(run, other)


def test_values_that_are_no_parameters(run: Run, tmp_path: Path) -> None:
    export_safetensors(run, tmp_path / "model.safetensors")
    arrays = load_file(tmp_path / "model.safetensors")
    other, name = tmp_path / "other.safetensors", "coarse.region_score"
    broken = arrays[name].copy()
    broken[0, 0] = np.nan
    save_file({**arrays, name: broken}, other)
    with pytest.raises(InputError, match=r"coarse.region_score has NaN or infinite values"):
        read_safetensors(run, other)
    save_file({**arrays, name: arrays[name].astype(np.int64)}, other)
    with pytest.raises(
        InputError, match=r"coarse.region_score is of type I64, expected one of F32"
    ):
        read_safetensors(run, other)
