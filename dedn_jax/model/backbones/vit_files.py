"""What files of pretrained transformers call their arrays: Hugging Face's, timm's, OpenCLIP's.

timm's names are also those of the files that DeiT and DINOv2 were published in.
"""

from __future__ import annotations

from collections.abc import Callable

from dedn_jax.model.backbones.naming import FROM_OI, FROM_OIHW, Naming, Stored


def block_arrays(
    block: str,
    *,
    norms: tuple[str, str],
    qkv: tuple[str, ...],
    output: str,
    mlp: tuple[str, str],
    scales: tuple[str, str] | None = None,
    joint: tuple[str, str] = (".weight", ".bias"),
    key_bias: bool = True,
) -> dict[str, Stored]:
    """The arrays of `Block`s.

    Args:
      block: what the names of a block begin with, with `{}` for its number.
      norms: before attention and before the MLP.
      qkv: queries, keys and values, or all in one.
      output: of attention.
      mlp: its two layers.
      scales: of attention and of the MLP, where blocks have them.
      joint: what ends the names of weight and bias in `qkv`.
      key_bias: whether keys have a bias.
    """
    arrays = {
        **_norm("blocks.{}.attention_norm", block + norms[0]),
        **_norm("blocks.{}.mlp_norm", block + norms[1]),
        **_linear("blocks.{}.output", block + output),
        **_linear("blocks.{}.up", block + mlp[0]),
        **_linear("blocks.{}.down", block + mlp[1]),
        "blocks.{}.query_key_value.kernel": Stored(
            tuple(f"{block}{name}{joint[0]}" for name in qkv), FROM_OI
        ),
        "blocks.{}.query_key_value.bias": Stored(
            tuple(f"{block}{name}{joint[1]}" for name in qkv), absent=() if key_bias else (1,)
        ),
    }
    if scales:
        arrays["blocks.{}.attention_scale"] = Stored((block + scales[0],))
        arrays["blocks.{}.mlp_scale"] = Stored((block + scales[1],))
    return arrays


def _norm(ours: str, theirs: str) -> dict[str, Stored]:
    return {
        f"{ours}.scale": Stored((f"{theirs}.weight",)),
        f"{ours}.bias": Stored((f"{theirs}.bias",)),
    }


def _linear(ours: str, theirs: str) -> dict[str, Stored]:
    return {
        f"{ours}.kernel": Stored((f"{theirs}.weight",), FROM_OI),
        f"{ours}.bias": Stored((f"{theirs}.bias",)),
    }


def _named(
    *,
    patch: str,
    norm: str,
    token: Stored | None = None,
    registers: str | None = None,
    positions: Stored | None = None,
    norm_before: str | None = None,
) -> dict[str, Stored]:
    """The arrays of a tower outside its blocks; what the tower has not is not looked for."""
    arrays = {
        "patch_kernel": Stored((f"{patch}.weight",), FROM_OIHW),
        "patch_shift": Stored((f"{patch}.bias",)),
        **_norm("norm", norm),
    }
    if token:
        arrays["token"] = token
    if registers:
        arrays["register_tokens"] = Stored((registers,), leading=1)
    if positions:
        arrays["positions"] = positions
    return arrays | (_norm("norm_before", norm_before) if norm_before else {})


def _starts(*starts: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(starts)


_TIMM_BLOCKS = block_arrays(
    "blocks.{}.",
    norms=("norm1", "norm2"),
    qkv=("attn.qkv",),
    output="attn.proj",
    mlp=("mlp.fc1", "mlp.fc2"),
    scales=("ls1.gamma", "ls2.gamma"),
)
TIMM = Naming(
    origin="a vision transformer of timm",
    arrays=_named(
        patch="patch_embed.proj",
        token=Stored(("cls_token",), leading=2),
        registers="register_tokens",
        positions=Stored(("pos_embed",), leading=1, grid_after=1),
        norm="norm",
    )
    | _TIMM_BLOCKS,
    ignored=_starts("head.", "mask_token"),
)
TIMM_SIGLIP = Naming(
    origin="a SigLIP image tower of timm",
    arrays=_named(
        patch="patch_embed.proj",
        positions=Stored(("pos_embed",), leading=1, grid_after=0),
        norm="norm",
    )
    | _TIMM_BLOCKS,
    ignored=_starts("attn_pool."),
    roots=("", "visual.trunk."),
)

_ENCODER = "encoder.layer.{}."
_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
_OUTPUT = "attention.output.dense"
_EMBEDDED = _named(
    patch="embeddings.patch_embeddings.projection",
    token=Stored(("embeddings.cls_token",), leading=2),
    registers="embeddings.register_tokens",
    positions=Stored(("embeddings.position_embeddings",), leading=1, grid_after=1),
    norm="layernorm",
)
HUGGING_FACE_VIT = Naming(
    origin="a ViT of transformers",
    arrays=_EMBEDDED
    | block_arrays(
        _ENCODER,
        norms=("layernorm_before", "layernorm_after"),
        mlp=("intermediate.dense", "output.dense"),
        qkv=_QKV,
        output=_OUTPUT,
    ),
    ignored=_starts("classifier.", "pooler.", "embeddings.mask_token"),
    roots=("", "vit.", "deit."),
)
HUGGING_FACE_DINO_V2 = Naming(
    origin="a DINOv2 of transformers",
    arrays=_EMBEDDED
    | block_arrays(
        _ENCODER,
        norms=("norm1", "norm2"),
        mlp=("mlp.fc1", "mlp.fc2"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        qkv=_QKV,
        output=_OUTPUT,
    ),
    ignored=_starts("classifier.", "embeddings.mask_token"),
    roots=("", "dinov2.", "dinov2_with_registers."),
)
HUGGING_FACE_DINO_V3 = Naming(
    origin="a DINOv3 ViT of transformers",
    arrays=_named(
        patch="embeddings.patch_embeddings",
        token=Stored(("embeddings.cls_token",), leading=2),
        registers="embeddings.register_tokens",
        norm="norm",
    )
    | block_arrays(
        "layer.{}.",
        norms=("norm1", "norm2"),
        qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        key_bias=False,
        output="attention.o_proj",
        mlp=("mlp.up_proj", "mlp.down_proj"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    ),
    ignored=_starts("embeddings.mask_token"),
)


def _hugging_face_blocks(tower: str) -> dict[str, Stored]:
    """Of the image and the text towers of CLIP and SigLIP."""
    return block_arrays(
        f"{tower}encoder.layers.{{}}.",
        norms=("layer_norm1", "layer_norm2"),
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.out_proj",
        mlp=("mlp.fc1", "mlp.fc2"),
    )


def _hugging_face_tower(origin: str, class_tokens: int) -> Naming:
    return Naming(
        origin=origin,
        arrays=_named(
            patch="embeddings.patch_embedding",
            token=Stored(("embeddings.class_embedding",)),
            positions=Stored(("embeddings.position_embedding.weight",), grid_after=class_tokens),
            norm_before="pre_layrnorm",
            norm="post_layernorm",
        )
        | _hugging_face_blocks(""),
        ignored=_starts("embeddings.position_ids", "head."),
        roots=("vision_model.", ""),
    )


HUGGING_FACE_CLIP = _hugging_face_tower("a CLIP of transformers", class_tokens=1)
HUGGING_FACE_SIGLIP = _hugging_face_tower("a SigLIP of transformers", class_tokens=0)
OPEN_CLIP = Naming(
    origin="a CLIP of OpenCLIP",
    arrays=_named(
        patch="conv1",
        token=Stored(("class_embedding",)),
        positions=Stored(("positional_embedding",), grid_after=1),
        norm_before="ln_pre",
        norm="ln_post",
    )
    | block_arrays(
        "transformer.resblocks.{}.",
        norms=("ln_1", "ln_2"),
        qkv=("attn.in_proj",),
        joint=("_weight", "_bias"),
        output="attn.out_proj",
        mlp=("mlp.c_fc", "mlp.c_proj"),
    ),
    ignored=_starts("proj"),
    roots=("visual.", ""),
)


def _text_tower(origin: str, projection: dict[str, Stored]) -> Naming:
    embeddings = "text_model.embeddings."
    return Naming(
        origin=origin,
        arrays={
            "vocabulary": Stored((f"{embeddings}token_embedding.weight",)),
            "positions": Stored((f"{embeddings}position_embedding.weight",)),
            **_hugging_face_blocks("text_model."),
            **_norm("norm", "text_model.final_layer_norm"),
            **projection,
        },
        ignored=_starts(
            "vision_model.", "visual_projection.", "logit_", f"{embeddings}position_ids"
        ),
    )


CLIP_TEXT = _text_tower(
    "a CLIP of transformers",
    {"projection.kernel": Stored(("text_projection.weight",), FROM_OI)},
)
SIGLIP_TEXT = _text_tower("a SigLIP of transformers", _linear("projection", "text_model.head"))
