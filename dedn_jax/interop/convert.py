"""Our model's parameters as an NNX state <-> the nested dict that `published` converts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.interop.published import Params
from dedn_jax.training.network import experts_of


def state_to_nested(state: nnx.State) -> Params:
    """`{"coarse": P, "fine": [P_0, ...]}` of host arrays; also for gradients and moments."""
    pure = nnx.to_pure_dict(state)
    return {
        "coarse": {name: np.asarray(value) for name, value in pure["coarse"].items()},
        "fine": [
            {name: np.asarray(value) for name, value in pure["fine"][g].items()}
            for g in sorted(pure["fine"])
        ],
    }


def nested_to_state(params: Params, like: nnx.State, source: str) -> nnx.State:
    """The inverse of `state_to_nested`.

    Args:
      params: our parameters as arrays.
      like: a state of the model they are for.
      source: what to call the origin in messages.

    Raises:
      InputError: the parameters are for a model of another structure or size.
    """
    expected = state_to_nested(like)
    if len(params["fine"]) != len(expected["fine"]):
        raise InputError(
            f"{source}: {len(params['fine'])} attribute groups, the config and data make "
            f"{len(expected['fine'])}; check config.data.groups"
        )
    networks = [("coarse", params["coarse"], expected["coarse"])]
    for g, (found, wanted) in enumerate(zip(params["fine"], expected["fine"], strict=True)):
        networks.append((f"fine[{g}]", found, wanted))
    for where, found, wanted in networks:
        if set(found) != set(wanted):
            raise InputError(
                f"{source}: {where} has {', '.join(sorted(found))}, the config makes "
                f"{', '.join(sorted(wanted))}; check config.model.rank"
            )
        for name, value in found.items():
            if value.shape != wanted[name].shape:
                raise InputError(
                    f"{source}: {where}.{name} has shape {value.shape}, the config and data make "
                    f"{wanted[name].shape}"
                )

    def arrays(network: dict[str, np.ndarray]) -> dict:
        return {name: jnp.asarray(value, jnp.float32) for name, value in network.items()}

    pure = {
        "coarse": arrays(params["coarse"]),
        "fine": {g: arrays(network) for g, network in enumerate(params["fine"])},
    }
    state = jax.tree.map(lambda leaf: leaf, like)  # a copy: the caller keeps its own
    nnx.replace_by_pure_dict(state, pure)
    return state


def with_experts(params: nnx.State, nested: Params, source: str) -> nnx.State:
    """`params` with the experts' part from a published state_dict.

    Raises:
      InputError: the shapes differ; the message begins with `source`.
    """
    experts = nested_to_state(nested, experts_of(params), source)
    return nnx.State({**params, "experts": experts}) if "experts" in params else experts
