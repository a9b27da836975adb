"""Models exported as StableHLO: the run's own scores, for any number of images and classes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jax import export

from dedn_jax.cli.main import main
from dedn_jax.errors import InputError
from dedn_jax.inference.export.function import OUTPUTS, check_outputs, exportable
from dedn_jax.inference.export.stablehlo import PLATFORMS, export_stablehlo
from dedn_jax.inference.run import Run, train
from tests.helpers.picture_runs import PictureRuns
from tests.helpers.tiny import tiny_config, write_tiny

_EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "load_stablehlo.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """From features, calibrated; attributes are not in the order of their groups."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(write_tiny(folder / "tiny.hdf5"), data__groups="0,2,4;1,3,5")
    return train(config, folder / "run")


def loaded(path: Path) -> tuple[Any, dict[str, Any], np.ndarray, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        model = export.deserialize(bytearray(archive.read("model.stablehlo")))
        classes = np.load(io.BytesIO(archive.read("classes.npz")))
        description = json.loads(archive.read("model.json"))
    return model, description, classes["class_embeddings"], classes["unseen"]


def test_scores_of_features(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    assert (
        main(["export", f"--workdir={run.workdir.path}", "--format=stablehlo", f"--out={file}"])
        == 0
    )
    model, description, embeddings, unseen = loaded(file)
    assert model.platforms == PLATFORMS
    scores = run.scores
    # Other numbers of images, and maps that are not normalised.
    for images in (slice(0, 1), slice(0, 7), slice(None)):
        maps = 3.0 * run.dataset.inputs[scores.images[images]]
        gamma = np.float32(description["gamma"])
        mixed, coarse, fine = model.call(maps, embeddings, unseen, gamma)
        expected = scores.mixed(run.mixing())[images]
        np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)
        attributes = scores.attribute_scores(run.mixing().region_mix)
        np.testing.assert_allclose(coarse, attributes.coarse[images], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fine, attributes.fine[images], rtol=1e-5, atol=1e-5)
    assert description["class_names"] == [f"class {k}" for k in range(8)]
    assert description["calibrated"] is True
    assert description["transform"] is None


def test_classes_can_be_swapped(run: Run, tmp_path: Path) -> None:
    """A class alone, and one more: its score does not depend on the others; gamma is added."""
    export_stablehlo(run, tmp_path / "model.zip")
    model, _, embeddings, unseen = loaded(tmp_path / "model.zip")
    maps = run.dataset.inputs[np.arange(5)]
    every, *_ = model.call(maps, embeddings, unseen, np.float32(0))
    alone, *_ = model.call(maps, embeddings[3:4] * 7, np.ones(1, np.float32), np.float32(2.5))
    np.testing.assert_allclose(alone[:, 0], every[:, 3] + 2.5, rtol=1e-5)
    more = np.concatenate([embeddings, embeddings[:2]])
    nine, *_ = model.call(maps, more, np.append(unseen, [1, 1]).astype(np.float32), np.float32(0))
    np.testing.assert_allclose(nine[:, 8:], every[:, :2], rtol=1e-5)


@pytest.mark.parametrize("kind", ["images", pytest.param("store", marks=pytest.mark.slow)])
def test_scores_of_pictures(picture_runs: PictureRuns, kind: str, tmp_path: Path) -> None:
    """With the backbone in it, from uint8 pictures; of a run on a store as well."""
    run: Run = getattr(picture_runs, kind)
    export_stablehlo(run, tmp_path / "model.zip")
    model, description, embeddings, unseen = loaded(tmp_path / "model.zip")
    assert description["transform"] == {"resize": 64, "crop": 64}
    assert description["inputs"]["inputs"].startswith("uint8 [batch, 64, 64, 3]")
    scores = run.scores
    pictures = picture_runs.images.dataset.inputs[scores.images]
    mixed, *_ = model.call(pictures, embeddings, unseen, np.float32(description["gamma"]))
    expected = scores.mixed(run.mixing())
    np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_example_needs_jax_and_numpy_alone(run: Run, tmp_path: Path) -> None:
    export_stablehlo(run, tmp_path / "model.zip")
    images = run.scores.images[:4]
    np.save(tmp_path / "maps.npy", run.dataset.inputs[images])
    new = np.asarray(run.candidates.embeddings[0])
    command = [sys.executable, str(_EXAMPLE)]
    values = ",".join(map(str, new.tolist()))
    done = subprocess.run(
        [*command, str(tmp_path / "model.zip"), str(tmp_path / "maps.npy"), f"griffin={values}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,  # so that the package is not on the path by chance
        check=True,
    )
    mixing = run.mixing()
    expected = run.scores.mixed(mixing)[:4]
    own = run.scores.mixed(mixing)[:4, 0] + mixing.gamma  # class 0 again, as an unseen one
    expected = np.concatenate([expected, own[:, None]], axis=1)
    names = [*(f"class {k}" for k in range(8)), "griffin"]
    for line, row in zip(done.stdout.splitlines(), expected, strict=True):
        cells = [cell.rsplit(" ", 1) for cell in line.split("\t")[1:]]
        best = np.argsort(-row)[:3]
        assert [name for name, _ in cells] == [names[k] for k in best]
        assert [float(v) for _, v in cells] == pytest.approx(row[best].tolist(), abs=1e-4)
    assert "dedn_jax" not in _EXAMPLE.read_text()


def test_features_of_a_run_with_a_backbone(picture_runs: PictureRuns, tmp_path: Path) -> None:
    run = picture_runs.store
    export_stablehlo(run, tmp_path / "model.zip", "features")
    model, _, embeddings, unseen = loaded(tmp_path / "model.zip")
    maps = run.dataset.inputs[run.scores.images]
    mixed, *_ = model.call(maps, embeddings, unseen, np.float32(run.mixing().gamma))
    np.testing.assert_allclose(mixed, run.scores.mixed(run.mixing()), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="the run was trained from pictures; give --input=pic"):
        exportable(picture_runs.images, "features")


def test_a_file_that_differs_is_refused() -> None:
    values = tuple(np.ones(3) for _ in OUTPUTS)
    check_outputs(values, values, 1e-6, "model.zip")
    with pytest.raises(InputError, match=r"model.zip: its fine_attributes differ .* by 5.0e-01"):
        check_outputs(values, (*values[:2], np.array([1, 1, 0.5])), 1e-6, "model.zip")
    with pytest.raises(InputError):
        check_outputs(values, (*values[:2], np.array([1, 1, np.nan])), 1e-6, "model.zip")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=stablehlo", "--out=model.bin"], "expected a name that ends in .zip"),
        (["--format=onnx", "--out=model.zip"], "expected a name that ends in .onnx"),
        (["--out=model.zip"], "expected a name that ends in .pt"),
        (["--format=safetensors", "--out=m.safetensors", "--input=features"], "takes no input"),
        (["--format=onnx", "--out=model.onnx"], "pip install 'dedn-jax[onnx]'"),
        (
            ["--format=stablehlo", "--out=model.zip", "--input=pictures"],
            "the run was trained on 8 channels and 4 regions; give what its features were made",
        ),
    ],
)
def test_refused(
    flags: list[str],
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"--workdir={run.workdir.path}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_same_bytes_twice(run: Run, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        export_stablehlo(run, tmp_path / name)
    with zipfile.ZipFile(tmp_path / "a.zip") as a, zipfile.ZipFile(tmp_path / "b.zip") as b:
        for name in ("model.json", "classes.npz"):
            assert a.read(name) == b.read(name)
