"""Resizing and cropping against numbers of torchvision 0.29 (on PIL images) and of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dedn_jax.data.pictures.transforms import (
    center_crop,
    flip,
    random_resized_crop,
    resize,
    resize_short_side,
    standard,
    standard_points,
)

# `resize(PICTURE, 6)` of torchvision, green channel.
RESIZED = np.array(
    [
        [103, 144, 143, 163, 105, 96, 125, 74],
        [139, 111, 131, 166, 135, 141, 110, 78],
        [141, 137, 136, 146, 141, 136, 129, 124],
        [122, 141, 91, 101, 122, 143, 122, 114],
        [98, 127, 135, 109, 125, 131, 131, 97],
        [104, 154, 123, 162, 114, 91, 118, 104],
    ]
)
# The same by torch.nn.functional.interpolate(bilinear, antialias=True), on uint8 and, rounded, on
# float.
TENSOR_UINT8 = np.array(
    [
        [103, 144, 143, 163, 105, 96, 125, 75],
        [139, 111, 131, 166, 135, 141, 110, 78],
        [141, 137, 136, 146, 141, 136, 129, 124],
        [122, 141, 91, 101, 122, 143, 122, 114],
        [98, 127, 135, 109, 125, 131, 131, 97],
        [104, 154, 123, 162, 114, 91, 118, 104],
    ]
)
TENSOR_FLOAT = np.array(
    [
        [103, 143, 144, 163, 105, 96, 125, 74],
        [140, 111, 131, 166, 135, 141, 110, 78],
        [141, 137, 136, 146, 141, 136, 129, 124],
        [122, 141, 91, 101, 122, 143, 122, 114],
        [98, 127, 135, 109, 125, 131, 130, 97],
        [104, 154, 123, 162, 113, 90, 118, 104],
    ]
)


def formula(height: int = 9, width: int = 13) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :3]
    return ((37 * y * y + 11 * x * y + 50 * c + 90 * x) % 256).astype(np.uint8)


PICTURE = formula()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def numbered(height: int, width: int) -> np.ndarray:
    """1, 2, 3, ... row by row, in all channels."""
    plane = np.arange(1, height * width + 1, dtype=np.uint8).reshape(height, width)
    return np.repeat(plane[..., None], 3, axis=-1)


def test_resizing_equals_torchvision():
    result = resize_short_side(PICTURE, 6)
    assert result.dtype == np.uint8
    assert result.shape == (6, 8, 3)
    np.testing.assert_array_equal(result[..., 1], RESIZED)
    enlarged = resize_short_side(PICTURE, 11)
    assert enlarged.shape == (11, 15, 3)
    first_row = [50, 122, 200, 141, 100, 178, 222, 78, 156, 46, 56, 134, 127, 34, 106]
    np.testing.assert_array_equal(enlarged[0, :, 1], first_row)


@pytest.mark.parametrize("tensor", [TENSOR_UINT8, TENSOR_FLOAT], ids=["uint8", "float"])
def test_tensors_are_resized_to_within_a_level(tensor):
    difference = np.abs(resize_short_side(PICTURE, 6)[..., 1].astype(int) - tensor)
    assert difference.max() == 1
    assert difference.mean() < 0.2


@pytest.mark.torch
def test_resizing_against_live_torch():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed, (height, width) in enumerate([(60, 90), (224, 299), (448, 300), (37, 41)]):
            image = noise(160, 210, seed)
            ours = resize(image, height, width).astype(int)
            tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
            for x in (tensor, tensor.float()):
                theirs = torch.nn.functional.interpolate(
                    x, (height, width), mode="bilinear", antialias=True
                )
                theirs = theirs[0].permute(1, 2, 0).float().round().int().numpy()
                difference = np.abs(ours - theirs)
                assert difference.max() <= 1
                assert difference.mean() < 0.3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (375, 500, 448, (448, 597)),  # 597.33
        (500, 375, 448, (597, 448)),
        (333, 500, 256, (256, 384)),  # 384.38
        (640, 427, 256, (383, 256)),  # 383.70: cut off, not rounded
        (227, 227, 224, (224, 224)),
        (3, 100, 7, (7, 233)),
    ],
)
def test_long_side(height, width, size, expected):
    image = np.zeros((height, width, 3), np.uint8)
    assert resize_short_side(image, size).shape == (*expected, 3)


def test_right_size_stays_as_it_is():
    assert resize_short_side(PICTURE, 9) is PICTURE


def test_resizing_a_view():
    image = noise(60, 50)
    view = image[5:45, 40:9:-1]
    np.testing.assert_array_equal(resize(view, 21, 17), resize(view.copy(), 21, 17))
    expected = Image.fromarray(view.copy()).resize((17, 21), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(view, 21, 17), np.asarray(expected))


@pytest.mark.parametrize(
    ("height", "width", "size", "corners", "total"),
    [  # corners and sums from torchvision
        (9, 13, 4, (31, 34, 70, 73), 832),
        (9, 13, 12, (0, 0, 0, 0), 6318),
        (5, 6, 9, (0, 0, 0, 0), 465),
        (7, 3, 4, (7, 0, 16, 0), 150),
        (10, 10, 5, (23, 27, 63, 67), 1125),
        (9, 9, 4, (21, 24, 48, 51), 576),
    ],
)
def test_center_crop_equals_torchvision(height, width, size, corners, total):
    result = center_crop(numbered(height, width), size)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    for channel in np.moveaxis(result, -1, 0):
        assert tuple(channel[[0, 0, -1, -1], [0, -1, 0, -1]]) == corners
        assert channel.sum(dtype=int) == total


def test_padding_by_hand():
    result = center_crop(numbered(2, 1), 4)[..., 0]
    expected = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(result, expected)


def test_standard():
    result = standard(PICTURE, 6, 5)
    np.testing.assert_array_equal(result[..., 1], RESIZED[:5, 2:7])  # 0.5 and 1.5, half to even
    np.testing.assert_array_equal(result, center_crop(resize_short_side(PICTURE, 6), 5))


def coordinates(height: int, width: int) -> np.ndarray:
    """Row and column in the first two channels: a crop then shows where it was taken."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "largest"),  # a width of 120 with a height of 160 at most
    [(200, 250, 1.0), (250, 120, 0.64), (120, 120, 1.0)],
)
def test_random_boxes(height, width, largest):
    image = coordinates(height, width)
    rng = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(300):
        result = random_resized_crop(image, 64, rng, smallest_area=0.3)
        assert result.shape == (64, 64, 3)
        assert result.dtype == np.uint8
        last = result[-1, -1].astype(int) - result[0, 0]
        box_height, box_width = last[:2] * 64 / 63  # from pixel centres to edges
        areas.append(box_height * box_width / (height * width))
        ratios.append(box_width / box_height)
    assert 0.28 < min(areas) < 0.35
    assert 0.8 * largest < max(areas) <= 1.03 * largest
    assert 0.72 < min(ratios) < 0.85
    assert 1.15 < max(ratios) < 1.37


def test_random_box_is_resized_like_a_picture_of_its_own():
    """Boxes by hand: of the whole area, square pictures leave one choice."""
    image = noise(48, 48)
    result = random_resized_crop(
        image, 20, np.random.default_rng(0), smallest_area=1.0, ratio=(1.0, 1.0)
    )
    np.testing.assert_array_equal(result, resize(image, 20, 20))


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (30, 300, np.s_[:, 130:170]),  # 4/3 of the height
        (300, 30, np.s_[130:170, :]),
    ],
)
def test_no_box_fits(height, width, box):
    image = noise(height, width)
    result = random_resized_crop(image, 16, np.random.default_rng(0), smallest_area=0.9)
    np.testing.assert_array_equal(result, resize(image[box], 16, 16))


def test_no_box_fits_and_the_ratio_is_right():
    image = noise(10, 11)  # the whole area in a square: 10.49 by 10.49
    result = random_resized_crop(
        image, 8, np.random.default_rng(0), smallest_area=1.0, ratio=(1.05, 1.2)
    )
    np.testing.assert_array_equal(result, resize(image, 8, 8))


def test_random_crops_follow_the_generator():
    image = noise(80, 90)

    def crops(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [random_resized_crop(image, 24, rng, smallest_area=0.2) for _ in range(4)]

    for a, b in zip(crops(3), crops(3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(crops(3)[0], crops(3)[1])
    assert not np.array_equal(crops(3)[0], crops(4)[0])


def test_flip():
    rng = np.random.default_rng(0)
    mirrored = PICTURE[:, ::-1]
    assert flip(PICTURE, rng, 0.0) is PICTURE
    np.testing.assert_array_equal(flip(PICTURE, rng, 1.0), mirrored)
    flips = sum(np.array_equal(flip(PICTURE, rng, 0.3), mirrored) for _ in range(1000))
    assert 255 <= flips <= 345  # 300, three standard deviations either way


def test_arguments_are_not_changed():
    image = noise(50, 70)
    before = image.copy()
    rng = np.random.default_rng(0)
    standard(image, 30, 40)
    random_resized_crop(image, 20, rng, smallest_area=0.5)
    flip(image, rng, 1.0)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "crop"),
    [(90, 60, 120, 100), (60, 90, 40, 40), (50, 75, 32, 48), (64, 64, 64, 64)],
)
def test_points_follow_the_pixels(height: int, width: int, short_side: int, crop: int):
    """A bright spot is found where `standard_points` says, within half a pixel."""
    y, x = np.mgrid[:height, :width]
    spots = np.array([[width * 0.55, height * 0.4], [width * 0.5, height * 0.65]])
    expected = standard_points(spots, height, width, short_side, crop)
    for spot, place in zip(spots, expected, strict=True):
        bright = np.exp(-((x + 0.5 - spot[0]) ** 2 + (y + 0.5 - spot[1]) ** 2) / 30)
        picture = np.repeat((255 * bright).astype(np.uint8)[..., None], 3, 2)
        seen = standard(picture, short_side, crop)[..., 0].astype(float)
        down, right = np.mgrid[:crop, :crop] + 0.5
        found = [(seen * right).sum() / seen.sum(), (seen * down).sum() / seen.sum()]
        np.testing.assert_allclose(found, place, atol=0.5)
