"""Every loss against its formula in float64 NumPy; finite where the formula is delicate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dedn_jax.model import losses

BATCH, CLASSES, ATTRIBUTES = 5, 7, 4
SEEN = np.array([True, True, False, True, False, True, True])
LABELS = np.array([0, 3, 6, 1, 0])
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def rows(seed: int, n: int = CLASSES, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((BATCH, n))).astype(np.float32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(x))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over rows of KL(p || q); 0 log 0 = 0."""
    ratio = np.log(np.where(p > 0, p, 1)) - np.log(np.where(p > 0, q, 1))
    return float((p * ratio).sum(-1).mean())


def jensen_shannon(x: np.ndarray, y: np.ndarray) -> float:
    p, q = softmax(x), softmax(y)
    return 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2)


def agreement(x: np.ndarray, y: np.ndarray) -> float:
    gap = np.abs(np.asarray(x, np.float64) - y)
    norm = np.sqrt((gap**2).sum(1, keepdims=True) + 1e-9)
    return float((gap**3 / norm).sum() / len(x)) + jensen_shannon(x, y)


def numeric_gradient(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """Central differences in float64."""
    x, step = np.asarray(x, np.float64), 1e-6
    gradient = np.empty_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (f(up) - f(down)) / (2 * step)
    return gradient


def slopes(loss: Callable[..., jax.Array], inputs: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Its value and gradients as one program: its operations one by one take longer to compile."""
    return jax.jit(jax.value_and_grad(loss, inputs))


def test_class_scores() -> None:
    p = rows(0, ATTRIBUTES)
    z = np.random.default_rng(1).standard_normal((CLASSES, ATTRIBUTES)).astype(np.float32)
    d = np.where(SEEN, -1.5, 1.5)
    np.testing.assert_array_equal(losses.class_bias(jnp.asarray(SEEN), 1.5), d)
    found = losses.class_scores(jnp.asarray(p), jnp.asarray(z), jnp.asarray(SEEN), 1.5)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.float64(p) @ z.T + d, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bias", "margin", "seen_margin"), [(1, 3, 1), (1, 2, 1), (0.5, 0.7, 2), (0, 0, 0), (1, 0, 0)]
)
def test_margin_cross_entropy(bias: float, margin: float, seen_margin: float) -> None:
    s = rows(2)

    def formula(s: np.ndarray) -> float:
        logits = s - np.where(SEEN, -bias, bias) + np.where(SEEN, seen_margin, 0)
        logits[np.arange(BATCH), LABELS] -= margin
        return -log_softmax(logits)[np.arange(BATCH), LABELS].mean()

    def ours(s: jax.Array) -> jax.Array:
        return losses.margin_cross_entropy(
            s,
            jnp.asarray(LABELS),
            jnp.asarray(SEEN),
            bias=bias,
            margin=margin,
            seen_margin=seen_margin,
        )

    value, gradient = slopes(ours)(jnp.asarray(s))
    np.testing.assert_allclose(value, formula(np.float64(s)), rtol=2e-6)
    np.testing.assert_allclose(gradient, numeric_gradient(formula, s), atol=1e-6)


def test_margins_of_zero_are_plain_cross_entropy() -> None:
    s = jnp.asarray(rows(3))
    found = losses.margin_cross_entropy(
        s, jnp.asarray(LABELS), jnp.asarray(SEEN), bias=0.0, margin=0.0, seen_margin=0.0
    )
    plain = -log_softmax(np.asarray(s))[np.arange(BATCH), LABELS].mean()
    np.testing.assert_allclose(found, plain, rtol=2e-6)


def test_self_calibration() -> None:
    s = rows(4)

    def formula(s: np.ndarray) -> float:
        return -np.log(softmax(s)[:, ~SEEN].sum(1).mean())

    value, gradient = slopes(losses.self_calibration)(jnp.asarray(s), jnp.asarray(SEEN))
    np.testing.assert_allclose(value, formula(s), rtol=2e-6)
    np.testing.assert_allclose(gradient, numeric_gradient(formula, s), atol=1e-6)


def test_self_calibration_of_a_mass_below_float32() -> None:
    """exp(-500) is 0 in float32; the loss is still 500 and pulls the unseen scores up."""
    s = np.where(SEEN, 0.0, -500.0) * np.ones((BATCH, 1))
    value, gradient = slopes(losses.self_calibration)(
        jnp.asarray(s, jnp.float32), jnp.asarray(SEEN)
    )
    # mass = 2 e^-500 / (5 + 2 e^-500)
    np.testing.assert_allclose(value, 500 - np.log(2) + np.log(5), rtol=1e-6)
    expected = np.where(SEEN, 1 / 5, -1 / 2) / BATCH
    np.testing.assert_allclose(gradient, np.broadcast_to(expected, s.shape), atol=1e-6)


def test_jensen_shannon() -> None:
    x, y = rows(5), rows(6)
    value = float(losses.jensen_shannon(jnp.asarray(x), jnp.asarray(y)))
    np.testing.assert_allclose(value, jensen_shannon(x, y), rtol=1e-5)
    np.testing.assert_allclose(
        losses.jensen_shannon(jnp.asarray(y), jnp.asarray(x)), value, rtol=1e-6
    )
    assert 0 < value < np.log(2)


def test_jensen_shannon_of_certain_opposites_is_log_two() -> None:
    x = jnp.asarray([[1e4, -1e4]])
    assert float(losses.jensen_shannon(x, -x)) == pytest.approx(np.log(2), rel=1e-6)


def test_agreement() -> None:
    x, y = rows(7), rows(8)
    value, (dx, dy) = slopes(losses.agreement, (0, 1))(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(value, agreement(x, y), rtol=2e-6)
    for found, expected in (
        (dx, numeric_gradient(lambda x: agreement(x, y), x)),
        (dy, numeric_gradient(lambda y: agreement(x, y), y)),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("loss", [losses.agreement, losses.jensen_shannon])
@pytest.mark.parametrize("equal_rows", [[0], [1, 3], list(range(BATCH))])
def test_equal_rows_have_a_value_and_a_gradient(loss: Loss, equal_rows: list[int]) -> None:
    x, y = rows(9), rows(10)
    y[equal_rows] = x[equal_rows]
    formula = agreement if loss is losses.agreement else jensen_shannon
    value, gradients = slopes(loss, (0, 1))(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(value, formula(x, y), rtol=2e-6, atol=1e-7)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        # A row that agrees is at its minimum.
        np.testing.assert_allclose(gradient[np.asarray(equal_rows)], 0, atol=1e-7)


def all_losses(
    x: jax.Array,
    y: jax.Array,
    labels: np.ndarray | jax.Array = LABELS,
    mean: losses.BatchMean = losses.MEAN,
) -> dict[str, jax.Array]:
    seen, labels = jnp.asarray(SEEN), jnp.asarray(labels)
    return {
        "margin_cross_entropy": losses.margin_cross_entropy(
            x, labels, seen, bias=1.0, margin=3.0, seen_margin=1.0, mean=mean
        ),
        "self_calibration": losses.self_calibration(x, seen, mean),
        "jensen_shannon": losses.jensen_shannon(x, y, mean),
        "agreement": losses.agreement(x, y, mean),
    }


NAMES = sorted(jax.eval_shape(all_losses, *np.zeros((2, 5, 7))))


@pytest.mark.parametrize(
    ("parts", "images"),
    [(1, None), (3, None), (3, BATCH), (5, None)],  # 3: of two rows each, one of which fills up
)
@pytest.mark.parametrize("name", NAMES)
def test_parts_of_a_batch_add_up(name: str, parts: int, images: int | None) -> None:
    """Values and gradients: devices that have a part each give their share of both."""
    x, y = map(jnp.asarray, (rows(21), rows(22)))
    each = -(-BATCH // parts)

    def cut(a: np.ndarray | jax.Array) -> jax.Array:
        a = jnp.asarray(a)
        filled = jnp.pad(a, [(0, parts * each - BATCH), *[(0, 0)] * (a.ndim - 1)])
        return filled.reshape(parts, each, *a.shape[1:])

    def share(x: jax.Array, y: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        mean = losses.BatchMean(weights if parts == 3 else None, "parts", images=images)
        return all_losses(x, y, labels, mean)[name]

    of_parts = jax.jit(jax.vmap(jax.value_and_grad(share, (0, 1)), axis_name="parts"))
    values, found = of_parts(cut(x), cut(y), cut(LABELS), cut(np.ones(BATCH, np.float32)))
    value, expected = slopes(lambda x, y: all_losses(x, y)[name], (0, 1))(x, y)
    np.testing.assert_allclose(values.sum(), value, rtol=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        mine = mine.reshape(parts * each, CLASSES)
        np.testing.assert_allclose(mine[:BATCH], theirs, rtol=1e-4, atol=1e-7)
        assert not mine[BATCH:].any()


@pytest.mark.parametrize(("images", "sums"), [(None, 1), (BATCH, 0)])
def test_devices_count_images_only_if_asked(images: int | None, sums: int) -> None:
    """An all-reduce of its own, at the beginning of every step."""
    mean = losses.BatchMean(jnp.ones(2), "parts", images=images)
    assert str(jax.make_jaxpr(mean, axis_env=[("parts", 3)])(jnp.ones(2))).count("psum") == sums


@pytest.mark.parametrize("name", NAMES)
def test_huge_logits_stay_finite(name: str) -> None:
    rng = np.random.default_rng(11)
    x = jnp.asarray(rng.choice([-1e4, 0.0, 1e4], (BATCH, CLASSES)), jnp.float32)
    y = jnp.asarray(rng.choice([-1e4, 0.0, 1e4], (BATCH, CLASSES)), jnp.float32)
    of_both = slopes(lambda a, b: all_losses(a, b)[name], (0, 1))
    for a, b in ((x, y), (x, -x), (x, x), (1e4 * np.ones_like(x), -1e4 * np.ones_like(x))):
        value, gradients = of_both(a, b)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
