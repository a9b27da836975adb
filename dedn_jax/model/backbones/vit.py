"""Vision transformers up to their last norm, as feature extractors: a patch is a region.

Sources: ViT, arXiv 2010.11929; DeiT, 2012.12877; CLIP, 2103.00020; SigLIP, 2303.15343; DINOv2,
2304.07193, and with registers, 2309.16588; DINOv3, 2508.10104. The last norm is over every token,
also in CLIP, where only the class token's is trained through it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dedn_jax.model.backbones import vit_files
from dedn_jax.model.backbones.layers import Backbone, Maps, convolve, to_regions
from dedn_jax.model.backbones.naming import Naming
from dedn_jax.model.backbones.positions import resized, rotary
from dedn_jax.model.backbones.transformer import (
    Block,
    LayerNorm,
    Size,
    Tokens,
)

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_DEVIATION = 0.02  # of initial tokens and position embeddings
_ROTARY_BASE = 100.0


class Picture(NamedTuple):
    """What a transformer was made for.

    Attributes:
      patch: side of a patch, pixels.
      side: of the pictures, whose patches have position embeddings; for others these are
        interpolated.
    """

    patch: int
    side: int


class VisionTransformer(Backbone):
    """Pictures to the tokens of their patches, after the last norm.

    Sides are multiples of the patch's side.

    Args:
      size: of the transformer.
      picture: its patches and position embeddings.
      dtype: the compute type, float32 or bfloat16.
      rngs: the stream `params` is used.
    """

    mean, std = _HALVES
    namings: ClassVar[tuple[Naming, ...]] = (vit_files.HUGGING_FACE_VIT, vit_files.TIMM)
    activation: ClassVar[str] = "gelu"
    epsilon: ClassVar[float] = 1e-6
    has_class_token: ClassVar[bool] = True
    registers: ClassVar[int] = 0  # tokens beside it that are no part of the picture
    patch_bias: ClassVar[bool] = True
    first_norm: ClassVar[bool] = False  # before the blocks
    layer_scale: ClassVar[bool] = False
    antialias: ClassVar[bool] = False  # in interpolating position embeddings
    rotary: ClassVar[bool] = False  # positions turn queries and keys in place of being added

    def __init__(self, size: Size, picture: Picture, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(_DEVIATION * jax.random.normal(rngs.params(), shape))

        width, patch = size.width, picture.patch
        self.channels, self.stride = width, patch
        self.heads = size.heads
        self.dtype = jnp.dtype(dtype)
        self.patch_kernel = drawn(patch, patch, 3, width)
        self.patch_shift = nnx.data(nnx.Param(jnp.zeros(width)) if self.patch_bias else None)
        self.token = nnx.data(drawn(width) if self.has_class_token else None)
        self.register_tokens = nnx.data(drawn(self.registers, width) if self.registers else None)
        count = (picture.side // patch) ** 2 + self.has_class_token
        self.positions = nnx.data(None if self.rotary else drawn(count, width))
        self.norm_before = nnx.data(LayerNorm(width, self.epsilon) if self.first_norm else None)
        self.blocks = nnx.List(
            Block(
                size,
                activation=self.activation,
                epsilon=self.epsilon,
                layer_scale=self.layer_scale,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(size.depth)
        )
        self.norm = LayerNorm(width, self.epsilon)

    def maps(self, images: Float[Array, "batch height width 3"]) -> Maps:
        return self._tokens(images)[1]

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch channels regions"]:
        tokens, maps = self._tokens(images)
        regions = to_regions(maps)
        if not self.class_token:
            return regions
        return jnp.concatenate([regions, tokens[:, 0, :, None]], -1)

    def _tokens(self, images: Float[Array, "batch height width 3"]) -> tuple[Tokens, Maps]:
        """The tokens before the patches', and the patches' as maps."""
        height, width = images.shape[1:3]
        side = self.stride
        if height % side or width % side:
            raise ValueError(f"pictures of {height} x {width} pixels: expected multiples of {side}")
        x, grid = self._patches(images)
        before = x.shape[1] - grid[0] * grid[1]
        head = self.channels // self.heads
        rotation = rotary(grid, head, _ROTARY_BASE) if self.rotary else None
        if self.norm_before is not None:
            x = self.norm_before(x)
        for block in self.blocks:
            x = block(x, rotation)
        x = self.norm(x)
        return x[:, :before], x[:, before:].reshape(x.shape[0], *grid, -1)

    def _patches(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Tokens, tuple[int, int]]:
        """All tokens before the first block, and rows and columns of the patches'."""
        kernel = self.patch_kernel[...].astype(self.dtype)
        x = convolve(images.astype(self.dtype), kernel, self.stride, ((0, 0), (0, 0)))
        batch, *grid, channels = x.shape
        rows, columns = grid
        x = x.reshape(batch, rows * columns, channels)
        if self.patch_shift is not None:
            x = x + self.patch_shift[...]
        token = None if self.token is None else self.token[...][None]
        if self.positions is not None:
            positions = self.positions[...]
            if token is not None:
                token, positions = token + positions[:1], positions[1:]
            x = x + resized(positions, (rows, columns), antialias=self.antialias)
        registers = None if self.register_tokens is None else self.register_tokens[...]
        before = [
            jnp.broadcast_to(tokens, (batch, *tokens.shape))
            for tokens in (token, registers)
            if tokens is not None
        ]
        return jnp.concatenate([*before, x], 1), (rows, columns)


class DeiT(VisionTransformer):
    """ViT as trained by Touvron et al., without distillation."""

    mean, std = _IMAGENET


class DINOv2(VisionTransformer):
    """Self-supervised."""

    mean, std = _IMAGENET
    namings = (vit_files.HUGGING_FACE_DINO_V2, vit_files.TIMM)
    layer_scale = True


class DINOv2Registers(DINOv2):
    """With four tokens more, which take up what is not of a patch."""

    registers = 4
    antialias = True


class DINOv3(VisionTransformer):
    """Self-supervised, with rotary positions."""

    mean, std = _IMAGENET
    namings = (vit_files.HUGGING_FACE_DINO_V3,)
    epsilon = 1e-5
    layer_scale = True
    registers = 4
    rotary = True


class CLIP(VisionTransformer):
    """The image tower of OpenAI's CLIP."""

    mean, std = _CLIP
    namings = (vit_files.HUGGING_FACE_CLIP, vit_files.OPEN_CLIP)
    activation = "quick_gelu"
    epsilon = 1e-5
    patch_bias = False
    first_norm = True


class OpenCLIP(CLIP):
    """The image tower of CLIP as OpenCLIP trains it: with the exact GELU."""

    activation = "gelu"


class SigLIP(VisionTransformer):
    """The image tower of SigLIP and SigLIP 2, without its pooling head: no class token."""

    namings = (vit_files.HUGGING_FACE_SIGLIP, vit_files.TIMM_SIGLIP)
    activation = "gelu_tanh"
    has_class_token = False


_SMALL, _BASE = Size(384, 12, 6, 1536), Size(768, 12, 12, 3072)
_LARGE, _SO400M = Size(1024, 24, 16, 4096), Size(1152, 27, 16, 4304)
_SELECTIONS: dict[str, tuple[type[VisionTransformer], Size, Picture]] = {
    "vit_s16": (VisionTransformer, _SMALL, Picture(16, 224)),
    "vit_b16": (VisionTransformer, _BASE, Picture(16, 224)),
    "vit_b32": (VisionTransformer, _BASE, Picture(32, 224)),
    "vit_l16": (VisionTransformer, _LARGE, Picture(16, 224)),
    "deit_s16": (DeiT, _SMALL, Picture(16, 224)),
    "deit_b16": (DeiT, _BASE, Picture(16, 224)),
    "dinov2_s14": (DINOv2, _SMALL, Picture(14, 518)),
    "dinov2_b14": (DINOv2, _BASE, Picture(14, 518)),
    "dinov2_l14": (DINOv2, _LARGE, Picture(14, 518)),
    "dinov2_s14_reg": (DINOv2Registers, _SMALL, Picture(14, 518)),
    "dinov2_b14_reg": (DINOv2Registers, _BASE, Picture(14, 518)),
    "dinov2_l14_reg": (DINOv2Registers, _LARGE, Picture(14, 518)),
    "dinov3_s16": (DINOv3, _SMALL, Picture(16, 224)),
    "dinov3_b16": (DINOv3, _BASE, Picture(16, 224)),
    "dinov3_l16": (DINOv3, _LARGE, Picture(16, 224)),
    "clip_b16": (CLIP, _BASE, Picture(16, 224)),
    "clip_b32": (CLIP, _BASE, Picture(32, 224)),
    "clip_l14": (CLIP, _LARGE, Picture(14, 224)),
    "openclip_b16": (OpenCLIP, _BASE, Picture(16, 224)),
    "openclip_b32": (OpenCLIP, _BASE, Picture(32, 224)),
    "siglip_b16": (SigLIP, _BASE, Picture(16, 224)),
    "siglip_l16": (SigLIP, _LARGE, Picture(16, 256)),
    "siglip_so400m14": (SigLIP, _SO400M, Picture(14, 384)),
}
VISION_TRANSFORMERS: dict[str, Callable[..., VisionTransformer]] = {
    name: functools.partial(kind, size, picture)
    for name, (kind, size, picture) in _SELECTIONS.items()
}
