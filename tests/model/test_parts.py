"""`config.model.experts` and `config.model.branches`: one expert, or one branch, alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.data.pipeline import Batch
from dedn_jax.model.dual_attention import BRANCHES
from dedn_jax.model.experts import EXPERTS
from dedn_jax.model.groups import resolve_groups
from dedn_jax.training.network import Network, build_network
from dedn_jax.training.objective import ClassSpace, Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.step import init_state, loss_and_gradients, make_train_step

ATTRIBUTES, WORD_DIM, CHANNELS, REGIONS, CLASSES, IMAGES = 24, 6, 48, 36, 9, 8
PARTS = [("coarse", "both"), ("fine", "both"), ("both", "region"), ("both", "channel")]
PARTS += [("coarse", "region"), ("fine", "channel")]
MODELS = pytest.mark.parametrize(("experts", "branches"), PARTS)


def configured(experts: str, branches: str, **fields: object) -> ConfigDict:
    rest = {name.replace("__", "."): value for name, value in fields.items()}
    return load_config(
        "base",
        {
            "model.experts": experts,
            "model.branches": branches,
            "data.groups": "20-23;0-11;12-19",
            "loss.calibration_weight": 0.1,
            **rest,
        },
    )


def made(config: ConfigDict) -> tuple[Network, ClassSpace, Batch]:
    rng = np.random.default_rng(0)
    word_vectors = rng.standard_normal((ATTRIBUTES, WORD_DIM))
    groups = resolve_groups(config.data.groups, word_vectors, None)
    network = build_network(config, word_vectors, groups, channels=CHANNELS, regions=REGIONS)
    embeddings = rng.uniform(size=(CLASSES, ATTRIBUTES))
    classes = make_class_space(embeddings, np.arange(CLASSES) < CLASSES - 2, groups)
    maps = rng.uniform(size=(IMAGES, CHANNELS, REGIONS)).astype(np.float32)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    labels = rng.integers(0, CLASSES - 2, IMAGES).astype(np.int32)
    return network, classes, Batch(jnp.asarray(maps), jnp.asarray(labels))


def by_name(params: nnx.State) -> dict[str, np.ndarray]:
    """Parameters by names such as `fine.1.region_score`."""
    flat = nnx.to_flat_state(params)
    return {".".join(map(str, path)): np.asarray(x[...]) for path, x in flat}


def belongs(name: str, experts: str, branches: str) -> bool:
    expert, leaf = name.split(".")[0], name.split(".")[-1]
    own = leaf == "word_vectors" or leaf.split("_")[0] in BRANCHES[branches]
    return expert in EXPERTS[experts] and own


@pytest.mark.parametrize("rank", [0, 4])
@MODELS
def test_it_starts_as_in_the_whole_model(experts: str, branches: str, rank: int) -> None:
    """What is missing has no parameters; what is there has those of the same seed."""
    whole = by_name(made(configured("both", "both", model__rank=rank))[0].params)
    part = by_name(made(configured(experts, branches, model__rank=rank))[0].params)
    assert set(part) == {name for name in whole if belongs(name, experts, branches)}
    assert 0 < len(part) < len(whole)
    for name, value in part.items():
        np.testing.assert_array_equal(value, whole[name])


def away_from_the_start(x: jax.Array) -> np.ndarray:
    """At the start attention is uniform."""
    return np.asarray(x) + 0.3 * np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape)


@MODELS
def test_scores_and_attention(experts: str, branches: str) -> None:
    """Those of the whole model; 0 of what is missing."""
    found = {}
    for part in ((experts, branches), ("both", "both")):
        network, _, batch = made(configured(*part))
        moved = jax.tree.map(away_from_the_start, network.params)
        model = nnx.merge(network.definition, moved, network.frozen)
        found[part] = nnx.jit(lambda model, maps: model(maps, return_attention=True))(
            model, batch.inputs
        )
    for part, whole in zip(*found.values(), strict=True):
        for expert in ("coarse", "fine"):
            for branch in ("region", "channel"):
                mine, theirs = (getattr(getattr(x, expert), branch) for x in (part, whole))
                assert mine.shape == theirs.shape
                there = expert in EXPERTS[experts] and branch in BRANCHES[branches]
                np.testing.assert_allclose(mine, theirs if there else 0 * theirs, atol=1e-5)


@MODELS
def test_the_loss(experts: str, branches: str) -> None:
    """Terms of what is there alone; all of its parameters have a gradient."""
    config = configured(experts, branches)
    network, classes, batch = made(config)
    objective = Objective.from_config(config)
    terms, gradients = jax.jit(
        lambda params: loss_and_gradients(network.definition, params, batch, classes, objective)
    )(network.params)
    expected = {"loss"}
    for expert in EXPERTS[experts]:
        expected |= {f"cross_entropy_{expert}", f"calibration_{expert}"}
        expected |= {f"alignment_{expert}"} if branches == "both" else set()
    expected |= {"agreement", "kl", "js"} if experts == "both" else set()
    assert set(terms) == expected
    weights = {"calibration": 0.1, "alignment": config.loss.alignment_weight, "cross_entropy": 1.0}
    weights["agreement"] = config.loss.distillation.agreement.weight
    total = 0.0
    for name, term in terms.items():
        total += weights.get(name.removesuffix("_coarse").removesuffix("_fine"), 0.0) * float(term)
    assert float(terms["loss"]) == pytest.approx(total, rel=1e-5)
    slopes = by_name(gradients)
    assert all(np.abs(slope).max() > 1e-6 for slope in slopes.values())
    assert slopes.keys() == by_name(network.params).keys()


def flops(experts: str, branches: str) -> float:
    """Of the compiled training step."""
    config = configured(experts, branches, data__groups="single")
    network, classes, batch = made(config)
    optimizer = make_optimizer(config)
    step = make_train_step(network.definition, Objective.from_config(config), optimizer)
    state = init_state(network.params, optimizer)
    compiled = jax.jit(step).lower(state, batch, classes, network.frozen).compile()
    return float(compiled.cost_analysis()["flops"])


def test_what_is_switched_off_is_not_computed() -> None:
    """By the compiler's own count; either expert, and either branch, is about half of the whole."""
    whole = flops("both", "both")
    for half in PARTS[:4]:
        assert 0.4 * whole < flops(*half) < 0.6 * whole
    assert flops("coarse", "region") < 0.33 * whole
