"""Reading weights: layouts, formats, and what a bad file is met with."""

import argparse
import hashlib
import io
import re
import zipfile

import jax
import numpy as np
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.model.backbones import load_weights, make_backbone
from dedn_jax.model.backbones.weights import assign_weights, expected_arrays
from tests.helpers.backbones import filled


@pytest.fixture(scope="module")
def resnet():
    return filled(lambda: make_backbone("resnet18", "float32", nnx.Rngs(0)))


@pytest.fixture(scope="module")
def mobilenet():
    return filled(lambda: make_backbone("mobilenet_v1", "float32", nnx.Rngs(0)))


def arrays_for(backbone, seed=0):
    rng = np.random.default_rng(seed)
    shapes = expected_arrays(backbone)
    return {k: rng.uniform(0.5, 1.5, shape).astype(np.float32) for k, shape in shapes.items()}


def torchvision_file(backbone, seed=0):
    """What torchvision's files hold: also a classifier and counts of batches."""
    arrays = arrays_for(backbone, seed)
    counts = {
        re.sub("running_mean$", "num_batches_tracked", k): np.array(7, np.int64)
        for k in arrays
        if k.endswith("running_mean")
    }
    classifier = {"fc.weight": np.ones((1000, 512), np.float32), "fc.bias": np.ones(1000)}
    return arrays | counts | classifier


def leaves(backbone):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(backbone))]


def assert_holds_resnet(backbone, arrays):
    """A few arrays by hand, one of each kind."""
    block = backbone.stages[1][0]
    expected = [
        (backbone.stem.kernel, arrays["conv1.weight"].transpose(2, 3, 1, 0)),
        (backbone.stem.mean, arrays["bn1.running_mean"]),
        (block.convs[0].kernel, arrays["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)),
        (block.convs[1].scale, arrays["layer2.0.bn2.weight"]),
        (block.convs[1].bias, arrays["layer2.0.bn2.bias"]),
        (block.shortcut.kernel, arrays["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)),
        (block.shortcut.variance, arrays["layer2.0.downsample.1.running_var"]),
        (backbone.stages[3][1].convs[1].mean, arrays["layer4.1.bn2.running_mean"]),
    ]
    for found, wanted in expected:
        np.testing.assert_array_equal(np.asarray(found[...]), wanted)
    assert sum(leaf.sum(dtype=np.float64) for leaf in leaves(backbone)) == pytest.approx(
        sum(arrays[k].sum(dtype=np.float64) for k in expected_arrays(backbone)), rel=1e-12
    )


def assert_refused(backbone, path, message):
    before = leaves(backbone)
    with pytest.raises(InputError, match=message) as caught:
        load_weights(backbone, path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    for old, new in zip(before, leaves(backbone), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("archive", [True, False], ids=["since 1.6", "before 1.6"])
def test_torch_files(tmp_path, resnet, suffix, archive):
    import torch

    arrays, path = torchvision_file(resnet), tmp_path / f"resnet18{suffix}"
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=archive)
    used = load_weights(resnet, path)
    assert used == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    assert_holds_resnet(resnet, arrays)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("imagenet.pth.tar", lambda d, t: {"epoch": 3, "arch": "resnet18", "state_dict": d}),
        ("pytorch_model.bin", lambda d, t: d),
        ("deit.pth", lambda d, t: {"model": d, "args": argparse.Namespace(lr=1e-3)}),
        ("numpy.pth", lambda d, t: {"state_dict": d, "best": np.float64(0.3)}),
        (
            "lightning.ckpt",
            lambda d, t: {
                "state_dict": {f"model.{k}": v for k, v in d.items()},
                "optimizer_states": [{"state": {0: {"exp_avg": t.ones(2)}}}],
                "callbacks": {"x": {"best": t.tensor(1.0)}},
            },
        ),
        (
            "flat.pth",
            lambda d, t: (
                {f"module.{k}": v for k, v in d.items()} | {"epoch": 1, "best": t.ones(())}
            ),
        ),
    ],
)
def test_checkpoints_as_people_have_them(tmp_path, resnet, name, wrap):
    import torch

    arrays = torchvision_file(resnet, seed=2)
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    torch.save(wrap(tensors, torch), tmp_path / name)
    load_weights(resnet, tmp_path / name)
    assert_holds_resnet(resnet, arrays)


def test_safetensors_file(tmp_path, resnet):
    from safetensors import numpy

    arrays, path = torchvision_file(resnet, seed=1), tmp_path / "resnet18.safetensors"
    numpy.save_file(arrays, path)
    used = load_weights(resnet, path)
    assert used.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_holds_resnet(resnet, arrays)
    path.write_bytes(path.read_bytes()[:-4])
    assert_refused(resnet, path, r"not a readable \.safetensors file")


def test_safetensors_without_the_package(tmp_path, resnet, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    path = tmp_path / "resnet18.safetensors"
    path.write_bytes(b"x")
    assert_refused(resnet, path, r"needs the package safetensors; run: pip install safetensors")


def test_npz_file_with_keras_names_and_the_rest_of_the_network(tmp_path, mobilenet):
    arrays = arrays_for(mobilenet)
    arrays = {k: v.astype(np.float16) if "kernel" in k else v for k, v in arrays.items()}
    rest = {"conv_dw_13/depthwise_kernel": np.ones((3, 3, 1024, 1)), "conv_preds/bias": np.ones(9)}
    np.savez_compressed(tmp_path / "net.npz", **arrays, **rest)
    load_weights(mobilenet, tmp_path / "net.npz")
    for found, wanted in [
        (mobilenet.stem.kernel, arrays["conv1/kernel"]),
        (mobilenet.depthwise[1].kernel, arrays["conv_dw_2/depthwise_kernel"].swapaxes(2, 3)),
        (mobilenet.pointwise[11].kernel, arrays["conv_pw_12/kernel"]),
        (mobilenet.pointwise[11].scale, arrays["conv_pw_12_bn/gamma"]),
        (mobilenet.depthwise[0].bias, arrays["conv_dw_1_bn/beta"]),
        (mobilenet.depthwise[0].mean, arrays["conv_dw_1_bn/moving_mean"]),
        (mobilenet.stem.variance, arrays["conv1_bn/moving_variance"]),
    ]:
        np.testing.assert_array_equal(np.asarray(found[...]), wanted.astype(np.float32))


def _without(arrays, key):
    del arrays[key]


BAD_ARRAYS = {
    "missing": (lambda a: _without(a, "bn1.bias"), r"lacks bn1\.bias; expected the state_dict"),
    "unexpected": (
        lambda a: a.update({"layer9.0.conv1.weight": np.ones(1)}),
        r"has unexpected layer9\.0\.conv1\.weight; .* is the file for the backbone",
    ),
    "shape": (
        lambda a: a.update({"conv1.weight": a["conv1.weight"].transpose(2, 3, 1, 0)}),
        r"conv1\.weight has shape \(7, 7, 3, 64\), expected \(64, 3, 7, 7\)",
    ),
    "dtype": (
        lambda a: a.update({"bn1.bias": a["bn1.bias"].astype(np.int32)}),
        r"bn1\.bias is int32, expected float16, bfloat16, float32 or float64",
    ),
    "NaN": (lambda a: a["bn1.bias"].__setitem__(3, np.nan), r"bn1\.bias holds NaN"),
    "too large for float32": (
        lambda a: a.update({"bn1.bias": np.full(64, 1e300)}),
        r"bn1\.bias holds NaN or infinite values",
    ),
    "variance": (
        lambda a: a["bn1.running_var"].__setitem__(0, -0.5),
        r"bn1\.running_var holds a variance of -0\.5, expected 0 or more",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_do_not_fit(tmp_path, resnet, case):
    spoil, message = BAD_ARRAYS[case]
    arrays = arrays_for(resnet)
    spoil(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    assert_refused(resnet, tmp_path / "bad.npz", message)


def test_weights_of_another_depth_and_of_another_kind(tmp_path, resnet, mobilenet):
    deeper = nnx.eval_shape(lambda: make_backbone("resnet34", "float32", nnx.Rngs(0)))
    arrays = {k: np.ones(shape, np.float32) for k, shape in expected_arrays(deeper).items()}
    with pytest.raises(InputError, match=r"has unexpected layer1\.2\.bn1\.bias, .* more; "):
        assign_weights(resnet, arrays)
    with pytest.raises(InputError, match=r"lacks conv_dw_1_bn/beta, .* and 122 more; .* with 125"):
        assign_weights(mobilenet, arrays)


def _npy(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def _archive(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _pickled_array():
    stream = io.BytesIO()
    np.savez(stream, conv1=np.array([{}], object))
    return stream.getvalue()


_HUGE = _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }\n")
BAD_FILES = {
    "absent": ("absent.npz", None, r"no such file"),
    "unknown suffix": (
        "w.h5",
        b"",
        r"ends in \.pth, \.pt, \.tar, \.bin, \.ckpt, \.safetensors, \.npz",
    ),
    "no archive": ("w.npz", b"hello", r"not a readable \.npz file \(File is not a zip file\)"),
    "empty": ("w.npz", b"", r"not a readable \.npz file"),
    "no array": ("w.npz", _archive({"a.npy": b"hello"}), r"not a readable \.npz file"),
    "objects": (
        "w.npz",
        _pickled_array(),
        r"not a readable \.npz file \(conv1: an array of Python",
    ),
    "huge": (
        "w.npz",
        _archive({"a.npy": _HUGE}),
        r"a: 0 bytes for .* shape \(99999999999,\)",
    ),
    "no tensors": ("w.pth", b"hello", r"w\.pth: not a readable file of tensors"),
    "code": ("w.pth", b"cos\nsystem\n(S'false'\ntR.", r"not a readable file .*STRING in a pickle"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_cannot_be_read(tmp_path, resnet, case):
    name, content, message = BAD_FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(resnet, tmp_path / name, message)


def test_an_archive_that_unpacks_to_too_much(tmp_path, resnet, monkeypatch):
    monkeypatch.setattr("dedn_jax.model.backbones.weights._MAX_BYTES", 100_000)
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(50_000, np.float32))
    assert_refused(resnet, tmp_path / "w.npz", r"200128 bytes unpacked, expected at most 100000")


@pytest.mark.torch
def test_a_legacy_tensor_that_stands_for_too_much(tmp_path, resnet, monkeypatch):
    import torch

    monkeypatch.setattr("dedn_jax.torch_files._MAX_BYTES", 100_000)
    tensors = {"conv1.weight": torch.zeros(1).expand(10**6)}
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert (tmp_path / "w.pth").stat().st_size < 1000
    assert_refused(resnet, tmp_path / "w.pth", r"4000000 bytes of tensors, expected at most 100000")
