"""The text towers of CLIP and SigLIP: from tokens to one embedding for each text.

Sources: CLIP, arXiv 2103.00020; SigLIP, 2303.15343; the code of transformers for both.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from dedn_jax.model.backbones import vit_files
from dedn_jax.model.backbones.layers import Pretrained
from dedn_jax.model.backbones.transformer import Block, LayerNorm, Linear, Size


class Texts(NamedTuple):
    """What a text tower reads.

    Attributes:
      vocabulary: how many tokens there are.
      length: of the longest text, in tokens.
    """

    vocabulary: int
    length: int


class TextTower(Pretrained):
    """Tokens to embeddings.

    Args:
      size: of the transformer.
      texts: that it reads.
      outputs: width of an embedding.
      activation: of the blocks' MLPs, a key of `transformer.ACTIVATIONS`.
      rngs: the stream `params` is used.
    """

    epsilon: ClassVar[float]
    causal: ClassVar[bool]  # tokens attend to those before them alone
    projection_bias: ClassVar[bool]

    def __init__(
        self, size: Size, texts: Texts, outputs: int, activation: str, *, rngs: nnx.Rngs
    ) -> None:
        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.vocabulary = drawn(texts.vocabulary, size.width)
        self.positions = drawn(texts.length, size.width)
        self.blocks = nnx.List(
            Block(size, activation=activation, epsilon=self.epsilon, dtype=jnp.float32, rngs=rngs)
            for _ in range(size.depth)
        )
        self.norm = LayerNorm(size.width, self.epsilon)
        self.projection = Linear(
            size.width, outputs, bias=self.projection_bias, dtype=jnp.float32, rngs=rngs
        )

    def __call__(
        self, tokens: Int[Array, "texts length"], last: Int[Array, " texts"]
    ) -> Float[Array, "texts outputs"]:
        """The embeddings, not normalised.

        Args:
          tokens: of each text, filled up to one length.
          last: position of the token that stands for the text.
        """
        length = tokens.shape[1]
        x = self.vocabulary[...][tokens] + self.positions[...][:length]
        mask = jnp.tril(jnp.ones((length, length), bool)) if self.causal else None
        for block in self.blocks:
            x = block(x, mask=mask)
        return self.projection(self.norm(x[jnp.arange(len(last)), last]))


class CLIPText(TextTower):
    """Its texts end with a token of their own, which stands for them."""

    namings = (vit_files.CLIP_TEXT,)
    epsilon = 1e-5
    causal = True
    projection_bias = False


class SigLIPText(TextTower):
    """Its texts are filled up, and the last of those tokens stands for them."""

    namings = (vit_files.SIGLIP_TEXT,)
    epsilon = 1e-6
    causal = False
    projection_bias = True
