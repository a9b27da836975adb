"""Evaluation: every image once, choices among the right classes, the same for any batch size."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dedn_jax.config import load_config
from dedn_jax.data.dataset import Task
from dedn_jax.data.features.maps import InMemoryFeatures
from dedn_jax.model.experts import DualExpert
from dedn_jax.model.groups import AttributeGroups, resolve_groups
from dedn_jax.parallel.mesh import local_layout
from dedn_jax.parallel.resident.features import ResidentFeatures, make_resident
from dedn_jax.training.evaluation import (
    EXPERTS,
    Evaluator,
    batches_of,
    gzsl_metrics,
    in_order,
    metrics_table,
)
from dedn_jax.training.network import Network
from dedn_jax.training.objective import ClassSpace, make_class_space
from dedn_jax.training.prediction import Choices, Mixing, predict_scores
from dedn_jax.training.step import NONE_FROZEN

CLASSES, ATTRIBUTES, CHANNELS, REGIONS = 7, 5, 6, 3
SEEN = np.array([True, False, True, True, False, True, False])


def make_task(seen_images: int, unseen_images: int) -> Task:
    rng = np.random.default_rng(0)
    images = seen_images + unseen_images
    labels = np.concatenate(
        [
            rng.choice(np.flatnonzero(SEEN), seen_images),
            rng.choice(np.flatnonzero(~SEEN), unseen_images),
        ]
    ).astype(np.int32)
    order = rng.permutation(images)
    labels = labels[order]
    return Task(
        inputs=InMemoryFeatures(rng.standard_normal((images, CHANNELS, REGIONS), np.float32)),
        labels=labels,
        class_ids=np.arange(CLASSES),
        class_embeddings=rng.standard_normal((CLASSES, ATTRIBUTES)).astype(np.float32),
        seen=SEEN,
        train=np.arange(1),
        eval_seen=np.flatnonzero(SEEN[labels]),
        eval_unseen=np.flatnonzero(~SEEN[labels]),
    )


VECTORS = np.random.default_rng(5).standard_normal((ATTRIBUTES, 4)).astype(np.float32)
GROUPS = resolve_groups("3,0;1-2,4", VECTORS)


def make_model(task: Task) -> tuple[nnx.GraphDef, nnx.State, ClassSpace]:
    model = DualExpert(
        VECTORS, GROUPS, channels=CHANNELS, regions=REGIONS, rank=0, rngs=nnx.Rngs(0)
    )
    return *nnx.split(model), make_class_space(task.class_embeddings, task.seen, GROUPS)


def make_evaluator(
    task: Task,
    model: nnx.GraphDef,
    mixing: Mixing,
    batch_size: int,
    *,
    groups: AttributeGroups = GROUPS,
    features: ResidentFeatures | None = None,
) -> Evaluator:
    config = load_config("base", [f"--config.evaluate.batch_size={batch_size}"])
    config.predict.region_mix, config.predict.expert_mix = mixing.region_mix, mixing.expert_mix
    config.loss.bias = mixing.bias
    network = Network(model, NONE_FROZEN, NONE_FROZEN, None)
    return Evaluator(network, task, groups, config, local_layout(), features)


def by_hand(task: Task, scores: np.ndarray) -> dict[str, float]:
    """The metrics of `[images, classes]` scores, image by image."""

    def accuracy(images: np.ndarray, candidates: np.ndarray) -> float:
        hits: dict[int, list[bool]] = {}
        for i in images:
            chosen = candidates[np.argmax(scores[i, candidates])]
            hits.setdefault(int(task.labels[i]), []).append(chosen == task.labels[i])
        return 100 * float(np.mean([np.mean(h) for h in hits.values()]))

    every, unseen = np.arange(CLASSES), np.flatnonzero(~SEEN)
    u, s = accuracy(task.eval_unseen, every), accuracy(task.eval_seen, every)
    t1 = accuracy(task.eval_unseen, unseen)
    h = 2 * u * s / (u + s) if u + s else 0.0
    return {"U": u, "S": s, "H": h, "T1": t1, "AUSUC": area_by_hand(task, scores)}


def area_by_hand(task: Task, scores: np.ndarray) -> float:
    """AUSUC by trying a bias below, between and above all that can change a choice."""
    images = np.concatenate([task.eval_seen, task.eval_unseen])
    labels, scores = task.labels[images], scores[images].astype(np.float64)
    gaps = np.unique(scores[:, SEEN].max(1) - scores[:, ~SEEN].max(1))
    points = []
    for bias in [gaps[0] - 1, *((gaps[1:] + gaps[:-1]) / 2), gaps[-1] + 1]:
        right = (scores + bias * ~SEEN).argmax(1) == labels
        u, s = (
            np.mean([right[labels == k].mean() for k in np.unique(labels) if kind[k]])
            for kind in (~SEEN, SEEN)
        )
        points.append((u, s))
    return sum((u2 - u1) * (s1 + s2) / 2 for (u1, s1), (u2, s2) in itertools.pairwise(points))


@pytest.mark.parametrize(
    ("seen_images", "unseen_images"),
    [
        pytest.param(23, 31, marks=pytest.mark.slow),
        (7, 1),
        pytest.param(1, 14, marks=pytest.mark.slow),
    ],
)
def test_any_batch_size_gives_the_metrics_of_single_images(
    seen_images: int, unseen_images: int
) -> None:
    task = make_task(seen_images, unseen_images)
    model, params, classes = make_model(task)
    mixing = Mixing(region_mix=0.7, expert_mix=0.4, bias=1.0)
    inputs = jnp.asarray(task.inputs[np.arange(len(task.labels))])
    scores = jax.jit(lambda p, x: predict_scores(model, p, x, classes, mixing))(params, inputs)
    expected = {name: by_hand(task, np.asarray(s)) for name, s in zip(EXPERTS, scores, strict=True)}
    for batch_size in (1, 7, 100):
        found = make_evaluator(task, model, mixing, batch_size)(params)
        assert tuple(found) == EXPERTS
        for name in EXPERTS:
            assert found[name] == pytest.approx(expected[name], abs=1e-9), (name, batch_size)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_scores_of_every_branch(batch_size: int, resident: bool) -> None:
    """Mixed as the predictions are they give the same scores; attributes in the data's order."""
    task = make_task(23, 31)
    model, params, classes = make_model(task)
    mixing = Mixing(region_mix=0.7, expert_mix=0.4, bias=1.0)
    features = make_resident(task.inputs, local_layout(), shard=False) if resident else None
    evaluator = make_evaluator(task, model, mixing, batch_size, features=features)
    metrics, scores = evaluator.with_scores(params)
    assert metrics == evaluator(params)
    images = np.concatenate([task.eval_seen, task.eval_unseen])
    np.testing.assert_array_equal(scores.images, images)
    np.testing.assert_array_equal(scores.labels, task.labels[images])
    inputs = jnp.asarray(task.inputs[images])
    expected = jax.jit(lambda p, x: predict_scores(model, p, x, classes, mixing))(params, inputs)
    for expert_mix, of_expert in ((1.0, expected.coarse), (0.0, expected.fine), (0.4, expected[2])):
        mixed = scores.mixed(Mixing(0.7, expert_mix, 1.0))
        # gamma on unseen classes stands for d on them and -d on seen ones.
        np.testing.assert_allclose(mixed, np.asarray(of_expert) + 1.0, atol=1e-5)
    coarse, fine = jax.jit(lambda p, x: nnx.merge(model, p)(x))(params, inputs)
    order = list(GROUPS.order)
    np.testing.assert_allclose(scores.attributes.fine.region[:, order], fine.region, atol=1e-5)
    np.testing.assert_allclose(
        scores.attributes.coarse.channel[:, order], coarse.channel, atol=1e-5
    )
    z = np.asarray(task.class_embeddings, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(
        scores.classes.fine.channel, scores.attributes.fine.channel @ z.T, atol=1e-5
    )
    np.testing.assert_array_equal(scores.choices(mixing).among_all, scores.mixed(mixing).argmax(1))


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
@pytest.mark.parametrize("unseen_images", [0, 31])
def test_resident_features(batch_size: int, unseen_images: int) -> None:
    task = make_task(23, unseen_images)
    model, params, _ = make_model(task)
    mixing = Mixing(region_mix=0.7, expert_mix=0.4, bias=1.0)
    features = make_resident(task.inputs, local_layout(), shard=False)
    streamed = make_evaluator(task, model, mixing, batch_size)
    resident = make_evaluator(task, model, mixing, batch_size, features=features)
    assert streamed(params) == resident(params)


def test_results_of_batches_come_back_in_order() -> None:
    images = np.random.default_rng(0).permutation(50)[:23]
    for size, rows in ((1, 4), (7, 8), (23, 23), (30, 32)):
        batches = batches_of(images, size, rows)
        assert batches.shape == (-(-23 // size), rows)
        assert not batches[:, size:].any()
        np.testing.assert_array_equal(in_order(batches, size, 23), images)
        several = np.stack([batches, 100 + batches], 1)  # [batches, 2, rows]
        np.testing.assert_array_equal(in_order(several, size, 23, 1), [images, 100 + images])
        wide = np.stack([batches, 100 + batches], -1)  # [batches, rows, 2]
        expected = np.stack([images, 100 + images], 1)
        np.testing.assert_array_equal(in_order(wide, size, 23), expected)
        both = np.stack([wide, -wide], 1)  # [batches, 2, rows, 2]
        np.testing.assert_array_equal(in_order(both, size, 23, 1), [expected, -expected])


def test_fused_is_the_mixture_and_scores_hold_the_bias() -> None:
    task = make_task(9, 9)
    model, params, classes = make_model(task)
    features = jnp.asarray(task.inputs[np.arange(18)])
    with_bias = predict_scores(model, params, features, classes, Mixing(0.7, 0.25, 1.5))
    without = predict_scores(model, params, features, classes, Mixing(0.7, 0.25, 0.0))
    np.testing.assert_allclose(
        with_bias.fused, 0.25 * with_bias.coarse + 0.75 * with_bias.fine, atol=1e-5
    )
    for a, b in zip(with_bias, without, strict=True):
        np.testing.assert_allclose(
            a - b, np.broadcast_to(np.where(SEEN, -1.5, 1.5), a.shape), atol=1e-5
        )


def spy(choose: Callable[[int], int]) -> tuple[Callable, list[int]]:
    """Predicts from features that hold their image index; and the indices it was given."""
    given: list[int] = []

    def predict(_params: object, features: jax.Array, _constants: object) -> Choices:
        images = np.asarray(features[:, 0, 0]).astype(int)
        given.extend(images.tolist())
        chosen = np.repeat([[choose(i)] for i in images], 3, axis=1)
        return Choices(chosen, chosen, chosen, chosen - 3.0)

    return predict, given


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_every_image_counts_once(batch_size: int) -> None:
    """One wrong image of class 4, which has five: filling up the last batch must not weigh."""
    labels = np.array([4] * 5 + [1] * 6 + [0] * 3, np.int32)
    maps = np.broadcast_to(np.arange(14, dtype=np.float32)[:, None, None], (14, CHANNELS, REGIONS))
    task = make_task(7, 7)
    task = Task(
        **{
            **vars(task),
            "inputs": InMemoryFeatures(maps),
            "labels": labels,
            "eval_seen": np.arange(11, 14),
            "eval_unseen": np.arange(11),
        }
    )
    # The first image of the last batch is the one that fills it up, in turn every image here.
    for wrong in range(14):
        predict, given = spy(lambda i, wrong=wrong: 2 if i == wrong else int(labels[i]))
        evaluator = make_evaluator(task, make_model(task)[0], Mixing(0.5, 0.5, 0.0), batch_size)
        evaluator._choose = predict
        found = evaluator(None)["fused"]
        assert set(given) == set(range(14))
        u = 90.0 if wrong < 5 else 100 * (1 + 5 / 6) / 2 if wrong < 11 else 100.0
        s = 100.0 if wrong < 11 else 100 * 2 / 3
        expected = {"U": u, "S": s, "H": 2 * u * s / (u + s), "T1": u}
        assert {m: found[m] for m in expected} == pytest.approx(expected, abs=1e-9)


def test_t1_is_chosen_among_unseen_classes_alone() -> None:
    """Seen scores higher by far: U is 0, T1 is not; chosen ids are unseen classes."""
    task = make_task(20, 40)
    model, params, _ = make_model(task)
    # +1e9 on every seen class, in float32 more than all scores together.
    evaluator = make_evaluator(task, model, Mixing(0.5, 0.5, bias=-1e9), 16)
    chosen = evaluator.choices(params, task.eval_unseen)
    assert chosen.among_all.shape == chosen.among_unseen.shape == (40, 3)
    assert SEEN[chosen.among_all].all()
    assert SEEN[chosen.among_seen].all()
    assert not SEEN[chosen.among_unseen].any()
    found = evaluator(params)["fused"]
    assert found["U"] == 0
    assert found["H"] == 0
    assert found["T1"] > 0
    unbiased = make_evaluator(task, model, Mixing(0.5, 0.5, bias=0.0), 16)(params)["fused"]
    assert (unbiased["T1"], unbiased["AUSUC"]) == (found["T1"], found["AUSUC"])
    # At the other end all images are given unseen classes.
    all_unseen = make_evaluator(task, model, Mixing(0.5, 0.5, bias=1e9), 16)(params)["fused"]
    assert (all_unseen["U"], all_unseen["S"]) == (found["T1"], 0)


def test_a_tiny_example_by_hand() -> None:
    """Two attributes, one region: attribute scores are what the feature map says.

    With uniform attention over one region and the identity as matrices, p_region = F and the
    channel branch is 0, so s = F·Zᵀ + d.
    """
    z = np.array([[1, 0], [0, 1], [1, 1]], np.float32)  # class 2 is unseen
    maps = np.array([[3, 0], [0, 3], [2.0, 2.0], [3, 0.1], [2, 1.9]], np.float32)[:, :, None]
    labels = np.array([0, 1, 2, 2, 1], np.int32)
    seen = np.array([True, True, False])
    task = Task(
        inputs=InMemoryFeatures(maps),
        labels=labels,
        class_ids=np.arange(3),
        class_embeddings=z,
        seen=seen,
        train=np.arange(1),
        eval_seen=np.array([0, 1, 4]),
        eval_unseen=np.array([2, 3]),
    )
    vectors = np.eye(2, dtype=np.float32)
    groups = resolve_groups("1;0", vectors)  # attribute 1 first
    model = DualExpert(vectors, groups, channels=2, regions=1, rank=0, rngs=nnx.Rngs(0))
    for net in (model.coarse, *model.fine):
        net.region_score[...] = jnp.eye(2)
        net.channel_score[...] = jnp.zeros((2, 1))
    classes = make_class_space(z, seen, groups)
    graph, params = nnx.split(model)
    mixing = Mixing(region_mix=1.0, expert_mix=0.5, bias=0.25)
    scores = predict_scores(graph, params, jnp.asarray(maps), classes, mixing)
    half = np.sqrt(0.5)
    f = maps[:, :, 0]
    expected = np.stack([f[:, 0] - 0.25, f[:, 1] - 0.25, half * f.sum(1) + 0.25], 1)
    for s in scores:
        np.testing.assert_allclose(s, expected, atol=1e-5)
    # Image by image: 0 and 1 right (2.75 against 2.37); 2 right; 3 taken for class 0 (2.75 against
    # 2.44); 4, of class 1, taken for 2. So S: class 0 1/1, class 1 1/2; U: 1/2; T1: one choice.
    found = make_evaluator(task, graph, mixing, 2, groups=groups)(params)
    # Without d: as gamma grows, 2 becomes right at -0.83 and 3 at 0.81, and 0 and 1 wrong at 0.88;
    # 4 prefers class 0 to its own. So S stays 75 while U goes from 0 to 100.
    expected_metrics = {"U": 50.0, "S": 75.0, "H": 60.0, "T1": 100.0, "AUSUC": 0.75}
    for name in EXPERTS:
        assert found[name] == pytest.approx(expected_metrics)
    assert metrics_table(found).splitlines() == [
        "expert         U       S       H      T1   AUSUC",
        "coarse      50.0    75.0    60.0   100.0   0.750",
        "fine        50.0    75.0    60.0   100.0   0.750",
        "fused       50.0    75.0    60.0   100.0   0.750",
    ]


@pytest.mark.parametrize(
    ("images", "expected"),
    [([0, 1, 2], {"S": 75.0}), ([3, 4], {"U": 50.0, "T1": 100.0})],
)
def test_of_one_test_set_alone(images: list[int], expected: dict[str, float]) -> None:
    """Conventional zero-shot learning tests unseen classes alone; some sets have none of these."""
    chosen = Choices(
        among_all=np.array([0, 1, 0, 2, 1]),
        among_seen=np.array([0, 1, 0, 1, 1]),
        among_unseen=np.array([2, 2, 2, 2, 2]),
        gap=np.zeros(5, np.float32),
    )
    labels = np.array([0, 1, 1, 2, 2])
    found = gzsl_metrics(Choices(*(x[images] for x in chosen)), labels[images], labels[images] == 2)
    assert found == expected
    cells = metrics_table({"fused": found}).splitlines()[1].split()[1:]
    names = ("U", "S", "H", "T1", "AUSUC")
    assert cells == [f"{found[m]:.1f}" if m in found else "-" for m in names]
