"""Counts the FLOPs of a function's matrix products and convolutions, from its traced form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval


class Flops(NamedTuple):
    """FLOPs of one call.

    Attributes:
      outside: outside of loops.
      inside: inside loops, as often as they run.
      trips: iterations of all loops together.
      bfloat16: those of products whose operands are both bfloat16.
    """

    outside: int
    inside: int
    trips: int
    bfloat16: int

    @property
    def total(self) -> int:
        return self.outside + self.inside


def count_flops(traced: core.ClosedJaxpr) -> Flops:
    """Two per multiply-add; element-wise work is not counted.

    XLA's own count has the body of a loop once, however often it runs.

    Args:
      traced: of `jax.jit(f).trace(...).jaxpr`.
    """
    # Dead code, such as the gradient with respect to the features, is not computed.
    jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return _count(jaxpr)


def _count(jaxpr: Any) -> Flops:
    outside = inside = trips = bfloat16 = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[i] for i in contracted)
            count = 2 * depth * math.prod(equation.outvars[0].aval.shape)
            outside += count
            bfloat16 += count * _is_bfloat16(equation)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            per_output = math.prod(kernel) // outputs
            count = 2 * per_output * math.prod(equation.outvars[0].aval.shape)
            outside += count
            bfloat16 += count * _is_bfloat16(equation)
        else:
            for inner in map(_count, _inner(equation.params)):
                if name == "scan":
                    length = equation.params["length"]
                    inside += length * inner.total
                    bfloat16 += length * inner.bfloat16
                    trips += length * max(1, inner.trips)
                else:
                    outside += inner.outside
                    inside += inner.inside
                    bfloat16 += inner.bfloat16
                    trips += inner.trips
    return Flops(outside, inside, trips, bfloat16)


def _is_bfloat16(equation: Any) -> bool:
    return all(v.aval.dtype == jnp.bfloat16 for v in equation.invars)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
