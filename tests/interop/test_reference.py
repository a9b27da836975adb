"""Loading the published code, and the PyTorch port of the method against it.

The comparison needs a checkout of zjrao/DEDN; name it in DEDN_REFERENCE_DIR.
"""

import os
import sys
import warnings

import numpy as np
import pytest

from dedn_jax import torch_files
from dedn_jax.config import load_config
from dedn_jax.errors import InputError

torch = pytest.importorskip("torch", reason="needs PyTorch: make torch")

from dedn_jax.interop import published  # noqa: E402
from dedn_jax.interop.published_model import PublishedModel, Recipe  # noqa: E402
from dedn_jax.interop.reference import load_reference  # noqa: E402
from dedn_jax.model.groups import AttributeGroups  # noqa: E402
from dedn_jax.training.objective import make_class_space  # noqa: E402
from tests.parity.port import accuracies, make_port  # noqa: E402

REFERENCE = os.environ.get("DEDN_REFERENCE_DIR", "")
needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="DEDN_REFERENCE_DIR does not name a checkout of zjrao/DEDN"
)
pytestmark = pytest.mark.torch
DATASETS = ("cub", "sun", "awa2")
MARGINS = {"cub": 3.0, "sun": 2.0, "awa2": 2.0}
BATCH, CLASSES, V, CHANNELS, SIDE, RANK = 6, 9, 20, 24, 3, 8
SEEN, UNSEEN = np.array([0, 2, 3, 5, 8]), np.array([1, 4, 6, 7])
IS_SEEN = np.isin(np.arange(CLASSES), SEEN)


# What PyTorch's compiler asks, of whatever is in sys.modules.
ASKED = "import importlib.util\nassert importlib.util.find_spec('tensorflow')\n"


def fake_checkout(folder, model=f"import tensorflow\n{ASKED}from core import other\n"):
    """A folder that imports like the published code, with its habits."""
    model += "import torch\nindicator = torch.tensor([0, 1, 1])\nclass DEDN: pass\n"
    loader = "import sys, pandas, skimage.transform\nfrom sklearn import preprocessing\n"
    loader += "import global_setting\nclass CUBDataLoader: pass\nsys.path.append('leaked')\n"
    for name, text in {
        "core/DEDN_Cub.py": model,
        "core/other.py": "",
        "core/CUBDataLoader.py": loader,
        "core/helper_eval.py": "def eval_zs_gzsl(): return 7\n",
        "global_setting.py": "",
        "Cub_train.py": "raise RuntimeError('must not run')\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_loading_leaves_no_trace(tmp_path, monkeypatch):
    fake_checkout(tmp_path)
    mine = object()
    monkeypatch.setitem(sys.modules, "config", mine)  # an unrelated module of the same name
    path, modules = list(sys.path), set(sys.modules)
    reference = load_reference(tmp_path, "cub")
    np.testing.assert_array_equal(reference.groups, [0, 1, 1])
    assert reference.evaluate() == 7
    assert reference.train_script == tmp_path.resolve() / "Cub_train.py"
    assert sys.path == path
    assert sys.modules["config"] is mine
    added = {name.split(".")[0] for name in set(sys.modules) - modules}
    assert not added & {"core", "global_setting", "tensorflow", "torchvision", "skimage"}
    assert not list(tmp_path.rglob("__pycache__"))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match=r"--dataset: .imagenet. is not one of cub, sun, awa2"):
        load_reference(tmp_path, "imagenet")
    with pytest.raises(InputError, match=r"has no core/DEDN_Cub\.py, core/CUBDataLoader\.py"):
        load_reference(tmp_path, "cub")
    fake_checkout(tmp_path, model="import not_installed_anywhere\n")
    with pytest.raises(InputError, match="does not import as the published code"):
        load_reference(tmp_path, "cub")
    assert "core" not in sys.modules


def recipe_for(reference):
    """The dataset's published recipe at a small rank, with calibration switched on."""
    config = load_config(f"{reference.dataset}_gzsl", ["--config.loss.calibration_weight=0.3"])
    if reference.dataset == "sun":
        config.model.rank = RANK
    return Recipe.from_config(config, reference)


def problem(dataset, seed=3, spread=1.0):
    """The published model in float64 at a random point, the port at the same point, a batch."""
    reference = load_reference(REFERENCE, dataset)
    rng = np.random.default_rng(seed)
    attributes = rng.uniform(size=(CLASSES, reference.groups.size)).astype(np.float32)
    model = PublishedModel.build(
        reference,
        recipe_for(reference),
        word_vectors=rng.normal(size=(reference.groups.size, V)),
        class_embeddings=attributes,
        seen=IS_SEEN,
        maps=(CHANNELS, SIDE),
        seed=seed,
    )
    params = model.params()
    for part in (params["coarse"], *params["fine"]):
        for name in ("region_attention", "channel_attention"):  # they start at zero: move away
            part[name] = (spread * rng.normal(size=part[name].shape)).astype(np.float32)
    model.load_params(params)
    features = rng.uniform(size=(BATCH, CHANNELS, SIDE, SIDE)).astype(np.float32)
    labels = rng.choice(SEEN, size=BATCH)
    port = make_port(
        params,
        attributes=attributes,
        groups=reference.groups,
        seen=SEEN,
        dtype=torch.float64,
        margin=MARGINS[dataset],
        calibration_weight=0.3,
        region_mix=model.recipe.region_mix,
    )
    # float64 on both sides, so that agreement to nine digits leaves no room for another formula;
    # the class embeddings were normalised in float32 and are shared.
    model.module.double()
    port.class_embeddings = model.module.att.detach().clone()
    wide = torch.from_numpy(features).double()
    return model, port, wide, torch.from_numpy(labels)


@needs_reference
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dataset", DATASETS)
def test_port_scores_equal_the_published_ones(dataset, training):
    model, port, features, _ = problem(dataset)
    found = model.outputs(features, training)
    with torch.no_grad():
        coarse, fine = port.scores(features, training)
    for name, expert in (("coarse", coarse), ("fine", fine)):
        for kind, value in (
            ("class", expert.classes),
            ("region", expert.region),
            ("channel", expert.channel),
            ("attribute", expert.attributes),
        ):
            theirs = found[f"{kind}_scores_{name}"]
            assert np.abs(theirs).max() > 0.1
            np.testing.assert_allclose(value.numpy(), theirs, rtol=1e-10, atol=1e-10)


@needs_reference
@pytest.mark.parametrize("dataset", DATASETS)
def test_port_losses_and_gradients_equal_the_published_ones(dataset):
    model, port, features, labels = problem(dataset)
    theirs = model.losses(features, labels)
    ours = {name: value.item() for name, value in port.losses(features, labels).items()}
    assert ours.keys() == theirs.keys()
    # The published CUB code has no 1e-9 under the square root.
    tolerance = 1e-8 if dataset == "cub" else 1e-11
    for name, value in theirs.items():
        assert value > 1e-3
        assert ours[name] == pytest.approx(value, rel=tolerance), name
    weighted = theirs["cross_entropy_coarse"] + theirs["cross_entropy_fine"]
    weighted += 0.1 * theirs["agreement"]
    weighted += 0.3 * (theirs["calibration_coarse"] + theirs["calibration_fine"])
    weighted += 0.001 * (theirs["alignment_coarse"] + theirs["alignment_fine"])
    assert theirs["total"] == pytest.approx(weighted, rel=1e-9)

    grads = model.gradients(features, labels)
    by_name = {f"coarse.{name}": grad for name, grad in grads["coarse"].items()}
    for g, part in enumerate(grads["fine"]):
        by_name |= {f"fine.{g}.{name}": grad for name, grad in part.items()}
    found = port.gradients(features, labels)
    assert found.keys() == by_name.keys()
    for name, grad in by_name.items():
        scale = np.abs(grad).max()
        assert scale > 1e-6, name
        np.testing.assert_allclose(found[name], grad, rtol=0, atol=10 * tolerance * scale)


@needs_reference
@pytest.mark.parametrize("dataset", DATASETS)
def test_port_takes_the_published_steps(dataset):
    model, port, features, labels = problem(dataset)
    model.make_optimizer()
    optimizer = port.optimizer()
    for _ in range(5):
        theirs = model.step(features, labels).item()
        assert port.step(optimizer, features, labels) == pytest.approx(theirs, rel=1e-6)
    params = model.params()
    for name, value in port.tensors():
        part, *rest = name.split(".")
        node = params["coarse"] if part == "coarse" else params["fine"][int(rest[0])]
        np.testing.assert_allclose(value.detach().numpy(), node[rest[-1]], rtol=0, atol=1e-6)


class Loader:
    """The part of the published loader that its evaluation reads."""

    def __init__(self, features, labels):
        seen = torch.isin(labels, torch.from_numpy(SEEN))
        self.seenclasses, self.unseenclasses = torch.from_numpy(SEEN), torch.from_numpy(UNSEEN)
        self.data = {
            name: {"resnet_features": features[rows], "labels": labels[rows]}
            for name, rows in (("test_seen", seen), ("test_unseen", ~seen))
        }


@needs_reference
@pytest.mark.parametrize("dataset", DATASETS)
def test_port_accuracies_equal_the_published_ones(dataset):
    model, port, _, _ = problem(dataset)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.repeat(np.arange(CLASSES), rng.integers(3, 9, CLASSES)))
    features = torch.from_numpy(rng.uniform(size=(len(labels), CHANNELS, SIDE, SIDE)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen, unseen, harmonic, zero_shot = model.reference.evaluate(
            Loader(features, labels), model.module, 0.4, torch.device("cpu")
        )
    found = accuracies(port.fused_scores(features, 0.4), labels, port.seen)
    expected = {"U": unseen, "S": seen, "H": harmonic, "T1": zero_shot}
    assert found == pytest.approx({k: 100 * v for k, v in expected.items()}, rel=1e-6)
    assert zero_shot > 0


@needs_reference
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_published_model_loads_what_we_write(dataset, tmp_path):
    model, _, _, _ = problem(dataset)
    model.module.float()
    theirs = {k: v.numpy() for k, v in model.module.state_dict().items()}
    params = published.from_published(theirs)
    ours = published.to_published(params, class_embeddings=theirs["att"], seen=SEEN)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert (ours[key].dtype, ours[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(ours[key], value)
    torch_files.write_state_dict(tmp_path / "model.pt", ours)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    model.module.load_state_dict(state, strict=True)


@needs_reference
@pytest.mark.parametrize("dataset", DATASETS)
def test_class_embeddings_as_published(dataset):
    reference = load_reference(REFERENCE, dataset)
    raw = np.random.default_rng(1).uniform(size=(CLASSES, reference.groups.size))
    model = PublishedModel.build(
        reference,
        recipe_for(reference),
        word_vectors=np.ones((reference.groups.size, V)),
        class_embeddings=raw,
        seen=IS_SEEN,
        maps=(4, 1),
    )
    members = [tuple(np.flatnonzero(reference.groups == g)) for g in np.unique(reference.groups)]
    groups = AttributeGroups(tuple(map(str, range(len(members)))), tuple(members))
    classes = make_class_space(raw, np.zeros(CLASSES, bool), groups)
    np.testing.assert_allclose(classes.embeddings, model.module.att.numpy(), rtol=1e-6)


@needs_reference
def test_recipes_the_published_code_cannot_run_are_named():
    reference = load_reference(REFERENCE, "cub")
    for change, message in (
        ("--config.loss.margin=2.0", "config.loss.margin=2.0: the published cub code has 3.0"),
        ("--config.loss.distillation.name=kl", "has its agreement term alone"),
        ("--config.model.experts=coarse", "always has both"),
        ("--config.optimizer.name=adamw", r"optimizer.name='adamw': the published .* 'rmsprop' to"),
        ("--config.optimizer.schedule=cosine", r"='cosine': .* at one learning rate"),
        ("--config.optimizer.warmup_epochs=1", r"warmup_epochs=1.0: .*set 0.0 to compare"),
        ("--config.optimizer.clip_norm=1", r"clip_norm=1.0: .* without clipping"),
        ("--config.optimizer.ema_decay=0.9", r"ema_decay=0.9: .* averaging"),
        ("--config.optimizer.scale_with_batch", r"scale_with_batch=True: .*set False"),
    ):
        with pytest.raises(InputError, match=message):
            Recipe.from_config(load_config("cub_gzsl", [change]), reference)
    awa2 = load_reference(REFERENCE, "awa2")
    with pytest.raises(InputError, match=r"config.loss.bias=2.0: the published awa2 code"):
        Recipe.from_config(load_config("awa2_gzsl", ["--config.loss.bias=2.0"]), awa2)
    with pytest.raises(InputError, match=r"word_vectors: found 5 rows.*for 312 attributes"):
        PublishedModel.build(
            reference,
            recipe_for(reference),
            word_vectors=np.ones((5, V)),
            class_embeddings=np.ones((CLASSES, 312)),
            seen=IS_SEEN,
            maps=(4, 1),
        )
