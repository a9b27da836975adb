"""Class embeddings in a file of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.io

from tests.cli.bad_inputs.making import Hostile
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.published import ATTRIBUTES, CLASSES
from tests.helpers.xlsa17 import cells

FIELD = "config.data.class_embeddings"
NAMES = [f"class {k}" for k in range(CLASSES)]


def _mat(world: World, *flags: str, **fields: Any) -> list[str]:
    path = world.root / "sent_splits.mat"
    scipy.io.savemat(path, {"att": np.ones((9, CLASSES)), **fields})
    return world.train_on(world.hdf5(), f"--{FIELD}={path}", *flags)


def _npy(world: World, array: np.ndarray) -> list[str]:
    path = world.root / "sentences.npy"
    np.save(path, array, allow_pickle=True)
    return world.train_on(world.hdf5(), f"--{FIELD}={path}")


def _words_of_attributes(world: World) -> list[str]:
    words = world.root / "words.npy"
    np.save(words, np.ones((ATTRIBUTES, 3)))
    return _mat(world, f"--config.data.word_vectors={words}")


SENTENCES = [
    Bad(
        "sentences of other classes",
        lambda w: _mat(w, att=np.ones((9, CLASSES + 1))),
        "sent_splits.mat",
        "embeddings of 7 classes, 9 dimensions each, but the data set has 6 classes",
        "is it of another data set?",
    ),
    Bad(
        "sentences in another order",
        lambda w: _mat(w, allclasses_names=cells([NAMES[1], NAMES[0], *NAMES[2:]])),
        "sent_splits.mat",
        "class 1 is 'class 1', which is class 2 of the data set",
        "in the order of its classes",
    ),
    Bad(
        "no numbers in sentences",
        lambda w: _mat(w, att=cells(NAMES)),
        "sent_splits.mat",
        "att holds strings",
        "expected numbers [dimensions, classes]",
    ),
    Bad(
        "sentences the other way round",
        lambda w: _npy(w, np.ones((9, CLASSES))),
        "sentences.npy",
        "embeddings of 9 classes, 6 dimensions each",
        "it looks transposed",
    ),
    Bad(
        "sentences of objects",
        lambda w: _npy(w, np.array([[Hostile()]], object)),
        "sentences.npy",
        "an array of Python objects",
        "save them as float32 with numpy.save",
    ),
    Bad(
        "another kind of file with sentences",
        lambda w: w.train_on(w.hdf5(), f"--{FIELD}={w.words('sentences.csv', b'1,2')}"),
        "sentences.csv",
        "unknown kind of file",
        "set config.data.class_embeddings to a .mat file",
    ),
    Bad(
        "no file of sentences",
        lambda w: w.train_on(w.hdf5(), f"--{FIELD}={w.root}/sent_splits.mat"),
        "sent_splits.mat",
        "no such file of class embeddings",
        "set config.data.class_embeddings",
    ),
    Bad(
        "word vectors of attributes beside sentences",
        _words_of_attributes,
        "words.npy",
        "word vectors have shape (5, 3), expected [9, word_dim]",
        "give one row for each",
    ),
    Bad(
        "clipped sentences",
        lambda w: _mat(w, "--config.data.clip_negative_embeddings=true"),
        "config.data.clip_negative_embeddings",
        "True, expected false with config.data.class_embeddings",
        "it is for attributes",
    ),
]
