"""Counts the FLOPs of a function's matrix products and convolutions, from its traced form."""

from __future__ import annotations

import math
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
        if name in _DEPTHS:
            count = 2 * _DEPTHS[name](equation) * math.prod(equation.outvars[0].aval.shape)
            outside += count
            bfloat16 += count * all(v.aval.dtype == jnp.bfloat16 for v in equation.invars)
        else:
            for inner in map(_count, core.jaxprs_in_params(equation.params)):
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


def _depth_of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    return math.prod(equation.invars[0].aval.shape[i] for i in contracted)


def _depth_of_convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    return math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]


# Numbers that are multiplied and added up for each of a result.
_DEPTHS = {"dot_general": _depth_of_product, "conv_general_dilated": _depth_of_convolution}
