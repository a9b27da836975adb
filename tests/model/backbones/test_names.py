"""The names that a config may give are those that there are backbones for."""

from __future__ import annotations

import pytest

from dedn_jax.config import load_config
from dedn_jax.config_ranges import BACKBONES, unknown_backbone
from dedn_jax.errors import InputError
from dedn_jax.model import backbones


def test_the_names() -> None:
    assert sorted(BACKBONES) == sorted(backbones._CONSTRUCTORS)
    assert len(set(BACKBONES)) == len(BACKBONES)


@pytest.mark.parametrize("name", ["vit_b61", "ResNet-110", "dinov2s14", "", "x" * 10_000])
def test_another_name_is_refused_with_features_as_with_pictures(name: str) -> None:
    for source in ({}, {"data.source": "images", "data.format": "prepared"}):
        with pytest.raises(InputError) as error:
            load_config("base", {"backbone.name": name, **source})
        assert "config.backbone.name=" in str(error.value)
        assert "expected one of resnet18, " in str(error.value)
        assert len(str(error.value)) < 700


def test_near_names() -> None:
    assert "the nearest: vit_b16" in unknown_backbone("vit_b61")
    assert "the nearest: resnet101" in unknown_backbone("ResNet-101")
    assert "nearest" not in unknown_backbone("efghijkl")
