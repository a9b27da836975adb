"""Vision transformers: sizes, files of all namings, class tokens, positions, bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.positions import resized, rotary
from dedn_jax.model.backbones.vit import (
    CLIP,
    VISION_TRANSFORMERS,
    DINOv2,
    DINOv2Registers,
    DINOv3,
    SigLIP,
    VisionTransformer,
)
from dedn_jax.model.backbones.weights import assign_weights, expected_arrays
from tests.helpers.tiny_vit import PICTURE, SIZE, WIDTH

KINDS = [VisionTransformer, DINOv2, DINOv2Registers, DINOv3, CLIP, SigLIP]
# Published, less classification heads and poolers; DINOv2's mask token is left out.
PARAMETERS = {
    "vit_b16": 85_798_656,
    "deit_s16": 21_665_664,
    "dinov2_s14": 22_056_576 - 384,
    "clip_b16": 86_192_640 - 768 * 512,
}


def tower(kind, picture=PICTURE, dtype="float32"):
    """Shapes alone: the tests assign all numbers."""
    return nnx.eval_shape(lambda: kind(SIZE, picture, dtype=dtype, rngs=nnx.Rngs(0)))


def pictures(height=40, width=40, batch=2):
    return np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)


def random_arrays(backbone):
    rng = np.random.default_rng(1)
    shapes = expected_arrays(backbone)
    return {k: rng.normal(0, 0.2, shape).astype(np.float32) for k, shape in shapes.items()}


def run(backbone, images):
    return np.asarray(nnx.jit(lambda b, x: b(x))(backbone, jnp.asarray(images)))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in PARAMETERS else pytest.mark.slow)
        for n in VISION_TRANSFORMERS
    ],
)
def test_sizes(name):
    """The map of every one, on a picture that is not square, and the published sizes."""
    backbone = nnx.eval_shape(lambda: make_backbone(name, "float32", nnx.Rngs(0)))
    side = backbone.stride
    out = nnx.eval_shape(lambda b, x: b(x), backbone, jnp.zeros((1, 4 * side, 2 * side, 3)))
    assert (out.shape, out.dtype) == ((1, backbone.channels, 8), jnp.float32)
    if name in PARAMETERS:
        leaves = jax.tree.leaves(nnx.state(backbone, nnx.Param))
        assert sum(leaf.size for leaf in leaves) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(DINOv2Registers, "float32"), (SigLIP, "float32"), (DINOv3, "bfloat16"), (CLIP, "bfloat16")],
)
def test_gradients_reach_every_parameter_in_float32(kind, dtype):
    backbone = tower(kind, dtype=dtype)
    backbone.class_token = backbone.has_class_token
    assign_weights(backbone, random_arrays(backbone))
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=WIDTH), jnp.float32)
    gradients = nnx.jit(nnx.grad(lambda b, x: (b(x).sum((0, 2)) * cotangent).sum()))(
        backbone, pictures()
    )
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == len(jax.tree.leaves(nnx.state(backbone)))
    assert all(leaf.dtype == jnp.float32 and float(jnp.abs(leaf).max()) > 0 for leaf in leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close(kind):
    arrays = random_arrays(tower(kind))
    found = []
    for dtype in ("float32", "bfloat16"):
        backbone = tower(kind, dtype=dtype)
        assign_weights(backbone, arrays)
        found.append(run(backbone, pictures()))
    exact, rounded = found
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_the_class_token_is_the_last_region():
    backbone = tower(DINOv2Registers)
    assign_weights(backbone, random_arrays(backbone))
    regions = run(backbone, pictures(24, 56))
    assert regions.shape == (2, WIDTH, 21)
    grid = np.asarray(backbone.maps(pictures(24, 56)))
    assert grid.shape == (2, 3, 7, WIDTH)
    np.testing.assert_allclose(grid.reshape(2, 21, WIDTH).swapaxes(1, 2), regions, atol=1e-6)
    backbone.class_token = True
    found = run(backbone, pictures(24, 56))
    np.testing.assert_allclose(found[:, :, :21], regions, atol=1e-6)
    assert np.abs(found[:, :, 21:] - regions).max(1).min() > 1e-3  # no patch's


def test_a_patch_is_where_it_is_in_the_picture():
    """Without attention or positions that mix patches: a change shows in one region."""
    backbone = tower(DINOv2)
    arrays = random_arrays(backbone)
    assign_weights(backbone, {k: 0 * v if "output.dense" in k else v for k, v in arrays.items()})
    images = pictures(24, 56, batch=1)
    other = images.copy()
    other[0, 8:16, 40:48] += 1  # row 1, column 5 of 3 x 7
    changed = np.abs(run(backbone, other) - run(backbone, images)).max((0, 1))
    assert np.flatnonzero(changed > 1e-6).tolist() == [1 * 7 + 5]


def test_files_of_timm_and_of_open_clip_say_the_same():
    """A whole network's file, with queries, keys and values in one array, behind wrappers."""
    for kind in (VisionTransformer, DINOv2, CLIP, SigLIP):
        backbone = tower(kind)
        arrays = random_arrays(backbone)
        assign_weights(backbone, arrays)
        expected = run(backbone, pictures())
        other = backbone.namings[1]
        renamed = _renamed(backbone, arrays, other)
        more = {"head.weight": np.ones((5, WIDTH))} if kind is not CLIP else {"proj": np.ones(3)}
        more = {"attn_pool.q.weight": np.ones(3)} if kind is SigLIP else more
        root = other.roots[-1] if kind is SigLIP else other.roots[0]
        wrapped = {f"module.{root}{k}": v for k, v in (renamed | more).items()}
        again = tower(kind)
        assign_weights(again, wrapped)
        np.testing.assert_allclose(run(again, pictures()), expected, atol=1e-6)


def _renamed(backbone, arrays, naming):
    """From the backbone's first naming to another that joins queries, keys and values."""
    first = backbone.namings[0]
    result = {}
    for pattern, theirs in naming.arrays.items():
        ours = first.arrays.get(pattern)
        for block in range(SIZE.depth if "{}" in pattern else 1):
            names = [first.roots[0] + name.format(block) for name in ours.names] if ours else []
            if not names or names[0] not in arrays:
                continue
            joined = np.concatenate([arrays[name] for name in names])
            joined = joined.reshape(joined.shape[ours.leading :])
            result[theirs.names[0].format(block)] = joined[(None,) * theirs.leading]
    return result


def test_a_file_for_pictures_of_another_size():
    """Its grid of positions is used as it is, and interpolated like one's own."""
    backbone, larger = tower(DINOv2), tower(DINOv2, PICTURE._replace(side=64))
    arrays = random_arrays(larger)
    for network in (backbone, larger):
        assign_weights(network, arrays)
    assert backbone.positions.shape == (1 + 64, WIDTH)
    for size in ((64, 64), (40, 40)):
        images = pictures(*size)
        np.testing.assert_array_equal(run(backbone, images), run(larger, images))


def test_positions_of_other_grids():
    """Constants stay; planes do away from the ends, nearly so by PyTorch's kernel."""
    side, (rows, columns) = 8, (16, 4)
    y, x = np.mgrid[:side, :side] + 0.5
    plane = np.stack([np.ones((side, side)), 3 * y / side - x / side], -1).reshape(-1, 2)
    for antialias, tolerance in ((False, 0.02), (True, 0.006)):
        found = resized(jnp.asarray(plane, jnp.float32), (rows, columns), antialias=antialias)
        found = np.asarray(found).reshape(rows, columns, 2)
        np.testing.assert_allclose(found[..., 0], 1, atol=1e-6)
        y, x = np.mgrid[:rows, :columns] + 0.5
        inside = np.s_[4:-4, 1:-1]
        expected = 3 * y / rows - x / columns
        np.testing.assert_allclose(found[inside][..., 1], expected[inside], atol=tolerance)
    same = resized(jnp.asarray(plane), (side, side), antialias=False)
    np.testing.assert_array_equal(np.asarray(same), plane.astype(np.float32))


def test_rotation_depends_on_the_distance_of_patches():
    rotation = rotary((3, 5), 8, 100.0)
    rng = np.random.default_rng(0)
    query, key = (np.tile(rng.normal(size=8), (1, 16, 1, 1)) for _ in range(2))
    products = np.einsum("btnd,bsnd->ts", rotation(query), rotation(key))
    grid = products[1:, 1:].reshape(3, 5, 3, 5)  # the first token has no position
    np.testing.assert_allclose(products[0, 0], (query * key)[0, 0].sum(), rtol=1e-5)
    np.testing.assert_allclose(grid[0, 0, 1, 2], grid[1, 2, 2, 4], rtol=1e-4)
    assert abs(grid[0, 0, 1, 2] - grid[0, 0, 2, 1]) > 1e-2


def test_pictures_are_standardised_as_the_tower_was_trained():
    black = np.zeros((1, 1, 3), np.uint8)
    expected = {
        "vit_b16": [-1, -1, -1],
        "siglip_b16": [-1, -1, -1],
        "dinov2_s14": [-2.1179, -2.0357, -1.8044],
        "clip_b32": [-1.7923, -1.7521, -1.4802],
    }
    for name, values in expected.items():
        backbone = nnx.eval_shape(lambda name=name: make_backbone(name, "float32", nnx.Rngs(0)))
        np.testing.assert_allclose(backbone.preprocess(black)[0, 0], values, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1", "small", "siglip_b16"])
def test_networks_without_a_class_token(name):
    with pytest.raises(InputError, match=rf"class_token=true: {name} has no class token"):
        nnx.eval_shape(lambda: make_backbone(name, "float32", nnx.Rngs(0), class_token=True))


def test_bad_pictures_and_files():
    backbone = tower(DINOv2)
    with pytest.raises(ValueError, match="pictures of 40 x 44 pixels: expected multiples of 8"):
        backbone(pictures(40, 44))
    arrays = random_arrays(backbone)
    positions = "embeddings.position_embeddings"
    for shape, said in (((1, 25, WIDTH), "shape"), ((26, WIDTH), "shape"), ((1, 26, 3), "shape")):
        spoilt = arrays | {positions: np.ones(shape, np.float32)}
        expected = re.escape(f"(1, 26, {WIDTH}), or another square number plus 1")
        with pytest.raises(InputError, match=rf"has {said} \(.*\), expected {expected}"):
            assign_weights(backbone, spoilt)
    with pytest.raises(InputError, match=r"lacks .*; expected a DINOv2 of transformers with"):
        assign_weights(backbone, {k: v for k, v in arrays.items() if "layer.1" not in k})
