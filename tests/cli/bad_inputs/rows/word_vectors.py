"""Word vectors."""

from __future__ import annotations

import io
import pickle

import numpy as np

from tests.cli.bad_inputs.making import Hostile, zipped
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.published import ATTRIBUTES


def _with_words(world: World, name: str, data: bytes) -> list[str]:
    return world.train_on(world.hdf5(), f"--config.data.word_vectors={world.words(name, data)}")


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def glove(world: World, glove: bytes, names: str = "blue\nwing\n", out: str = "w.npy") -> list[str]:
    world.words("glove.txt", glove)
    (world.root / "names.txt").write_text(names)
    flags = [f"--glove={world.root}/glove.txt", f"--attributes={world.root}/names.txt"]
    return ["data", "wordvectors", *flags, f"--out={world.root / out}"]


def text_model(world: World, *flags: str) -> list[str]:
    (world.root / "names.txt").write_text("blue\nwing\n")
    given = flags or (f"--text-model={world.root}/clip", f"--attributes={world.root}/names.txt")
    return ["data", "wordvectors", *given, f"--out={world.root}/w.npy"]


WORDS = [
    Bad(
        "text model without the package that reads texts",
        text_model,
        "--text-model",
        "needs the package tokenizers",
        "pip install 'dedn-jax[text]'",
    ),
    Bad(
        "prompt for GloVe",
        lambda w: [*glove(w, b"blue 1 2 3\nwing 4 5 6\n"), "--prompt=a {}"],
        "--prompt",
        "only applies to --text-model",
        "leave it out",
    ),
    Bad(
        "prompt without a place for the words",
        lambda w: [*text_model(w), "--prompt=a bird"],
        "--prompt='a bird'",
        "expected {} once",
        "for the words",
    ),
    Bad(
        "sentences for GloVe",
        lambda w: text_model(w, "--glove=g.txt", "--sentences=s.txt"),
        "--sentences",
        "GloVe has vectors of words",
        "give --text-model, or names",
    ),
    Bad(
        "hostile pickle of word vectors",
        lambda w: _with_words(w, "words.pkl", pickle.dumps(Hostile())),
        "words.pkl",
        "it names posix.system",
        "save the array with numpy.save",
    ),
    Bad(
        "too few word vectors",
        lambda w: _with_words(w, "words.npy", _npy(np.ones((ATTRIBUTES - 1, 3)))),
        "words.npy",
        "word vectors have shape (4, 3), expected [5, word_dim]",
        "give one row for each attribute",
    ),
    Bad(
        "word vectors of objects",
        lambda w: _with_words(w, "words.npy", _npy(np.array([[Hostile()]], object))),
        "words.npy",
        "an array of Python objects, expected numbers",
        "save it as float32",
    ),
    Bad(
        "zipped text that is no GloVe",
        lambda w: glove(w, zipped("glove.txt")),
        "glove.txt",
        "line 1 is not a word followed by numbers",
        "expected word vectors of GloVe, word2vec or fastText",
    ),
    Bad(
        "vectors of gensim",
        lambda w: glove(w, b"\x80\x02cgensim.models.keyedvectors\nKeyedVectors\n."),
        "glove.txt",
        "saved by gensim",
        "save_word2vec_format",
    ),
    Bad(
        "pickle in place of GloVe",
        lambda w: glove(w, pickle.dumps({"blue": Hostile()})),
        "glove.txt",
        "not a pickled dict of arrays by word",
        "expected word vectors of GloVe",
    ),
    Bad(
        "GloVe line cut short",
        lambda w: glove(w, b"blue 1 2 3\nwing 4 5\n"),
        "glove.txt",
        "line 2 has 2 numbers after its word, expected 3",
        "the file ends there: it is cut short",
    ),
    Bad(
        "attribute without a known word",
        lambda w: glove(w, b"blue 1 2 3\nwing 4 5 6\n", "blue\nzygodactyl\n"),
        "glove.txt",
        "'zygodactyl'",
        "rename them or use a file of more words",
    ),
    Bad(
        "attribute name twice",
        lambda w: glove(w, b"blue 1 2 3\n", "blue\nblue\n"),
        "names.txt",
        "attribute 'blue' stands there twice",
        "rename one",
    ),
    Bad(
        "word vectors to another kind of file",
        lambda w: glove(w, b"blue 1 2 3\nwing 4 5 6\n", out="vectors.txt"),
        "vectors.txt",
        "vectors.txt: expected",
        "a name that ends in .npy",
    ),
]
