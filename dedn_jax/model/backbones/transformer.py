"""The layers of transformers: linear layers, layer norm, and the pre-norm block.

Tokens are `[batch, tokens, width]`. Products are in the compute type (float32 or bfloat16) and
accumulated in float32; everything else, the residual stream included, is in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from dedn_jax.model.backbones.layers import PRECISION

Tokens = Float[Array, "batch tokens width"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # what OpenAI's CLIP was trained with
}
_DEVIATION = 0.02  # of initial kernels, as ViTs have it


class Size(NamedTuple):
    """How large a transformer is.

    Attributes:
      width: of a token.
      depth: blocks.
      heads: of attention; they divide the width.
      hidden: width of the layer inside a block's MLP.
    """

    width: int
    depth: int
    heads: int
    hidden: int


class Rotation(NamedTuple):
    """Rotary position embedding of the last tokens; those before them have no position."""

    cos: Float[Array, "positions head"]
    sin: Float[Array, "positions head"]

    def __call__(self, x: Float[Array, "batch tokens heads head"]) -> Array:
        before = x.shape[1] - self.cos.shape[0]
        x, last = x[:, :before], x[:, before:]
        low, high = jnp.split(last, 2, -1)
        turned = jnp.concatenate([-high, low], -1)
        rotated = last * self.cos[:, None] + turned * self.sin[:, None]
        return jnp.concatenate([x, rotated], 1)


class Linear(nnx.Module):
    """`x W + b`, or without b.

    Args:
      inputs, outputs: widths.
      bias: whether there is one.
      dtype: the compute type; parameters are always float32.
      rngs: the stream `params` is used.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.dtype = jnp.dtype(dtype)
        self.kernel = nnx.Param(_DEVIATION * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None)

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        kernel = self.kernel[...].astype(self.dtype)
        y = product("...i,io->...o", x.astype(self.dtype), kernel)
        return y if self.bias is None else y + self.bias[...]


class LayerNorm(nnx.Module):
    """Over the last axis, in float32; starts without a scale or shift."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


class Block(nnx.Module):
    """`x + s₁ · attention(norm(x))`, then `x + s₂ · mlp(norm(x))`.

    Args:
      size: of the transformer.
      activation: of the MLP, a key of `ACTIVATIONS`.
      epsilon: of the norms.
      layer_scale: whether there are scales s per channel; they start at 1.
      dtype: the compute type; parameters are always float32.
      rngs: the stream `params` is used.
    """

    def __init__(
        self,
        size: Size,
        *,
        activation: str,
        epsilon: float,
        layer_scale: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        def scale() -> nnx.Param | None:
            return nnx.data(nnx.Param(jnp.ones(width, jnp.float32)) if layer_scale else None)

        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, dtype=dtype, rngs=rngs)

        width = size.width
        self.heads = size.heads
        self.dtype = jnp.dtype(dtype)
        self.activation = ACTIVATIONS[activation]
        self.attention_norm = LayerNorm(width, epsilon)
        self.query_key_value = linear(width, 3 * width)
        self.output = linear(width, width)
        self.attention_scale = scale()
        self.mlp_norm = LayerNorm(width, epsilon)
        self.up = linear(width, size.hidden)
        self.down = linear(size.hidden, width)
        self.mlp_scale = scale()

    def __call__(
        self,
        x: Tokens,
        rotation: Rotation | None = None,
        mask: Bool[Array, "tokens tokens"] | None = None,
    ) -> Tokens:
        """The tokens after the block.

        Args:
          x: float32.
          rotation: of queries and keys.
          mask: whether a token (first axis) attends to another; None: all do.
        """
        y = self._attention(self.attention_norm(x), rotation, mask)
        x = x + (y if self.attention_scale is None else y * self.attention_scale[...])
        y = self.down(self.activation(self.up(self.mlp_norm(x))))
        return x + (y if self.mlp_scale is None else y * self.mlp_scale[...])

    def _attention(self, x: Tokens, rotation: Rotation | None, mask: Array | None) -> Tokens:
        batch, tokens, _ = x.shape
        each = self.query_key_value(x).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = (each[:, :, i] for i in range(3))
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        query = query * query.shape[-1] ** -0.5
        query, key, value = (a.astype(self.dtype) for a in (query, key, value))
        scores = product("bqhd,bkhd->bhqk", query, key)
        if mask is not None:
            scores = jnp.where(mask, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        return self.output(product("bhqk,bkhd->bqhd", weights, value).reshape(x.shape))


def product(equation: str, a: Array, b: Array) -> Array:
    """A product of two arrays of the compute type, accumulated in float32."""
    return jnp.einsum(equation, a, b, precision=PRECISION, preferred_element_type=jnp.float32)
