"""ResNets in files of others: names of transformers, prefixes of wrappers, checkpoints."""

import jax
import numpy as np
import pytest
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.model.backbones import load_weights, make_backbone
from dedn_jax.model.backbones.weights import assign_weights, expected_arrays

PICTURES = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype(np.float32)


def random_arrays():
    rng = np.random.default_rng(1)
    backbone = nnx.eval_shape(lambda: make_backbone("resnet18", "float32", nnx.Rngs(0)))
    shapes = expected_arrays(backbone)
    return {k: rng.uniform(0.5, 1.5, shape).astype(np.float32) for k, shape in shapes.items()}


def loaded(arrays):
    backbone = nnx.eval_shape(lambda: make_backbone("resnet18", "float32", nnx.Rngs(0)))
    assign_weights(backbone, arrays)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(backbone))]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def hugging_face_name(name):
    """Of the array that torchvision, and timm, call `name`."""
    steps = name.split(".")
    part = "normalization" if steps[-2].startswith("bn") else "convolution"
    if not name.startswith("layer"):
        return f"embedder.embedder.{part}.{steps[-1]}"
    stage = int(steps[0].removeprefix("layer")) - 1
    block = f"encoder.stages.{stage}.layers.{steps[1]}"
    if steps[2] == "downsample":
        part = ("convolution", "normalization")[int(steps[3])]
        return f"{block}.shortcut.{part}.{steps[-1]}"
    return f"{block}.layer.{int(steps[2][-1]) - 1}.{part}.{steps[-1]}"


@pytest.mark.parametrize("root", ["", "resnet."])
def test_names_of_transformers(root):
    arrays = random_arrays()
    named = {f"{root}{hugging_face_name(k)}": v for k, v in arrays.items()}
    assert len(named) == len(arrays)
    counts = {
        k.replace("running_mean", "num_batches_tracked"): np.int64(3)
        for k in named
        if k.endswith("running_mean")
    }
    rest = {"classifier.1.weight": np.ones((5, 512))} if root else {}
    assert_same(loaded(named | counts | rest), loaded(arrays))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.backbone."]
)
def test_prefixes_of_wrappers(prefix):
    arrays = random_arrays()
    classifier = {"fc.weight": np.ones((5, 512)), "fc.bias": np.ones(5)}
    for rest in (classifier, {}):
        wrapped = {f"{prefix}{k}": v for k, v in (arrays | rest).items()}
        assert_same(loaded(wrapped), loaded(arrays))


def test_a_network_among_others():
    """Of self-supervised training, say: a projection beside it, a head of another name on it."""
    arrays = random_arrays()
    theirs = {f"encoder.{k}": v for k, v in arrays.items()}
    head = {"encoder.head.weight": np.ones((5, 512)), "projector.0.weight": np.ones(3)}
    assert_same(loaded(theirs | head), loaded(arrays))
    assert_same(loaded(arrays | {"last_linear.weight": np.ones((5, 512))}), loaded(arrays))
    twice = {f"momentum.{k}": v for k, v in arrays.items()}
    assert_same(loaded(theirs | twice), loaded(arrays))
    twice |= {"momentum.bn1.bias": arrays["bn1.bias"] + 1}
    with pytest.raises(InputError, match=r"holds the network twice, behind 'encoder\.' and 'mom"):
        loaded(theirs | twice)


def test_a_prefix_that_only_some_names_have():
    arrays = random_arrays()
    first, *others = arrays
    with pytest.raises(InputError, match=rf"lacks {first}; expected the state_dict of a torchv"):
        loaded({f"module.{first}": arrays[first]} | {k: arrays[k] for k in others})


@pytest.mark.torch
@pytest.mark.tokenizers
@pytest.mark.transformers
@pytest.mark.parametrize(("name", "kind"), [("resnet18", "basic"), ("resnet50", "bottleneck")])
def test_features_are_those_of_transformers(tmp_path, name, kind):
    """From the file that it saves, and from a checkpoint of its state_dict behind DataParallel."""
    import torch
    import transformers

    depths = {"resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]}[name]
    widening = 1 if kind == "basic" else 4
    config = transformers.ResNetConfig(
        depths=depths,
        layer_type=kind,
        hidden_sizes=[widening * width for width in (64, 128, 256, 512)],
        num_labels=5,
    )
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(config).eval()
    with torch.no_grad():
        for key, array in network.state_dict().items():
            if key.endswith(("running_var", "normalization.weight")):
                array.uniform_(0.7, 1.1)
            elif key.endswith(("running_mean", "normalization.bias")):
                array.uniform_(-0.1, 0.1)
        theirs = network.resnet(torch.from_numpy(PICTURES).permute(0, 3, 1, 2)).last_hidden_state
    network.save_pretrained(tmp_path)
    wrapped = {f"module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": wrapped}, tmp_path / "checkpoint.pth")
    for file in ("model.safetensors", "checkpoint.pth"):
        backbone = nnx.eval_shape(lambda: make_backbone(name, "float32", nnx.Rngs(0)))
        load_weights(backbone, tmp_path / file)
        ours = np.asarray(nnx.jit(lambda b, x: b(x))(backbone, PICTURES))
        expected = theirs.flatten(2).numpy()
        assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()
