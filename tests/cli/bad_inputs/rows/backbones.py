"""Weights of backbones."""

from __future__ import annotations

import pickle

import numpy as np
from safetensors.numpy import save_file

from dedn_jax.model.backbones.vit import VisionTransformer
from tests.cli.bad_inputs.making import Hostile, weight_shapes
from tests.cli.bad_inputs.world import Bad, World
from tests.helpers.tiny_vit import NAME, add_tiny_vit


def _other_depth(world: World) -> list[str]:
    """The names of resnet34; its sizes are not looked at, being other names."""
    names = weight_shapes("resnet34")
    path = world.root / "resnet34.safetensors"
    save_file({name: np.zeros(1, np.float32) for name in names}, str(path))
    return world.extract("--config.backbone.name=resnet18", f"--config.backbone.weights={path}")


def _hostile_weights(world: World) -> list[str]:
    path = world.words("resnet18.pth", pickle.dumps({"conv1.weight": Hostile()}))
    return world.extract("--config.backbone.name=resnet18", f"--config.backbone.weights={path}")


def _no_patches(world: World) -> list[str]:
    add_tiny_vit(world.monkeypatch, VisionTransformer)
    return world.train(
        *world.prepared_flags(),
        "--config.data.source=images",
        f"--config.backbone.name={NAME}",
        "--config.backbone.weights=",
        "--config.backbone.trained=true",
        "--config.picture.crop=44",
    )


def _weights(world: World, name: str, data: bytes) -> list[str]:
    return world.extract(f"--config.backbone.weights={world.words(name, data)}")


BACKBONES = [
    Bad(
        "weights of another depth",
        _other_depth,
        "resnet34.safetensors",
        "has unexpected layer1.2",
        "is the file for the backbone in the config?",
    ),
    Bad(
        "hostile weights",
        _hostile_weights,
        "resnet18.pth",
        "not a readable file of tensors",
        "save its tensors with torch.save(model.state_dict())",
    ),
    Bad(
        "no such weights",
        lambda w: w.extract("--config.backbone.weights=none.npz"),
        "none.npz",
        "no such file",
        "set --config.backbone.weights",
    ),
    Bad(
        "damaged .npz",
        lambda w: _weights(w, "w.npz", b"PK\3\4 not"),
        "w.npz",
        "not a readable .npz",
        "compare its hash with that of where it is from",
    ),
    Bad(
        "damaged .safetensors",
        lambda w: _weights(w, "w.safetensors", b"\xff" * 99),
        "w.safetensors",
        "not a readable .safetensors file",
        "compare its hash with that of where it is from",
    ),
    Bad(
        "weights in another format",
        lambda w: _weights(w, "w.h5", b"\x89HDF"),
        "w.h5",
        "w.h5: unknown format",
        "expected a file that ends in .pth, .pt, .tar, .bin",
    ),
    Bad(
        "weights for the small backbone",
        lambda w: w.extract("--config.backbone.name=small"),
        "weights.npz",
        "lacks color",
        "expected a backbone that `dedn export --format=backbone` wrote",
    ),
    Bad(
        "extraction without weights",
        lambda w: w.extract("--config.backbone.weights="),
        "config.backbone.weights",
        "is empty",
        "set it to a .pth",
    ),
    Bad(
        "frozen backbone without weights",
        lambda w: w.train(
            *w.prepared_flags(), "--config.data.source=images", "--config.backbone.weights="
        ),
        "config.backbone.weights",
        "a frozen backbone needs trained weights",
        "--config.backbone.trained=true",
    ),
    Bad(
        "class token of a backbone without one",
        lambda w: w.extract("--config.backbone.class_token=true"),
        "config.backbone.class_token=true",
        "has no class token",
        "set it to false",
    ),
    Bad(
        "pictures that do not consist of patches",
        _no_patches,
        "config.picture.crop=44",
        "takes no pictures of 44 x 44 pixels",
        "expected multiples of 8",
    ),
    Bad(
        "unknown backbone",
        lambda w: w.extract("--config.backbone.name=vgg16"),
        "config.backbone.name",
        "'vgg16' is no backbone",
        "expected one of resnet18",
    ),
    Bad(
        "unknown backbone of features",
        lambda w: w.train("--config.backbone.name=ViT-B-61"),
        "config.backbone.name",
        "'ViT-B-61' is no backbone; the nearest: vit_b16",
        "expected one of resnet18",
    ),
]
