"""Models exported as ONNX, run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dedn_jax.cli.main import main
from dedn_jax.inference.export.function import INPUTS
from dedn_jax.inference.run import Run, train
from tests.helpers.picture_runs import PictureRuns
from tests.helpers.tiny import tiny_config, write_tiny

pytestmark = pytest.mark.onnx


def scores_of(path: Path, inputs: np.ndarray, gamma: float) -> np.ndarray:
    import onnx
    import onnxruntime

    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    embeddings = np.asarray(metadata["class_embeddings"], np.float32)
    unseen = np.asarray(metadata["unseen"], np.float32)
    values = inputs, embeddings, unseen, np.asarray(gamma, np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["class_scores"], dict(zip(INPUTS, values, strict=True)))[0]


def test_scores_of_features(tmp_path: Path) -> None:
    config = tiny_config(write_tiny(tmp_path / "tiny.hdf5"), data__groups="0,2,4;1,3,5")
    run = train(config, tmp_path / "run")
    file = tmp_path / "model.onnx"
    assert main(["export", f"--workdir={tmp_path}/run", "--format=onnx", f"--out={file}"]) == 0
    for images in (slice(0, 1), slice(None)):
        maps = run.dataset.inputs[run.scores.images[images]]
        found = scores_of(file, maps, run.mixing().gamma)
        np.testing.assert_allclose(found, run.scores.mixed(run.mixing())[images], atol=1e-4)


@pytest.mark.slow
def test_scores_of_pictures(picture_runs: PictureRuns, tmp_path: Path) -> None:
    run: Run = picture_runs.store
    file = tmp_path / "model.onnx"
    work = f"--workdir={run.workdir.path}"
    assert main(["export", work, "--format=onnx", f"--out={file}"]) == 0
    pictures = picture_runs.images.dataset.inputs[run.scores.images[:5]]
    found = scores_of(file, pictures, run.mixing().gamma)
    expected = run.scores.mixed(run.mixing())[:5]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
