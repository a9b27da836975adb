"""The arrays of a backbone as a file of weights has them: the inverse of `assign_weights`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from dedn_jax.model.backbones.layers import Pretrained
from dedn_jax.model.backbones.weights import Place, own_naming, places


def stored_arrays(network: Pretrained) -> dict[str, np.ndarray]:
    """Every parameter and statistic, float32, by the names of the network's first kind of file.

    By our own names where there is no such kind, or where it has no place for a value that is not
    zero, such as a trained bias of DINOv3's keys. `load_weights` reads either.

    Args:
      network: with values.
    """
    for naming in network.namings[:1]:
        found = places(network, naming, naming.roots[0])
        parts = [(name, part) for place in found for name, part in _parts(place)]
        if not any(name is None and part.any() for name, part in parts):
            return {name: part for name, part in parts if name is not None}
    found = places(network, own_naming(network), "")
    return {name: part for place in found for name, part in _parts(place) if name is not None}


def _parts(place: Place) -> list[tuple[str | None, Float32[np.ndarray, ...]]]:
    """The parts of an array in the layout of the file, by their names there."""
    ours = np.split(np.asarray(place.variable[...], np.float32), len(place.names), axis=-1)
    if place.stored.axes is not None:
        ours = [part.transpose(np.argsort(place.stored.axes)) for part in ours]
    leading = (1,) * place.stored.leading
    parts = [np.ascontiguousarray(part.reshape(leading + part.shape)) for part in ours]
    return list(zip(place.names, parts, strict=True))
