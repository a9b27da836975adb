"""The distillation objectives in float64 NumPy, from the definitions of their papers.

Plain probabilities and loops over images: slow, exact for scores of moderate size, and with nothing
of the package in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Said(NamedTuple):
    """What the experts say of a batch: attribute scores `[b, A]`, branches added up.

    Attributes:
      coarse, fine: of the whole feature maps.
      dropped_coarse, dropped_fine: of the maps with regions dropped.
      coarse_head, fine_head: `[A, A]`.
    """

    coarse: np.ndarray
    fine: np.ndarray
    dropped_coarse: np.ndarray
    dropped_fine: np.ndarray
    coarse_head: np.ndarray
    fine_head: np.ndarray


class Setting(NamedTuple):
    """Z `[K, A]`, which classes are seen, the labels, the size of d, the sizes of the groups."""

    z: np.ndarray
    seen: np.ndarray
    labels: np.ndarray
    bias: float
    group_sizes: tuple[int, ...]

    def scores(self, p: np.ndarray, bias: bool = True) -> np.ndarray:
        d = np.where(self.seen, -self.bias, self.bias) if bias else 0.0
        return p @ self.z.T + d


# `(said, held, setting, **options)`: `held` are the same numbers, taken as constants by the
# gradient. An objective reads from there what its teacher says.
Formula = Callable[..., float]


def softmax(x: np.ndarray, t: float = 1.0) -> np.ndarray:
    powers = np.exp((x - x.max(-1, keepdims=True)) / t)
    return powers / powers.sum(-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """`KL(p ‖ q)` along the last axis."""
    return (p * np.log(p / q)).sum(-1)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(-1)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    m = (p + q) / 2
    return divergence(p, m) / 2 + divergence(q, m) / 2


def agreement(said: Said, held: Said, at: Setting) -> float:
    c, f = at.scores(said.coarse), at.scores(said.fine)
    images = len(c)
    gap = np.abs(c - f)
    cubic = sum((g**3).sum() / np.sqrt((g**2).sum() + 1e-9) for g in gap) / images
    return cubic + jensen_shannon(softmax(c), softmax(f)).mean()


def kl(
    said: Said,
    held: Said,
    at: Setting,
    *,
    temperature: float,
    scale: bool,
    stop_gradient: bool,
    coarse_weight: float,
    fine_weight: float,
    bias: bool,
) -> float:
    teachers = held if stop_gradient else said
    c, f = (softmax(at.scores(p, bias), temperature) for p in (said.coarse, said.fine))
    c_teacher, f_teacher = (
        softmax(at.scores(p, bias), temperature) for p in (teachers.coarse, teachers.fine)
    )
    total = coarse_weight * divergence(c_teacher, f) + fine_weight * divergence(f_teacher, c)
    return total.mean() * (temperature**2 if scale else 1)


def js(said: Said, held: Said, at: Setting, *, temperature: float) -> float:
    c, f = (softmax(at.scores(p), temperature) for p in (said.coarse, said.fine))
    return temperature**2 * jensen_shannon(c, f).mean()


def balanced_kl(
    said: Said, held: Said, at: Setting, *, temperature: float, emphasis: float
) -> float:
    total = 0.0
    for student, teacher in ((said.coarse, held.fine), (said.fine, held.coarse)):
        for s, t in zip(at.scores(student), at.scores(teacher), strict=True):
            p, q = softmax(t, temperature), softmax(s, temperature)
            # A student that is surer than its teacher is spread out, one that is less is sharpened.
            forward = emphasis if entropy(q) < entropy(p) else 1.0
            reverse = emphasis if entropy(q) > entropy(p) else 1.0
            total += forward * divergence(p, q) + reverse * divergence(q, p)
    return temperature**2 * total / len(at.labels)


def selective(said: Said, held: Said, at: Setting, *, temperature: float, by_group: bool) -> float:
    ends = np.cumsum(at.group_sizes)
    groups = [slice(end - n, end) for n, end in zip(at.group_sizes, ends, strict=True)]
    total, count = 0.0, 0
    for members in groups if by_group else [slice(None)]:
        z = at.z[:, members].T
        for i, label in enumerate(at.labels):
            c, f = held.coarse[i, members] @ z, held.fine[i, members] @ z
            loss_c, loss_f = -np.log(softmax(c)[label]), -np.log(softmax(f)[label])
            teacher, student = (c, said.fine) if loss_c < loss_f else (f, said.coarse)
            q = softmax(student[i, members] @ z, temperature)
            total, count = total + divergence(softmax(teacher, temperature), q), count + 1
    return temperature**2 * total / count


def sinkhorn(
    said: Said,
    held: Said,
    at: Setting,
    *,
    temperature: float,
    epsilon: float,
    iterations: int,
) -> float:
    c, f = (softmax(at.scores(p), temperature) for p in (said.coarse, said.fine))

    def transport(x: np.ndarray, y: np.ndarray) -> float:
        cost = np.array([[np.abs(a - b).sum() for b in y] for a in x])
        kernel, mass, v = np.exp(-cost / epsilon), 1 / len(x), np.ones(len(x))
        for _ in range(iterations):
            u = mass / (kernel @ v)
            v = mass / (kernel.T @ u)
        return float((u[:, None] * kernel * v * cost).sum())

    return transport(c, f) - (transport(c, c) + transport(f, f)) / 2


def decoupled(
    said: Said,
    held: Said,
    at: Setting,
    *,
    temperature: float,
    target_weight: float,
    other_weight: float,
) -> float:
    def parts(p: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
        q = softmax(at.scores(p), temperature)
        return np.array([q[label], 1 - q[label]]), np.delete(q, label) / (1 - q[label])

    total = 0.0
    for student, teacher in ((said.coarse, held.fine), (said.fine, held.coarse)):
        for s, t, label in zip(student, teacher, at.labels, strict=True):
            (b_s, others_s), (b_t, others_t) = parts(s, label), parts(t, label)
            total += target_weight * divergence(b_t, b_s)
            total += other_weight * divergence(others_t, others_s)
    return temperature**2 * total / len(at.labels)


def relational(
    said: Said,
    held: Said,
    at: Setting,
    *,
    temperature: float,
    image_weight: float,
    attribute_weight: float,
) -> float:
    def edges(nodes: np.ndarray) -> np.ndarray:
        unit = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
        return np.stack(
            [softmax(np.delete(unit @ unit[i], i), temperature) for i in range(len(unit))]
        )

    def graph(x: np.ndarray, y: np.ndarray) -> float:
        a, b = edges(x), edges(y)
        return (divergence(a, b) + divergence(b, a)).mean()

    images = graph(said.coarse, said.fine)
    attributes = graph(said.coarse.T, said.fine.T)
    return image_weight * images + attribute_weight * attributes


def norm_direction(said: Said, held: Said, at: Setting) -> float:
    total = 0.0
    for student, teacher in ((said.coarse, held.fine), (said.fine, held.coarse)):
        for i, label in enumerate(at.labels):
            center = teacher[at.labels == label].mean(0)
            direction = center / np.linalg.norm(center)
            longest = max(np.linalg.norm(student[i]), np.linalg.norm(teacher[i]))
            total += 1 - student[i] @ direction / longest
    return total / len(at.labels)


def confident(said: Said, held: Said, at: Setting, *, temperature: float, drop: float) -> float:
    total = 0.0
    views = ((held.coarse, said.dropped_coarse), (held.fine, said.dropped_fine))
    for whole, dropped in views:
        rows = zip(at.scores(whole, False), at.scores(dropped, False), at.labels, strict=True)
        for t, s, label in rows:
            if t.argmax() == label:
                total += divergence(softmax(t, temperature), softmax(s, temperature))
    return temperature**2 * total / len(at.labels)


def dual_head(said: Said, held: Said, at: Setting, *, temperature: float) -> float:
    total = 0.0
    for student, head, teacher in (
        (said.coarse, said.coarse_head, held.fine),
        (said.fine, said.fine_head, held.coarse),
    ):
        gap = (at.scores(student @ head, False) - at.scores(teacher, False)) / temperature
        on = 1 / (1 + np.exp(-gap))
        total += (0.5 * np.log(0.5 / on) + 0.5 * np.log(0.5 / (1 - on))).sum()
    return temperature**2 * total / len(at.labels)


FORMULAS: dict[str, Formula] = {
    formula.__name__: formula
    for formula in (
        *(agreement, kl, js, balanced_kl, selective, sinkhorn),
        *(decoupled, relational, norm_direction, confident, dual_head),
    )
}
