"""A vision transformer small enough for tests, by the name `tiny_vit`."""

from __future__ import annotations

import functools

import pytest

from dedn_jax import config_ranges
from dedn_jax.model import backbones
from dedn_jax.model.backbones.transformer import Size
from dedn_jax.model.backbones.vit import DINOv2Registers, Picture, VisionTransformer

NAME, PATCH, WIDTH = "tiny_vit", 8, 24
SIZE, PICTURE = Size(WIDTH, 2, 3, 48), Picture(PATCH, 40)


def add_tiny_vit(
    monkeypatch: pytest.MonkeyPatch, kind: type[VisionTransformer] = DINOv2Registers
) -> None:
    """Makes `config.backbone.name=tiny_vit` select it."""
    monkeypatch.setitem(backbones._CONSTRUCTORS, NAME, functools.partial(kind, SIZE, PICTURE))
    monkeypatch.setattr(config_ranges, "BACKBONES", (*config_ranges.BACKBONES, NAME))
