"""Our code against the PyTorch port of the method, at the published attribute and class counts.

Relative difference of two tensors: largest absolute difference over the largest magnitude in the
port's. Channels and regions are few, so that it runs anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from dedn_jax.config import load_config
from dedn_jax.data.features.maps import normalize
from dedn_jax.data.pipeline import Batch
from dedn_jax.data.published import RECIPES
from dedn_jax.interop.convert import nested_to_state, state_to_nested
from dedn_jax.interop.published import Params
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import resolve_groups
from dedn_jax.training.metrics import gzsl
from dedn_jax.training.objective import ClassSpace, Objective, make_class_space
from dedn_jax.training.optimizer import make_optimizer
from dedn_jax.training.prediction import Mixing, predict_scores
from dedn_jax.training.step import init_state, loss_and_gradients, make_train_step

torch = pytest.importorskip("torch", reason="needs PyTorch: make torch")

from tests.parity import port  # noqa: E402

pytestmark = pytest.mark.torch
CHANNELS, SIDE, BATCH, STEPS, WORD_DIM = 32, 3, 8, 20, 64
SEED = 1
SINGLE, TRAJECTORY = 2e-5, 1e-3
CASES = {
    "cub": ("cub_gzsl", {"loss.calibration_weight": 0.18}),
    "cub, no margin, KL": (
        "cub_zsl",
        {
            "loss.margin_aware": False,
            "loss.distillation.name": "agreement+kl",
            "loss.distillation.kl.weight": 0.5,
            "loss.distillation.kl.temperature": 2.0,
        },
    ),
    "sun, low rank": ("sun_gzsl", {"loss.calibration_weight": 0.1, "model.rank": 16}),
    "awa2": ("awa2_gzsl", {}),
    "awa2, stopped KL": (
        "awa2_gzsl",
        {
            "loss.distillation.name": "agreement+kl",
            "loss.distillation.kl.weight": 0.3,
            "loss.distillation.kl.temperature": 4.0,
            "loss.distillation.kl.stop_gradient": True,
        },
    ),
}
# Compiling a step takes seconds: the others differ in a loss term, whose gradient is compared.
TRAJECTORIES = ("cub", "sun, low rank", "awa2, stopped KL")


def difference(ours: object, theirs: object) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


class Both:
    """One model on both sides: same parameters, classes and batches."""

    def __init__(self, recipe: str, overrides: dict[str, object]) -> None:
        self.config: ConfigDict = load_config(recipe)
        self.config.update_from_flattened_dict(overrides)
        config = self.config
        known = RECIPES[recipe.split("_")[0]]
        seen, unseen, attributes = known.seen, known.unseen, known.attributes
        rng = np.random.default_rng(SEED)
        word_vectors = rng.standard_normal((attributes, WORD_DIM)).astype(np.float32)
        embeddings = rng.random((seen + unseen, attributes)).astype(np.float32)
        # Seen and unseen classes stand in between each other, as in the real data sets.
        mask = np.zeros(seen + unseen, bool)
        mask[rng.permutation(seen + unseen)[:seen]] = True
        self.seen = np.flatnonzero(mask)
        self.raw = [
            np.maximum(rng.standard_normal((BATCH, CHANNELS, SIDE, SIDE)), 0).astype(np.float32)
            for _ in range(4)
        ]
        self.labels = [rng.choice(self.seen, BATCH) for _ in self.raw]

        groups = resolve_groups(config.data.groups, word_vectors)
        self.model, like = nnx.split(
            DualExpert(
                word_vectors,
                groups,
                channels=CHANNELS,
                regions=SIDE**2,
                rank=config.model.rank,
                rngs=nnx.Rngs(params=3),
            )
        )
        nested = state_to_nested(like)
        for network in (nested["coarse"], *nested["fine"]):
            for name in ("region_attention", "channel_attention"):  # zero would hide mistakes
                shape = network[name].shape
                network[name] = (0.3 * rng.standard_normal(shape)).astype(np.float32)
        self.params = nested_to_state(nested, like, "test")
        self.classes: ClassSpace = make_class_space(embeddings, mask, groups)
        self.objective = Objective.from_config(config)
        membership = np.empty(attributes, np.int64)
        for g, members in enumerate(groups.members):
            membership[list(members)] = g
        loss = config.loss
        self.port = port.make_port(
            nested,
            attributes=embeddings,
            groups=membership,
            seen=self.seen,
            bias=loss.bias,
            margin=loss.margin if loss.margin_aware else None,
            seen_margin=loss.seen_margin,
            calibration_weight=loss.calibration_weight,
            agreement_weight=loss.distillation.agreement.weight,
            alignment_weight=loss.alignment_weight,
            region_mix=config.predict.region_mix,
        )

    def batch(self, i: int) -> Batch:
        maps = self.raw[i].reshape(BATCH, CHANNELS, -1)
        return Batch(
            jnp.asarray(normalize(maps, np.float32)), jnp.asarray(self.labels[i], jnp.int32)
        )

    def port_losses(self, i: int) -> dict[str, torch.Tensor]:
        """The port's terms, and those that are logged besides: KL and Jensen-Shannon divergence."""
        features, labels = torch.from_numpy(self.raw[i]), torch.from_numpy(self.labels[i])
        terms = self.port.losses(features, labels)
        distillation = self.config.loss.distillation
        coarse, fine = self.port.scores(features, training=True)
        kl, t = distillation.kl, distillation.js.temperature
        terms["kl"] = port.bidirectional_kl(
            coarse.classes, fine.classes, kl.temperature, kl.stop_gradient
        )
        p, q = (torch.softmax(x.classes / t, 1) for x in (coarse, fine))
        middle = ((p + q) / 2).log()
        divergence = p * (p.log() - middle) + q * (q.log() - middle)
        terms["js"] = t**2 * 0.5 * divergence.sum(1).mean()
        if "kl" in distillation.name:
            terms["total"] = terms["total"] + kl.weight * terms["kl"]
        return terms


def flat(params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Our tensors by the port's names."""
    for name, value in params["coarse"].items():
        yield f"coarse.{name}", value
    for g, network in enumerate(params["fine"]):
        for name, value in network.items():
            yield f"fine.{g}.{name}", value


@functools.cache
def make_both(case: str) -> Both:
    return Both(*CASES[case])


@pytest.fixture(params=list(CASES))
def both(request: pytest.FixtureRequest) -> Both:
    return make_both(request.param)


def test_outputs(both: Both) -> None:
    ours = jax.jit(lambda p, f: nnx.merge(both.model, p)(f))(both.params, both.batch(0).inputs)
    theirs = both.port.scores(torch.from_numpy(both.raw[0]), training=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert difference(mine.region, other.region.detach()) < SINGLE
        assert difference(mine.channel, other.channel.detach()) < SINGLE
        assert difference(mine.for_training(), other.attributes.detach()) < SINGLE
    mixed = both.port.scores(torch.from_numpy(both.raw[0]), training=False)
    for mine, other in zip(ours, mixed, strict=True):
        m = both.config.predict.region_mix
        assert difference(mine.for_evaluation(m), other.attributes.detach()) < SINGLE


def test_losses_and_gradients(both: Both) -> None:
    terms, gradients = jax.jit(
        lambda p, b, c: loss_and_gradients(both.model, p, b, c, both.objective)
    )(both.params, both.batch(0), both.classes)
    expected = both.port_losses(0)
    names, tensors = zip(*both.port.tensors(), strict=True)
    their_gradients = dict(zip(names, torch.autograd.grad(expected["total"], tensors), strict=True))
    found = {**{k: float(v) for k, v in terms.items()}, "total": float(terms["loss"])}
    del found["loss"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert difference(found[name], value.item()) < SINGLE, name
    ours = dict(flat(state_to_nested(gradients)))
    assert set(ours) == set(names)
    for name, gradient in their_gradients.items():
        assert np.abs(gradient.numpy()).max() > 0, name
        assert difference(ours[name], gradient) < SINGLE, name


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_parameters_after_steps(case: str) -> None:
    both = Both(*CASES[case])  # its own: the port's tensors are trained in place
    optimizer = make_optimizer(both.config)
    step = jax.jit(make_train_step(both.model, both.objective, optimizer))
    state = init_state(both.params, optimizer)
    start = {name: value.detach().clone() for name, value in both.port.tensors()}
    theirs = both.port.optimizer()
    for i in range(STEPS):
        state, terms = step(state, both.batch(i % 4), both.classes)
        theirs.zero_grad()
        total = both.port_losses(i % 4)["total"]
        total.backward()
        theirs.step()
        assert difference(float(terms["loss"]), total.item()) < SINGLE
    assert int(state.step) == STEPS
    ours = dict(flat(state_to_nested(state.params)))
    for name, value in both.port.tensors():
        assert difference(ours[name], value.detach()) < TRAJECTORY, name
        # What twenty steps changed is far larger than what may differ.
        assert difference(start[name], value.detach()) > 10 * TRAJECTORY, name


def test_fused_scores_and_accuracies(both: Both) -> None:
    """Metrics of ours and of the port over the same images, and over clearly decided scores."""
    mixing = Mixing.from_config(both.config)
    predict = jax.jit(lambda p, f, c: predict_scores(both.model, p, f, c, mixing))
    features = [both.batch(i).inputs for i in range(4)]
    fused = np.concatenate(
        [np.asarray(predict(both.params, f, both.classes).fused) for f in features]
    )
    theirs = torch.cat(
        [both.port.fused_scores(torch.from_numpy(raw), mixing.expert_mix) for raw in both.raw]
    )
    assert difference(fused, theirs) < SINGLE

    mask = np.array(both.classes.seen)
    rng = np.random.default_rng(8)
    unseen = np.flatnonzero(~mask)
    labels = np.concatenate([both.labels[0], both.labels[1], rng.choice(unseen, 2 * BATCH)])
    # Half of the images are helped to their class, so that no metric is trivially 0.
    helped = theirs.numpy().copy()
    helped[np.arange(0, len(labels), 2), labels[::2]] += 3 * np.abs(helped).max()
    of_seen = mask[labels]
    among_unseen = np.where(mask, -np.inf, helped)
    ours = gzsl(
        helped.argmax(1)[of_seen],
        labels[of_seen],
        helped.argmax(1)[~of_seen],
        labels[~of_seen],
        among_unseen.argmax(1)[~of_seen],
    )
    expected = port.accuracies(
        torch.from_numpy(helped), torch.from_numpy(labels), torch.from_numpy(mask)
    )
    assert ours == pytest.approx(expected, abs=1e-9)
    assert all(value > 10 for value in ours.values())


def test_rmsprop_alone() -> None:
    """RMSprop on gradients of many sizes, zero among them."""
    config = load_config("cub_gzsl")
    config.optimizer.weight_decay = 1e-2  # visible beside the gradients
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    start = rng.standard_normal((30, 7)).astype(np.float32)
    scales = 10.0 ** rng.integers(-9, 4, start.shape)
    tensor = torch.nn.Parameter(torch.tensor(start))
    o = config.optimizer
    theirs = torch.optim.RMSprop(
        [tensor],
        lr=o.learning_rate,
        alpha=o.decay,
        eps=o.epsilon,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
    )
    params = jnp.asarray(start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(100):
        gradient = (scales * rng.standard_normal(start.shape)).astype(np.float32)
        gradient[step % 30] = 0
        updates, state = update(jnp.asarray(gradient), state, params)
        params = params + updates
        tensor.grad = torch.tensor(gradient)
        theirs.step()
        # The change alone: the start would hide mistakes.
        assert difference(params - start, (tensor.detach() - torch.tensor(start))) < 1e-4
    assert np.abs(np.asarray(params) - start).max() > 1e-2
