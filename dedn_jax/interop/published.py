"""Our parameters <-> the `state_dict` of the published PyTorch model, exact both ways.

Our side is a nested dict of arrays, one entry per expert: `{"coarse": P, "fine": [P_0, ...,
P_{G-1}]}` with the groups in order. `_FULL_RANK` and `_LOW_RANK` map all names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Integer

from dedn_jax.errors import InputError

# Ours -> published. Shapes in `_SHAPES`; A_g attributes of the subnetwork, v word-vector size,
# C channels, R regions, h rank.
_FULL_RANK = {
    "word_vectors": "V",
    "region_score": "H_1",
    "region_attention": "H_2",
    "channel_score": "H_3",
    "channel_attention": "H_4",
}
_LOW_RANK = {
    "word_vectors": "V",
    "region_score_left": "H_1",
    "region_score_right": "H_3",
    "region_attention": "H_2",
    "channel_score": "H_4",
    "channel_attention": "H_5",
}
_SHAPES = {
    "word_vectors": ("A_g", "v"),
    "region_score": ("v", "C"),
    "region_score_left": ("v", "h"),
    "region_score_right": ("h", "C"),
    "region_attention": ("v", "C"),
    "channel_score": ("v", "R"),
    "channel_attention": ("v", "R"),
}
# In the published state_dict but not trained: class embeddings, one-hot labels, bias and its signs.
_NOT_LEARNED = ("att", "weight_ce", "bias", "mask_bias")
_FLOATS = (np.float16, np.float32, np.float64)

Network = dict[str, np.ndarray]


class Params(TypedDict):
    """Both experts: one network over all attributes, and one per attribute group."""

    coarse: Network
    fine: list[Network]


def from_published(state_dict: Mapping[str, np.ndarray], source: str = "state_dict") -> Params:
    """The learned entries of a published `state_dict`, in our layout; the others are ignored.

    Args:
      state_dict: arrays by published name.
      source: what to call the origin in messages, for example the file.

    Returns:
      The parameters, their values and dtypes unchanged; nothing is copied.

    Raises:
      InputError: a key is missing or unexpected, or an array is misshapen, not of floating-point
        type or not finite.
    """
    table = _LOW_RANK if "GNet.H_5" in state_dict else _FULL_RANK
    indices = {int(m[1]) for key in state_dict if (m := re.match(r"Snet(\d{1,4})\.", key))}
    prefixes = ["GNet", *(f"Snet{g}" for g in range(max(len(indices), 1)))]
    expected = {f"{prefix}.{name}" for prefix in prefixes for name in table.values()}
    missing = sorted(expected - set(state_dict))
    unexpected = sorted(set(state_dict) - expected - set(_NOT_LEARNED))
    for problem, keys in (("lacks", missing), ("has unexpected", unexpected)):
        if keys:
            raise InputError(
                f"{source}: {problem} {_some(keys)}; expected the state_dict of a published DEDN "
                f"model (GNet and Snet0, Snet1, ..., each with {', '.join(table.values())})"
            )
    networks = []
    sizes: dict[str, tuple[int, str]] = {}
    for prefix in prefixes:
        sizes.pop("A_g", None)  # the only size that subnetworks do not share
        network = {}
        for ours, theirs in table.items():
            key = f"{prefix}.{theirs}"
            network[ours] = _checked(state_dict[key], key, _SHAPES[ours], sizes, source)
        networks.append(network)
    params: Params = {"coarse": networks[0], "fine": networks[1:]}
    in_groups = sum(network["word_vectors"].shape[0] for network in params["fine"])
    in_all = params["coarse"]["word_vectors"].shape[0]
    if in_groups != in_all:
        raise InputError(
            f"{source}: the groups hold {in_groups} attributes together, GNet.V holds {in_all}; "
            "every attribute must be in exactly one group"
        )
    return params


def learned_entries(params: Params) -> dict[str, np.ndarray]:
    """The learned entries of the published `state_dict`, by published name; no copies.

    Raises:
      InputError: a network lacks a parameter or has an unknown one.
    """
    table = _LOW_RANK if "region_score_left" in params["coarse"] else _FULL_RANK
    entries = {}
    networks = {"GNet": params["coarse"]}
    networks |= {f"Snet{g}": network for g, network in enumerate(params["fine"])}
    for prefix, network in networks.items():
        if set(network) != set(table):
            where = "coarse" if prefix == "GNet" else f"fine[{prefix.removeprefix('Snet')}]"
            missing, unexpected = set(table) - set(network), set(network) - set(table)
            raise InputError(
                f"params.{where}: lacks {_some(sorted(missing)) or 'nothing'}, has unexpected "
                f"{_some(sorted(unexpected)) or 'nothing'}; expected {', '.join(table)}"
            )
        for ours, theirs in table.items():
            entries[f"{prefix}.{theirs}"] = np.asarray(network[ours])
    return entries


def to_published(
    params: Params,
    *,
    class_embeddings: Float[np.ndarray, "classes attributes"],
    seen: Sequence[int] | Integer[np.ndarray, " seen"],
    bias: float = 1.0,
) -> dict[str, np.ndarray]:
    """The complete `state_dict`, which the published model loads with `strict=True`.

    Args:
      params: our parameters.
      class_embeddings: Z as scores use it: columns in group order, rows L2-normalised, as
        `dedn_jax.training.objective.make_class_space` gives them.
      seen: ids of the seen classes.
      bias: d; stored as an integer, as published, if it is one.

    Raises:
      InputError: parameters that do not fit one another or the class embeddings.
    """
    entries = learned_entries(params)
    from_published(entries, source="params")
    embeddings = np.asarray(class_embeddings, np.float32)
    attributes = entries["GNet.V"].shape[0]
    if embeddings.ndim != 2 or embeddings.shape[1] != attributes:
        raise InputError(
            f"class_embeddings: shape {embeddings.shape}, expected [classes, {attributes}]"
        )
    classes = embeddings.shape[0]
    ids = np.asarray(seen, np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= classes):
        raise InputError(f"seen: class ids up to {ids.max()}, expected 0 to {classes - 1}")
    signs = np.ones((1, classes), np.float32)
    signs[:, ids] = -1
    whole = float(bias).is_integer()
    entries["att"] = embeddings
    entries["weight_ce"] = np.eye(classes, dtype=np.float32)
    entries["bias"] = np.asarray(bias, np.int64 if whole else np.float32)
    entries["mask_bias"] = signs
    return entries


def _checked(
    array: np.ndarray,
    key: str,
    letters: tuple[str, ...],
    sizes: dict[str, tuple[int, str]],
    source: str,
) -> np.ndarray:
    """Checks one array; `sizes` remembers the value of each letter and the key that set it."""
    if array.dtype.type not in _FLOATS:
        raise InputError(f"{source}: {key} is {array.dtype}, expected float16, float32 or float64")
    if array.ndim != len(letters):
        raise InputError(
            f"{source}: {key} has shape {array.shape}, expected [{', '.join(letters)}]"
        )
    for letter, size in zip(letters, array.shape, strict=True):
        known, by = sizes.setdefault(letter, (size, key))
        if size != known or size == 0:
            raise InputError(
                f"{source}: {key} has shape {array.shape}, expected [{', '.join(letters)}] with "
                f"{letter} = {known} (from {by}) and no empty axis"
            )
    if not np.isfinite(array).all():
        raise InputError(
            f"{source}: {key} holds NaN or infinity; the training that wrote it diverged"
        )
    return array


def _some(keys: Sequence[str], limit: int = 4) -> str:
    """The first few names and how many more there are."""
    rest = len(keys) - limit
    return ", ".join(keys[:limit]) + (f" and {rest} more" if rest > 0 else "")
