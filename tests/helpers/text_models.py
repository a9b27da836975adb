"""Small CLIP and SigLIP text models in the layout of transformers, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, DEPTH, HEADS, HIDDEN, OUTPUTS = 16, 2, 4, 32, 12
WORDS = ("[UNK]", "<pad>", "<start>", "<end>", "a", "bird", "with", "blue", "wing", "bill", "long")
LENGTH = 8


def write_tokenizer(folder: Path, kind: str) -> None:
    """One token a word; CLIP's texts have a start and an end, SigLIP's an end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, WORDS[0]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    start = "<start> " if kind == "clip" else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))


def text_arrays(kind: str) -> dict[str, np.ndarray]:
    """Random weights of the text tower alone."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (len(WORDS), WIDTH),
        "embeddings.position_embedding.weight": (LENGTH, WIDTH),
        "final_layer_norm.weight": (WIDTH,),
        "final_layer_norm.bias": (WIDTH,),
    }
    for block in range(DEPTH):
        layers = {
            **{f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in ("q", "k", "v", "out")},
            "mlp.fc1": (HIDDEN, WIDTH),
            "mlp.fc2": (WIDTH, HIDDEN),
            "layer_norm1": (WIDTH,),
            "layer_norm2": (WIDTH,),
        }
        for name, shape in layers.items():
            shapes[f"encoder.layers.{block}.{name}.weight"] = shape
            shapes[f"encoder.layers.{block}.{name}.bias"] = shape[:1]
    shapes = {f"text_model.{name}": shape for name, shape in shapes.items()}
    if kind == "clip":
        shapes["text_projection.weight"] = (OUTPUTS, WIDTH)
    else:
        shapes |= {"text_model.head.weight": (OUTPUTS, WIDTH), "text_model.head.bias": (OUTPUTS,)}
    rng = np.random.default_rng(0)
    return {k: rng.normal(0, 0.3, shape).astype(np.float32) for k, shape in shapes.items()}


def write_text_model(folder: Path, kind: str) -> Path:
    """The whole folder, as `--text-model` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, kind)
    save_file(text_arrays(kind), str(folder / "model.safetensors"))
    config = {"text_config": {"num_attention_heads": HEADS}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
