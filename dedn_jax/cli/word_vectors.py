"""`dedn data wordvectors`: vectors of attributes or classes from their names or sentences."""

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.buckets.transfers import with_addresses
from dedn_jax.cli.arguments import output_flag, path_flag
from dedn_jax.errors import InputError


def add_wordvectors(jobs: Any) -> None:
    """Adds `dedn data wordvectors` to the jobs of `dedn data`."""
    vectors = jobs.add_parser(
        "wordvectors",
        help="word vectors of attributes from GloVe, or from the text tower of a CLIP or SigLIP",
        description="Makes a vector of every attribute name, or an embedding of every class's "
        "sentence. Vectors of attributes are for --word-vectors or --config.data.word_vectors, "
        "embeddings of classes for --config.data.class_embeddings.",
    )
    source = vectors.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--glove",
        type=path_flag,
        help="word vectors of GloVe, word2vec (text or .bin) or fastText (.vec), as they are or "
        "with gzip, or a pickled dict of arrays; the mean over a name's words",
    )
    source.add_argument(
        "--text-model",
        type=path_flag,
        metavar="FOLDER",
        help="a CLIP or SigLIP in the layout of transformers: model.safetensors, config.json, "
        "tokenizer.json, tokenizer_config.json",
    )
    texts = vectors.add_mutually_exclusive_group(required=True)
    texts.add_argument("--attributes", type=path_flag, help="attribute names, one a line")
    texts.add_argument(
        "--sentences",
        type=path_flag,
        help="a sentence for each class, one a line, in the order of the classes; for --text-model",
    )
    vectors.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what the words of an attribute name are put into for --text-model, such as "
        "'a photo of a bird with {}'; default: the words alone",
    )
    vectors.add_argument("--out", required=True, type=output_flag, help="the .npy file to write")
    vectors.set_defaults(run=_wordvectors, overrides=False)


def _wordvectors(args: argparse.Namespace, _: list[str]) -> None:
    import numpy as np

    from dedn_jax.files import atomic_file, check_output

    check_output(args.out, ".npy")
    _check_flags(args)
    vectors, remarks = _embedded(args) if args.text_model else _averaged(args)
    with atomic_file(args.out) as file:
        np.save(file, vectors)
    shape = f"{vectors.shape[0]} vectors of {vectors.shape[1]}"
    print(with_addresses(f"Wrote {args.out}: {shape}"))
    for remark in remarks:
        print(remark)


def _check_flags(args: argparse.Namespace) -> None:
    """Refuses flags that would be ignored."""
    if args.sentences and not args.text_model:
        raise InputError("--sentences: GloVe has vectors of words; give --text-model, or names")
    if args.prompt is None:
        return
    if not (args.text_model and args.attributes):
        raise InputError("--prompt: only applies to --text-model with --attributes; leave it out")
    if args.prompt.count("{}") != 1:
        raise InputError(f"--prompt={args.prompt[:200]!r}: expected {{}} once, for the words")


def _averaged(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """From GloVe: the vectors, and what to say of words."""
    from dedn_jax.data.sources.attribute_names import read_attribute_names
    from dedn_jax.data.sources.glove import word_vectors_from_glove

    found = word_vectors_from_glove(args.glove, read_attribute_names(args.attributes))
    return found.vectors, [
        *(
            f"{word!r} is not in the file; taken as {' + '.join(parts)}"
            for word, parts in found.compounds.items()
        ),
        *(
            f"{name!r}: not in the file, left out: {', '.join(words)}"
            for name, words in found.unknown_words.items()
        ),
    ]


def _embedded(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """From a text tower: the vectors, and what the first text was."""
    from dedn_jax.data.sources.attribute_names import read_attribute_names, read_sentences
    from dedn_jax.data.sources.glove import attribute_words
    from dedn_jax.data.sources.text_model import embed_texts

    if args.sentences:
        texts = list(read_sentences(args.sentences))
    else:
        prompt = args.prompt or "{}"
        names = read_attribute_names(args.attributes)
        # `{}` alone, not str.format: a prompt may hold other braces.
        texts = [prompt.replace("{}", " ".join(attribute_words(n)) or n) for n in names]
    return embed_texts(args.text_model, texts), [f"The first text was {texts[0]!r}"]
