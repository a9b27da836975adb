"""The demo set as pictures with annotations."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources import demo
from dedn_jax.demo import anatomy
from dedn_jax.demo.pictures import demo_pictures


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small pictures a class: drawing all of them takes long."""
    monkeypatch.setattr(
        demo,
        "demo_pictures",
        lambda seed: demo_pictures(seed, image_size=32, images_per_class=2),
    )


@pytest.mark.usefixtures("small")
def test_pictures_are_kept_losslessly() -> None:
    result = demo.demo_picture_set()
    drawn = demo_pictures(0, image_size=32, images_per_class=2)
    assert result.name == "demo"
    assert len(result.pictures) == 100
    assert len({p.name for p in result.pictures}) == 100
    for picture, image in zip(result.pictures, drawn.images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.read()))), image)
    groups = result.annotations.groups
    assert groups.names == ("body", "head", "wing", "tail", "leg", "ground")
    assert groups.num_attributes == len(anatomy.ATTRIBUTES)
    again = demo.demo_picture_set()
    assert [p.read() for p in again.pictures] == [p.read() for p in result.pictures]


@pytest.mark.usefixtures("small")
def test_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = demo.prepare_demo(tmp_path)
    assert len(open_prepared(folder).pictures) == 100
    temporary = demo.prepare_demo(None)
    assert open_prepared(temporary).digest == open_prepared(folder).digest
    monkeypatch.delattr(demo, "demo_pictures")
    assert demo.prepare_demo(tmp_path) == folder
