"""The demo set as pictures with annotations."""

from __future__ import annotations

import atexit
import hashlib
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dedn_jax.data.annotations import Annotations
from dedn_jax.data.prepared.picture_set import Picture, PictureSet
from dedn_jax.data.prepared.reader import PICTURES_FILE, VERSION
from dedn_jax.data.sources import hashed_words
from dedn_jax.demo import anatomy, drawing, landscape, painting, pictures
from dedn_jax.demo.pictures import demo_pictures
from dedn_jax.model.groups import AttributeGroups

# What decides the demo set's pictures and annotations.
_CODE = (anatomy, drawing, hashed_words, landscape, painting, pictures)


def prepare_demo(cache_dir: Path | None) -> Path:
    """The demo set as a prepared set, drawn and written on first use.

    Args:
      cache_dir: where it is kept; None for a temporary folder of this process.

    Returns:
      The folder of its version.

    Raises:
      InputError: it cannot be written there.
    """
    if cache_dir is None:
        cache_dir = Path(tempfile.mkdtemp(prefix="dedn-demo-"))
        atexit.register(shutil.rmtree, cache_dir, ignore_errors=True)
    # Other drawing code is another folder: nothing stale is ever read.
    code = [Path(str(module.__file__)).read_bytes() for module in _CODE]
    key = hashlib.sha256(b"".join(code)).hexdigest()[:16]
    out = cache_dir / f"demo-{key}"
    # A folder appears complete or not at all. Calling `build` would encode every picture.
    if (out / "demo" / VERSION / PICTURES_FILE).exists():
        return out / "demo" / VERSION
    from dedn_jax.data.prepared.build import build

    return build(demo_picture_set(), out, wait=True).folder


def demo_picture_set() -> PictureSet:
    """The built-in drawn creatures, each encoded as PNG.

    One fixed set: `config.seed` is for training alone, so that seeds are comparable.
    """
    demo = demo_pictures(seed=0)
    annotations = Annotations(
        source="demo",
        labels=demo.labels,
        class_embeddings=demo.class_embeddings,
        word_vectors=hashed_words.hashed_word_vectors(demo.attribute_words),
        trainval=demo.trainval,
        test_seen=demo.test_seen,
        test_unseen=demo.test_unseen,
        class_names=demo.class_names,
        attribute_names=demo.attribute_names,
        validation_classes=demo.validation_classes,
        groups=AttributeGroups(
            tuple(name for name, _ in demo.attribute_groups),
            tuple(tuple(int(i) for i in members) for _, members in demo.attribute_groups),
        ),
    )
    encoded = [
        Picture(f"{demo.class_names[label].replace(' ', '_')}/{i:04d}.png", encoded=_png(image))
        for i, (label, image) in enumerate(zip(demo.labels.tolist(), demo.images, strict=True))
    ]
    return PictureSet("demo", annotations, encoded)


def _png(image: np.ndarray) -> bytes:
    """`[height, width, 3]` uint8, losslessly."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
