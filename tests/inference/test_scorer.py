"""Scores of pictures by a run's model, and where its backbone and transform are from."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from dedn_jax.errors import InputError
from dedn_jax.inference.picture_files import read_pixels
from dedn_jax.inference.run import Run, open_run, train
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.training.scores import Scores
from tests.helpers.picture_runs import SIDE, PictureRuns
from tests.helpers.tiny import tiny_config, write_tiny
from tests.made_up import ATTRIBUTES, BACKBONE, CHANNELS, backbone_weights


def scores_of_files(run: Run, folder: Path, images: np.ndarray, batch_size: int = 5) -> Scores:
    """Of the files that hold a data set's images."""
    files = sorted(folder.glob("*/*.jpg"))
    scorer = PictureScorer(run, batch_size)
    pictures = np.stack([scorer.decode(files[i]) for i in images])
    return scorer.scores(pictures, run.candidates)


def assert_same(found, expected, tolerance: float = 1e-5) -> None:
    for kind in ("attributes", "classes"):
        for ours, theirs in zip(getattr(found, kind), getattr(expected, kind), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert a.shape == b.shape and np.abs(b).max() > 0.01
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["images", "store", "small"])
def test_pictures_have_the_scores_of_the_data_set_s_images(
    picture_runs: PictureRuns, name: str
) -> None:
    run = getattr(picture_runs, name)
    assert_same(scores_of_files(run, picture_runs.folder, run.scores.images), run.scores)


def test_a_run_on_features_has_the_model_of_one_on_pictures(picture_runs: PictureRuns) -> None:
    """After the same training: float32 features are those of the graph."""
    images = picture_runs.images.scores.images
    found = scores_of_files(picture_runs.store, picture_runs.folder, images)
    assert_same(found, picture_runs.images.scores, 1e-4)


def test_scores_do_not_depend_on_the_batch(picture_runs: PictureRuns) -> None:
    run, images = picture_runs.small, picture_runs.small.scores.images[:7]
    at_once = scores_of_files(run, picture_runs.folder, images, batch_size=64)
    for size in (1, 3):
        assert_same(scores_of_files(run, picture_runs.folder, images, size), at_once)


def test_attention(picture_runs: PictureRuns) -> None:
    run = picture_runs.small
    scorer = run.picture_scorer
    pictures = run.dataset.inputs[np.arange(3)]
    scores, attention = scorer.attention(pictures)
    plain = scorer.attributes(pictures)
    model_scores, model_attention = run.model(pictures, return_attention=True)
    order = np.asarray(run.groups.order)
    assert not np.array_equal(order, np.arange(ATTRIBUTES))
    for e in range(2):
        for branch in range(2):
            np.testing.assert_allclose(scores[e][branch], plain[e][branch], atol=1e-5)
            ours, theirs = attention[e][branch], np.asarray(model_attention[e][branch])
            np.testing.assert_allclose(ours[:, order], theirs, atol=1e-6)
            np.testing.assert_allclose(ours.sum(-1), 1, atol=1e-5)
            theirs = np.asarray(model_scores[e][branch])
            np.testing.assert_allclose(scores[e][branch][:, order], theirs, atol=1e-5)
    rows, columns = scorer.grid
    assert rows * columns == attention.coarse.region.shape[2]
    with pytest.raises(ValueError, match="expected 1 to 5"):
        scorer.attention(run.dataset.inputs[np.arange(6)])


def jpeg(orientation: int = 1) -> bytes:
    """A file with an EXIF orientation."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA", "CMYK", "1"])
def test_pictures_of_pillow_as_files_of_them(mode: str) -> None:
    given = Image.open(io.BytesIO(jpeg(6)))
    np.testing.assert_array_equal(read_pixels(given), read_pixels(jpeg(6)))
    assert read_pixels(given).shape == (30, 20, 3)
    assert given.size == (30, 20)  # left as it was
    converted = given.convert(mode)
    np.testing.assert_array_equal(
        read_pixels(converted), np.asarray(ImageOps.exif_transpose(converted).convert("RGB"))
    )


def test_pictures_as_paths_bytes_and_arrays(picture_runs: PictureRuns) -> None:
    scorer = picture_runs.small.picture_scorer
    path = sorted(picture_runs.folder.glob("*/*.jpg"))[4]
    expected = picture_runs.small.dataset.inputs[np.array([4])][0]
    assert expected.shape == (SIDE, SIDE, 3)
    data = path.read_bytes()
    for source in (path, str(path), data, bytearray(data), memoryview(data), Image.open(path)):
        np.testing.assert_array_equal(scorer.decode(source), expected)
    for pixels in (expected, jnp.asarray(expected)):
        np.testing.assert_array_equal(scorer.decode(pixels), expected)
    np.testing.assert_array_equal(scorer.decode(np.full((90, 70, 3), 7, np.uint8)), 7)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.uint8), "expected .height, width, 3. and uint8"),
        (np.zeros((4, 4, 3), np.float32), "type float32"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
        (np.zeros((1, 101, 3), np.uint8), "differ by a factor of at most 100"),
        (b"", "the picture: the file is empty"),
        (Image.new("RGB", (1, 101)), "the picture: 1 x 101 pixels, expected sides that differ"),
        (Image.new("F", (4, 4)), "the picture: has 32 bits a sample"),
        (Image.open(io.BytesIO(jpeg()[:-90])), r"the picture: Pillow cannot load it \(.*truncated"),
        (None, "the picture of type NoneType, expected a path, the content of a file as bytes"),
        (io.BytesIO(b"abc"), "the picture of type BytesIO, expected a path, the content of a f"),
        ("none.jpg", "none.jpg: cannot be read"),
    ],
)
def test_pictures_that_cannot_be_used(
    picture_runs: PictureRuns, picture: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        picture_runs.small.picture_scorer.decode(picture)  # type: ignore[arg-type]


# --- backbone and transform ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_a_store(picture_runs: PictureRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the store alone, whose config holds the defaults."""
    folder = tmp_path_factory.mktemp("on-a-store") / "run"
    config = tiny_config(
        picture_runs.store.config.data.features,
        data__format="store",
        selection__protocol="last",
        train__epochs=1,
        data__groups="single",
    )
    assert config.backbone.name == "resnet101" and config.picture.crop == 448
    train(config, folder)
    return folder


def test_the_store_s_backbone_whatever_the_config_says(
    picture_runs: PictureRuns, on_a_store: Path
) -> None:
    """A store alone records them; the config of a run on it holds the defaults."""
    run = open_run(on_a_store)
    with pytest.raises(
        InputError, match=rf"are of {BACKBONE} with SHA-256 [0-9a-f]{{64}}; give the file"
    ):
        _ = run.picture_scorer
    run = open_run(on_a_store, {"backbone.weights": picture_runs.weights})
    found = scores_of_files(run, picture_runs.folder, run.scores.images)
    assert_same(found, run.scores)


def test_other_weights_than_the_store_s(on_a_store: Path, tmp_path: Path) -> None:
    other = backbone_weights(tmp_path / "other.safetensors", seed=1)
    run = open_run(on_a_store, {"backbone.weights": other})
    with pytest.raises(InputError, match=r"other.safetensors: has SHA-256 .* give that file"):
        _ = run.picture_scorer
    with pytest.raises(InputError, match=r"config.backbone.name is fixed for this run"):
        open_run(on_a_store, {"backbone.name": "resnet34"})


def published(picture_runs: PictureRuns, folder: Path) -> Path:
    """A run on a published HDF5 file of the same features; it does not know where they are from."""

    data = picture_runs.store.dataset
    with h5py.File(folder / "maps.hdf5", "w") as file:
        maps = data.features[np.arange(len(data.labels))]
        file["feature_map"] = maps.reshape(*maps.shape[:2], 2, 2)
        file["labels"] = data.labels
        for name in ("trainval", "test_seen", "test_unseen"):
            file[f"{name}_loc"] = getattr(data, name)
        file["att"], file["w2v_att"] = data.class_embeddings, data.word_vectors
    config = tiny_config(
        folder / "maps.hdf5", selection__protocol="last", train__epochs=1, data__groups="single"
    )
    train(config, folder / "run")
    return folder / "run"


def test_a_published_file_does_not_say(picture_runs: PictureRuns, tmp_path: Path) -> None:
    path = published(picture_runs, tmp_path)
    with pytest.raises(
        InputError, match=rf"2048 channels and 196 regions.* {CHANNELS} channels and 4 regions"
    ):
        _ = open_run(path).picture_scorer
    made_with = {"backbone.name": BACKBONE, "picture.resize": SIDE, "picture.crop": SIDE}
    with pytest.raises(InputError, match=r"config.backbone.weights is empty.* at 64 pixels; give"):
        _ = open_run(path, made_with).picture_scorer
    run = open_run(path, made_with | {"backbone.weights": picture_runs.weights})
    assert_same(scores_of_files(run, picture_runs.folder, run.scores.images), run.scores)
    # The override is for this use: the run stays as it was.
    assert open_run(path).config.backbone.name == "resnet101"


def test_runs_that_know_their_backbone_keep_it(picture_runs: PictureRuns) -> None:
    for run in (picture_runs.images, picture_runs.store):
        for field, value in (("backbone.name", "resnet34"), ("picture.crop", 32)):
            with pytest.raises(InputError, match=f"config.{field} is fixed for this run"):
                open_run(run.workdir.path, {field: value})


def test_a_run_that_is_not_finished(picture_runs: PictureRuns, tmp_path: Path) -> None:
    for name in ("config.json", "dataset.json"):
        shutil.copy(picture_runs.small.workdir.path / name, tmp_path)
    with pytest.raises(InputError, match="the run is not finished"):
        _ = open_run(tmp_path).picture_scorer


def test_arrays_do_not_say_either(tmp_path: Path) -> None:
    run = train(
        tiny_config(
            write_tiny(tmp_path / "tiny.hdf5"), selection__protocol="last", train__epochs=1
        ),
        tmp_path / "run",
    )
    with pytest.raises(InputError, match="the run was trained on 8 channels and 4 regions"):
        _ = run.picture_scorer
