"""Maps over pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dedn_jax.inference.explain.overlay import Scale, jpeg, overlay, upsample


def test_upsampling_is_bilinear_between_centres():
    found = upsample(np.array([[0.0, 1.0], [2.0, 3.0]]), 4, 8)
    columns = np.array([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    rows = np.array([0, 0.5, 1.5, 2])
    np.testing.assert_allclose(found, rows[:, None] + columns, atol=1e-6)


def test_the_scale_is_of_all_maps_in_multiples_of_even_attention():
    maps = np.array([[[0.1, 0.4], [0.25, 0.25]], [[0.7, 0.1], [0.1, 0.1]]])
    low, high = Scale.of(maps)
    np.testing.assert_allclose([low, high], [0.4, 2.8])


def test_more_attention_is_lighter_and_more_opaque():
    picture = np.full((30, 30, 3), 128, np.uint8)
    grid = np.array([[0.0, 0.25], [0.25, 0.5]])
    found = overlay(picture, grid, Scale(0.0, 2.0)).astype(int)
    most, least = found[-1, -1], found[0, 0]
    assert most.sum() > found[0, -1].sum() > least.sum()
    assert np.ptp(least) < 10  # grey, nearly as the picture is
    assert abs(least - 128).max() < 40
    # The same map against a wider scale, as beside another expert, is not as light.
    assert overlay(picture, grid, Scale(0.0, 8.0)).astype(int)[-1, -1].sum() < most.sum()


def test_even_attention_does_not_divide_by_nothing():
    picture = np.full((8, 8, 3), 90, np.uint8)
    grid = np.full((2, 2), 0.25)
    assert np.unique(overlay(picture, grid, Scale.of(grid[None]))).size <= 3


def test_jpeg():
    pixels = np.full((8, 9, 3), (200, 30, 90), np.uint8)
    with Image.open(io.BytesIO(jpeg(pixels))) as image:
        assert image.format == "JPEG" and image.size == (9, 8)
        assert abs(np.asarray(image).astype(int) - pixels).max() <= 4
