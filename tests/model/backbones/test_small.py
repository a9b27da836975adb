"""The small backbone: shapes, what its first filters respond to, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.model.backbones import BACKBONES, SmallNet, make_backbone

RED, GREEN, BROWN = 0, 3, 8  # positions in the table of colours
COLORS, ENERGIES = slice(0, 12), slice(60, 78)  # channels: colour peaks; mean energies by octave


def make(dtype="float32", seed=0):
    return make_backbone("small", dtype, nnx.Rngs(seed))


@nnx.jit
def feature_map(backbone, pictures):
    return backbone(backbone.preprocess(pictures))


def without_noise(backbone):
    """The mixing layer as the identity, so that channels keep their names."""
    backbone.mix[...] = jnp.eye(backbone.channels)
    return backbone


@pytest.fixture(scope="module")
def pictures():
    """`[3, 96, 96, 3]` uint8: smooth colours with some grain."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (3, 8, 8, 3)).repeat(12, 1).repeat(12, 2)
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def test_shapes_and_counts(pictures):
    backbone = make()
    found = feature_map(backbone, pictures)
    assert "small" in BACKBONES and isinstance(backbone, SmallNet)
    assert found.shape == (3, 96, 64) and found.dtype == jnp.float32
    assert (backbone.channels, backbone.stride) == (96, 12)
    assert feature_map(backbone, pictures[:, :72, :48]).shape == (3, 96, 6 * 4)
    assert not jax.tree.leaves(nnx.state(backbone, nnx.BatchStat))
    parameters = {
        "color": 5 * 5 * 3 * 12 + 12,
        "gabor": 3 * 9 * 9 * 12,
        "sensitivity": 3,
        "mix": 96 * 96 + 96,
    }
    sizes = [x.size for x in jax.tree.leaves(nnx.state(backbone, nnx.Param))]
    assert sum(sizes) == sum(parameters.values()) == 13143


def test_deterministic_and_seeded(pictures):
    first = np.asarray(feature_map(make(), pictures))
    np.testing.assert_array_equal(first, np.asarray(feature_map(make(), pictures)))
    assert np.abs(first - np.asarray(feature_map(make(seed=1), pictures))).max() > 0.01


def test_every_picture_for_itself(pictures):
    backbone = make()
    together, alone = feature_map(backbone, pictures), feature_map(backbone, pictures[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_colors_start_as_the_named_ones():
    picture = np.full((1, 96, 96, 3), (84, 160, 76), np.uint8)  # green
    picture[0, 36:48, 24:36] = (205, 58, 50)  # a red square over one region: row 3, column 2
    colors = np.asarray(feature_map(without_noise(make()), picture))[0, COLORS].reshape(12, 8, 8)
    assert np.unravel_index(colors[RED].argmax(), (8, 8)) == (3, 2)
    # 0.69 of a region's window lies inside it on each axis: 0.69^(2/8) = 0.91, less the mean.
    assert 0.55 < colors[RED, 3, 2] < 0.91
    # Along the square's blurred border red and green mix, to brown.
    assert np.delete(colors[:, 3, 2], [RED, BROWN]).max() < 0.1
    assert colors[GREEN, 3, 2] == 0  # less than the picture's mean
    assert colors[RED, 6:, 5:].max() == 0


def test_energies_start_oriented():
    """Stripes five pixels wide on a gray picture answer in the first octave, at their angle."""
    x, y = np.meshgrid(np.arange(96), np.arange(96))
    inside = (np.abs(x - 30) < 18) & (np.abs(y - 66) < 18)
    for orientation, position in ((0, x), (3, y)):
        wave = 128 + 60 * np.cos(2 * np.pi / 5 * position) * inside
        picture = np.repeat(wave[None, :, :, None], 3, axis=-1).astype(np.uint8)
        energies = np.asarray(feature_map(without_noise(make()), picture))[0, ENERGIES]
        strongest = np.unravel_index(energies.argmax(), energies.shape)
        assert strongest[0] == orientation
        row, column = divmod(int(strongest[1]), 8)
        assert 4 <= row <= 6 and 1 <= column <= 3


def test_a_picture_that_is_the_same_everywhere_is_zero():
    found = feature_map(make(), np.full((1, 96, 96, 3), 90, np.uint8))
    assert np.abs(found).max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_in_every_parameter(pictures, dtype):
    model, params = nnx.split(make(dtype))
    target = jax.random.normal(jax.random.key(0), (3, 96, 64))

    @jax.jit
    @jax.grad
    def gradient(params):
        backbone = nnx.merge(model, params)
        return (backbone(backbone.preprocess(pictures)) * target).sum()

    leaves = jax.tree.leaves(gradient(params))
    assert len(leaves) == 8
    for leaf in leaves:
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 1e-3
        assert np.mean(np.asarray(leaf) != 0) > 0.99


def test_gradient_is_finite_where_all_is_flat():
    model, params = nnx.split(make())

    @jax.jit
    @jax.grad
    def gradient(params):
        backbone = nnx.merge(model, params)
        return backbone(backbone.preprocess(np.zeros((1, 96, 96, 3), np.uint8))).sum()

    for leaf in jax.tree.leaves(gradient(params)):
        assert np.isfinite(leaf).all()


def test_bfloat16_is_near(pictures):
    exact, found = feature_map(make(), pictures), feature_map(make("bfloat16"), pictures)
    assert found.dtype == jnp.float32
    error = np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))
    assert 0 < error < 0.03


@pytest.mark.parametrize("size", [(95, 96), (96, 20)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels"):
        make()(jnp.zeros((1, *size, 3)))
