"""Embeddings of names and sentences: against transformers, from folders, and bad folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dedn_jax.data.sources.text_model import embed_texts
from dedn_jax.errors import InputError
from tests.helpers.text_models import (
    DEPTH,
    HEADS,
    HIDDEN,
    LENGTH,
    OUTPUTS,
    WIDTH,
    WORDS,
    text_arrays,
    write_text_model,
    write_tokenizer,
)

TEXTS = ("blue wing", "A bird with a long bill", "bill", "long long long blue blue blue wing wing")


@pytest.mark.torch
@pytest.mark.transformers
@pytest.mark.tokenizers
@pytest.mark.parametrize("activation", ["own", "gelu"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_embeddings_are_those_of_transformers(tmp_path: Path, kind: str, activation: str) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer

    text = {
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "vocab_size": len(WORDS),
        "max_position_embeddings": LENGTH,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "projection_dim": OUTPUTS,
        "projection_size": OUTPUTS,
    } | ({} if activation == "own" else {"hidden_act": activation})
    picture = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    picture |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    names = {"clip": ("CLIPConfig", "CLIPModel"), "siglip": ("SiglipConfig", "SiglipModel")}
    config, model = (getattr(transformers, name) for name in names[kind])
    torch.manual_seed(0)
    more = {"projection_dim": OUTPUTS} if kind == "clip" else {}
    network = model(config(text_config=text, vision_config=picture, **more)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    network.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, kind)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=LENGTH)
    ids = torch.tensor([e.ids for e in tokenizer.encode_batch(list(TEXTS))])
    with torch.no_grad():
        if kind == "clip":
            pooled = network.text_model(ids).pooler_output
            theirs = network.text_projection(pooled)
        else:
            theirs = network.text_model(ids).pooler_output
    expected = theirs.numpy() / np.linalg.norm(theirs.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(embed_texts(tmp_path, TEXTS), expected, atol=1e-4)


@pytest.mark.tokenizers
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_text_is_embedded_alone(tmp_path: Path, kind: str) -> None:
    """Whatever else is asked for, in batches or not; long texts are cut, order counts."""
    folder = write_text_model(tmp_path / kind, kind)
    found = embed_texts(folder, TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), OUTPUTS), np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    for text, embedding in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(embed_texts(folder, [text])[0], embedding, atol=1e-5)
    many = embed_texts(folder, [TEXTS[i % 4] for i in range(130)])
    np.testing.assert_allclose(many, found[np.arange(130) % 4], atol=1e-5)
    turned = embed_texts(folder, ["wing blue"])[0]
    assert np.abs(turned - found[0]).max() > 1e-3


def _without(name: str):
    return lambda folder: (folder / name).unlink()


def _config(**fields: object):
    return lambda folder: (folder / "config.json").write_text(json.dumps({"text_config": fields}))


def _arrays(change):
    def spoil(folder: Path) -> None:
        arrays = text_arrays("siglip")
        change(arrays)
        save_file(arrays, str(folder / "model.safetensors"))

    return spoil


BAD = {
    "no weights": (_without("model.safetensors"), r"model\.safetensors: no such file"),
    "no config": (_without("config.json"), r"config\.json: no such file; --text-model is a folder"),
    "no tokenizer": (_without("tokenizer.json"), r"tokenizer\.json: no such file"),
    "damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        r"tokenizer\.json: not a readable tokenizer",
    ),
    "no token for padding": (
        lambda folder: (folder / "tokenizer_config.json").write_text('{"pad_token": "<none>"}'),
        r"tokenizer_config\.json: pad_token='<none>', expected a token",
    ),
    "heads": (_config(num_attention_heads=5), r"num_attention_heads=5, expected a divisor of 16"),
    "activation": (
        _config(num_attention_heads=HEADS, hidden_act="swish"),
        r"config\.json: text_config\.hidden_act='swish', expected one of quick_gelu",
    ),
    "no text tower": (
        _arrays(lambda a: a.pop("text_model.head.weight")),
        r"has no text tower of CLIP or SigLIP",
    ),
    "an array less": (
        _arrays(lambda a: a.pop("text_model.final_layer_norm.bias")),
        r"lacks text_model\.final_layer_norm\.bias; expected a SigLIP",
    ),
    "smaller vocabulary": (
        _arrays(
            lambda a: a.update(
                {"text_model.embeddings.token_embedding.weight": np.ones((5, WIDTH), np.float32)}
            )
        ),
        r"beyond the model's 5; give the tokenizer of this model",
    ),
}


@pytest.mark.tokenizers
@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path: Path, case: str) -> None:
    spoil, message = BAD[case]
    folder = write_text_model(tmp_path / "model", "siglip")
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        embed_texts(folder, TEXTS)
    assert "\n" not in str(caught.value)
