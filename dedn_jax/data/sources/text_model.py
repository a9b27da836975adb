"""Embeddings of attribute names or of sentences, by the text tower of a CLIP or SigLIP.

A model is a folder in the layout of transformers: `model.safetensors`, `tokenizer.json` and
`config.json`. Its files are data: no code of it is run, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, Int32

from dedn_jax.errors import InputError, one_line
from dedn_jax.file_kinds import advice_on_unreadable
from dedn_jax.files import read_json
from dedn_jax.model.backbones.text_tower import CLIPText, SigLIPText, Texts, TextTower
from dedn_jax.model.backbones.transformer import Size
from dedn_jax.model.backbones.weights import assign_weights, read_weights
from dedn_jax.paths import local_path

_BATCH = 64
_MAX_BYTES = 100 * 2**20  # of the JSON files; SigLIP 2's tokenizer has 34 MB
_BLOCK = "text_model.encoder.layers.{}.mlp.fc1.weight"
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


class _Kind(NamedTuple):
    """A kind of model, and what its config.json may leave out, as transformers has it."""

    tower: type[TextTower]
    projection: str  # of its weights
    heads: int
    activation: str


_KINDS = (
    _Kind(CLIPText, "text_projection.weight", 8, "quick_gelu"),
    _Kind(SigLIPText, "text_model.head.weight", 12, "gelu_pytorch_tanh"),
)


def embed_texts(folder: str | Path, texts: Sequence[str]) -> Float32[np.ndarray, "texts outputs"]:
    """The embedding of each text, of length 1.

    Texts that are too long are cut.

    Args:
      folder: of the model.
      texts: names or sentences.

    Raises:
      InputError: the package tokenizers is missing, or a file is, is damaged, or is not of a CLIP
        or SigLIP.
    """
    folder = local_path(folder)
    tokenizer = _tokenizer(folder)
    tower = _tower(folder)
    tokens, last = _tokens(folder, tokenizer, tower, texts)
    definition, state = nnx.split(tower)

    @jax.jit
    def compute(state: nnx.State, tokens: jax.Array, last: jax.Array) -> jax.Array:
        found = nnx.merge(definition, state)(tokens, last)
        return found / jnp.linalg.norm(found, axis=-1, keepdims=True)

    starts = range(0, len(texts), _BATCH)
    parts = [compute(state, tokens[i : i + _BATCH], last[i : i + _BATCH]) for i in starts]
    return np.concatenate([np.asarray(part) for part in parts])


def _tower(folder: Path) -> TextTower:
    path = folder / "model.safetensors"
    arrays, _ = read_weights(path, "text-model")
    kind = next((kind for kind in _KINDS if kind.projection in arrays), None)
    if kind is None or _BLOCK.format(0) not in arrays:
        raise InputError(
            f"{path}: has no text tower of CLIP or SigLIP ({_KINDS[0].projection} or "
            f"{_KINDS[1].projection}); give the folder of such a model"
        )
    config = _json(folder / "config.json").get("text_config", {})
    heads = config.get("num_attention_heads", kind.heads)
    activation = config.get("hidden_act", kind.activation)
    size, texts, outputs = _sizes(path, arrays, kind, heads)
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"{folder / 'config.json'}: text_config.hidden_act={activation!r}, expected one of "
            f"{', '.join(_ACTIVATIONS)}"
        )
    tower = nnx.eval_shape(
        lambda: kind.tower(size, texts, outputs, _ACTIVATIONS[activation], rngs=nnx.Rngs(0))
    )
    assign_weights(tower, arrays, str(path))
    return tower


def _sizes(
    path: Path, arrays: Mapping[str, np.ndarray], kind: _Kind, heads: Any
) -> tuple[Size, Texts, int]:
    """What the arrays and the number of heads say; whether they fit is not checked."""
    depth = 0
    while _BLOCK.format(depth) in arrays:
        depth += 1
    try:
        hidden, width = arrays[_BLOCK.format(0)].shape
        vocabulary, _ = arrays["text_model.embeddings.token_embedding.weight"].shape
        length, _ = arrays["text_model.embeddings.position_embedding.weight"].shape
        outputs, _ = arrays[kind.projection].shape
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: lacks an array of a text tower, or it is misshapen ({one_line(error)}); "
            "expected a CLIP or SigLIP in the layout of transformers"
        ) from error
    if type(heads) is not int or heads < 1 or width % heads:
        raise InputError(
            f"{path.with_name('config.json')}: text_config.num_attention_heads={heads!r}, expected "
            f"a divisor of {width}"
        )
    return Size(width, depth, heads, hidden), Texts(vocabulary, length), outputs


def _tokenizer(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError(
            "--text-model needs the package tokenizers; run: pip install 'dedn-jax[text]'"
        ) from error
    path = _small(folder / "tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise InputError(
            f"{path}: not a readable tokenizer ({one_line(error)}); "
            f"{advice_on_unreadable(path, error)}"
        ) from error
    return tokenizer


def _tokens(
    folder: Path, tokenizer: Any, tower: TextTower, texts: Sequence[str]
) -> tuple[Int32[np.ndarray, "texts length"], Int32[np.ndarray, " texts"]]:
    """Tokens of the texts, and the position of the one that stands for each."""
    vocabulary, longest = tower.vocabulary.shape[0], tower.positions.shape[0]
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    found = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    ends = np.array([len(ids) for ids in found], np.int32) - 1
    if ends.min() < 0 or max(map(max, found)) >= vocabulary:
        raise InputError(
            f"{folder / 'tokenizer.json'}: gives no tokens, or some beyond the model's "
            f"{vocabulary}; give the tokenizer of this model"
        )
    if tower.causal:  # what comes after a text's end changes nothing
        filled = np.zeros((len(texts), ends.max() + 1), np.int32)
    else:
        filled = np.full((len(texts), longest), _padding(folder, tokenizer, vocabulary), np.int32)
        ends[:] = longest - 1
    for row, ids in zip(filled, found, strict=True):
        row[: len(ids)] = ids
    return filled, ends


def _padding(folder: Path, tokenizer: Any, vocabulary: int) -> int:
    """The token that texts are filled up with."""
    path = folder / "tokenizer_config.json"
    token = _json(path).get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None or found >= vocabulary:
        raise InputError(f"{path}: pad_token={token!r}, expected a token of tokenizer.json")
    return found


def _json(path: Path) -> dict[str, Any]:
    return read_json(_small(path))


def _small(path: Path) -> Path:
    """A file that is there and not too large to read."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; --text-model is a folder with model.safetensors, "
            "config.json, tokenizer.json and tokenizer_config.json"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: over {_MAX_BYTES} bytes, expected at most that many")
    return path
