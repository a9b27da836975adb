"""A vision transformer from pictures to explanations, with its class token as one more region."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dedn_jax.cli.main import main
from dedn_jax.config import load_config
from dedn_jax.data.features.store.reader import open_store
from dedn_jax.errors import InputError
from dedn_jax.inference.explain.localise import localise
from dedn_jax.inference.extract import extract_features
from dedn_jax.inference.run import Run, train
from tests.helpers.tiny_vit import NAME, WIDTH, add_tiny_vit
from tests.made_up import backbone_weights, prepared_folder

SIDE, GRID = 48, (6, 6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run from pictures, which are beside it."""
    folder = tmp_path_factory.mktemp("vit")
    with pytest.MonkeyPatch.context() as patch:
        add_tiny_vit(patch)
        yield train(_config(folder), folder / "images")


def _config(folder: Path) -> ConfigDict:
    fields = {
        "data.format": "prepared",
        "data.source": "images",
        "data.path": prepared_folder(folder),
        "backbone.name": NAME,
        "backbone.weights": backbone_weights(folder / "vit.safetensors", NAME),
        "backbone.class_token": True,
        "picture.resize": SIDE,
        "picture.crop": SIDE,
        "train.epochs": 1,
        "train.batch_size": 12,
        "evaluate.batch_size": 5,
        "selection.protocol": "last",
    }
    return load_config("base", fields)


def pictures_of(run: Run, name: str) -> list[Path]:
    return sorted(run.workdir.path.with_name("mine").glob(f"pictures/{name}/*.jpg"))


def test_a_run_from_pictures_and_one_from_a_store(
    images: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = images.picture_scorer
    assert scorer.grid == GRID
    path = pictures_of(images, "class 6")[0]
    found = images.explain(path)
    assert found.region_attention.shape == (2, images.dataset.num_attributes, *GRID)
    _, attention = scorer.attention(scorer.decode(path)[None])
    for e, expert in enumerate(attention):
        assert expert.region.shape[2] == 37
        patches = expert.region[0, :, :-1].reshape(-1, *GRID)
        np.testing.assert_allclose(found.region_attention[e], patches, atol=1e-6)
        np.testing.assert_allclose(
            found.region_attention[e].sum((1, 2)), 1 - expert.region[0, :, -1], atol=1e-5
        )

    config = images.config.copy_and_resolve_references()
    store = extract_features(config, tmp_path / "store", dtype="float32", normalized=True)
    manifest = open_store(store).manifest
    assert (manifest.channels, manifest.grid, manifest.regions) == (WIDTH, GRID, 37)
    assert main(["features", "check", str(store)]) == 0
    assert "24 channels, 6 x 6 regions and the class token, float32" in capsys.readouterr().out
    config.data.update(source="features", features=str(store))
    features = train(config, tmp_path / "features")
    ours, theirs = features.explain(path), found
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.region_attention, theirs.region_attention, atol=1e-4)
    config.backbone.class_token = False
    with pytest.raises(InputError, match=r"backbone\.class_token=true, expected false"):
        train(config, tmp_path / "other")


def test_localisation_looks_at_patches_alone(images: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of an attribute that attends to the class token most is that of the patches."""
    from dedn_jax.inference.explain import localise as module

    seen = []

    class Localiser:
        def __init__(self, *_: object) -> None: ...

        def add(self, scores: np.ndarray, attention: np.ndarray, *_: object) -> None:
            seen.append(attention)

        def result(self) -> None: ...

    monkeypatch.setattr(module, "Localiser", Localiser)
    monkeypatch.setattr(module, "_image_id", lambda *_: 0)
    monkeypatch.setattr(module, "_placed", lambda *_: ({}, np.zeros(4)))
    paths = list(map(str, pictures_of(images, "class 7")))
    assert len(paths) == 6
    names = images.candidates.attribute_names
    localise(images.picture_scorer, None, names, paths, skip=print, advance=lambda _: None)
    assert [a.shape for a in seen] == [(2, len(names), 36)] * len(paths)
