"""The method in PyTorch, written from its mathematics: what our JAX code is held against.

Independent of `dedn_jax` and of the published code. Networks are dicts of tensors with the names
of `dedn_jax.interop.published`; both experts' attribute scores are in group order. Letters: b
batch, C channels, R regions, A attributes, v word-vector size, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

Network = dict[str, torch.Tensor]


@dataclasses.dataclass
class Scores:
    """What one expert says of a batch: attribute scores [b, A], class scores [b, K] with d in."""

    region: torch.Tensor
    channel: torch.Tensor
    attributes: torch.Tensor
    classes: torch.Tensor


def attend(score: torch.Tensor, attention: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Attention pooling: [A, n] twice, [b, n, m] -> [b, A], softmax over m."""
    weights = torch.softmax(attention @ features, dim=-1)
    return (weights * (score @ features)).sum(-1)


def dual_attention(network: Network, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Region and channel attribute scores [b, A] of normalised features [b, C, R]."""
    vectors = network["word_vectors"]
    if "region_score" in network:
        region_score = network["region_score"]
    else:
        region_score = network["region_score_left"] @ network["region_score_right"]
    by_region = attend(vectors @ region_score, vectors @ network["region_attention"], features)
    by_channel = attend(
        vectors @ network["channel_score"],
        vectors @ network["channel_attention"],
        features.transpose(1, 2),
    )
    return by_region, by_channel


def agreement(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """D(x, y) of rows [n, k]: distance-weighted cubes plus Jensen-Shannon divergence."""
    gap = (x - y).abs()
    # 1e-9 under the root: without it two equal rows give 0/0.
    cubes = (gap**3).sum(1) / torch.sqrt((gap**2).sum(1) + 1e-9)
    log_p, log_q = torch.log_softmax(x, 1), torch.log_softmax(y, 1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    to_mean = log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)
    return cubes.mean() + to_mean.sum(1).mean() / 2


def bidirectional_kl(
    x: torch.Tensor, y: torch.Tensor, temperature: float = 1.0, stop_gradient: bool = False
) -> torch.Tensor:
    """T² (KL(p||q) + KL(q||p)) of softmax(x / T) and softmax(y / T), mean over rows.

    With `stop_gradient`, each KL sends no gradient into its first, teaching, side.
    """

    def divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        log_p = torch.log_softmax(teacher / temperature, 1)
        log_q = torch.log_softmax(student / temperature, 1)
        if stop_gradient:
            log_p = log_p.detach()
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()

    return temperature**2 * (divergence(x, y) + divergence(y, x))


@dataclasses.dataclass
class Port:
    """Both experts.

    Attributes:
      coarse: the network over all attributes, in the dataset's attribute order.
      fine: one network per group.
      groups: [A] the group of each attribute.
      class_embeddings: [K, A] Z: columns in group order, rows L2-normalised.
      seen: [K] bool.
      bias: d.
      margin: t, or None without margin-aware loss.
      seen_margin: what the margin-aware loss adds to every seen class.
      calibration_weight: of the self-calibration loss.
      agreement_weight: of D between the experts.
      alignment_weight: of D between the branches.
      region_mix: m.
    """

    coarse: Network
    fine: list[Network]
    groups: np.ndarray
    class_embeddings: torch.Tensor
    seen: torch.Tensor
    bias: float = 1.0
    margin: float | None = 3.0
    seen_margin: float = 1.0
    calibration_weight: float = 0.0
    agreement_weight: float = 0.1
    alignment_weight: float = 0.001
    region_mix: float = 0.8

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter with a name such as `coarse.word_vectors` or `fine.0.region_score`."""
        for name, value in self.coarse.items():
            yield f"coarse.{name}", value
        for g, network in enumerate(self.fine):
            for name, value in network.items():
                yield f"fine.{g}.{name}", value

    @property
    def offset(self) -> torch.Tensor:
        """The class bias d as a row [K]: +bias on unseen, -bias on seen classes."""
        signs = 1 - 2 * self.seen.to(self.class_embeddings.dtype)
        return self.bias * signs

    def scores(self, features: torch.Tensor, training: bool) -> tuple[Scores, Scores]:
        """Coarse and fine scores of raw feature maps [b, C, side, side]."""
        flat = features.flatten(2)
        flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
        region, channel = dual_attention(self.coarse, flat)
        order = torch.from_numpy(np.argsort(self.groups, kind="stable"))
        coarse = self._classify(region[:, order], channel[:, order], training)
        parts = [dual_attention(network, flat) for network in self.fine]
        fine = self._classify(
            torch.cat([part[0] for part in parts], 1),
            torch.cat([part[1] for part in parts], 1),
            training,
        )
        return coarse, fine

    def _classify(self, region: torch.Tensor, channel: torch.Tensor, training: bool) -> Scores:
        m = self.region_mix
        attributes = region + channel if training else m * region + (1 - m) * channel
        return Scores(
            region, channel, attributes, attributes @ self.class_embeddings.T + self.offset
        )

    def cross_entropy(self, class_scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with d taken away, margin-aware where a margin is set."""
        logits = class_scores - self.offset
        if self.margin is not None:
            logits = logits + self.seen_margin * self.seen.to(logits.dtype)
            taken = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
            logits = logits - self.margin * taken
        return -torch.log_softmax(logits, 1).gather(1, labels[:, None]).mean()

    def calibration(self, class_scores: torch.Tensor) -> torch.Tensor:
        """Minus the log of the batch's mean probability mass on unseen classes."""
        return -torch.log(torch.softmax(class_scores, 1)[:, ~self.seen].sum(1).mean())

    def losses(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every term, unweighted, and `total`; differentiable."""
        coarse, fine = self.scores(features, training=True)
        terms = {"agreement": agreement(coarse.classes, fine.classes)}
        total = self.agreement_weight * terms["agreement"]
        for name, expert in (("coarse", coarse), ("fine", fine)):
            ce = self.cross_entropy(expert.classes, labels)
            calibration = self.calibration(expert.classes)
            alignment = agreement(expert.region, expert.channel)
            total = total + ce + self.calibration_weight * calibration
            total = total + self.alignment_weight * alignment
            terms[f"cross_entropy_{name}"] = ce
            terms[f"calibration_{name}"] = calibration
            terms[f"alignment_{name}"] = alignment
        return {**terms, "total": total}

    def gradients(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
        """Gradients of the total loss by the names of `tensors`."""
        names, values = zip(*self.tensors(), strict=True)
        total = self.losses(features, labels)["total"]
        grads = torch.autograd.grad(total, values)
        return {n: g.numpy() for n, g in zip(names, grads, strict=True)}

    def optimizer(self) -> torch.optim.RMSprop:
        """RMSprop with the published constants."""
        return torch.optim.RMSprop(
            [value for _, value in self.tensors()],
            lr=1e-4,
            alpha=0.99,
            eps=1e-8,
            momentum=0.9,
            weight_decay=1e-4,
        )

    def step(
        self, optimizer: torch.optim.Optimizer, features: torch.Tensor, labels: torch.Tensor
    ) -> float:
        """One training step; returns the total loss before it."""
        optimizer.zero_grad()
        total = self.losses(features, labels)["total"]
        total.backward()
        optimizer.step()
        return total.item()

    @torch.no_grad()
    def fused_scores(self, features: torch.Tensor, expert_mix: float) -> torch.Tensor:
        """[b, K] what predictions are the argmax of, d included."""
        coarse, fine = self.scores(features, training=False)
        return expert_mix * coarse.classes + (1 - expert_mix) * fine.classes


def accuracies(fused: torch.Tensor, labels: torch.Tensor, seen: torch.Tensor) -> dict[str, float]:
    """U, S, H, T1 in percent of fused scores [n, K] over a mixed test set.

    Accuracy per class, averaged over the classes that have test images.
    """
    every = torch.arange(seen.numel())

    def per_class(predicted: torch.Tensor, classes: torch.Tensor) -> float:
        rates = [
            (predicted[labels == k] == k).double().mean() for k in classes if (labels == k).any()
        ]
        return 100 * torch.stack(rates).mean().item()

    generalized = fused.argmax(1)
    u, s = per_class(generalized, every[~seen]), per_class(generalized, every[seen])
    zero_shot = fused.masked_fill(seen, -torch.inf).argmax(1)
    h = 2 * u * s / (u + s) if u + s > 0 else 0.0
    return {"U": u, "S": s, "H": h, "T1": per_class(zero_shot, every[~seen])}


def make_port(
    params: Mapping[str, object],
    *,
    attributes: np.ndarray,
    groups: np.ndarray,
    seen: Sequence[int] | np.ndarray,
    dtype: torch.dtype = torch.float32,
    **options: float | None,
) -> Port:
    """A port from numpy parameters and the raw class matrix.

    Args:
      params: `{"coarse": network, "fine": [network, ...]}` of arrays.
      attributes: [K, A] class-by-attribute matrix in the dataset's order, not normalised.
      groups: [A] the group of each attribute.
      seen: class ids.
      dtype: everything is computed in it.
      **options: fields of `Port`, such as `margin`.
    """

    def network(arrays: Mapping[str, np.ndarray]) -> Network:
        return {
            name: torch.tensor(np.asarray(array), dtype=dtype).requires_grad_()
            for name, array in arrays.items()
        }

    ordered = torch.tensor(np.asarray(attributes), dtype=dtype)
    ordered = ordered[:, torch.from_numpy(np.argsort(groups, kind="stable"))]
    z = ordered / ordered.norm(dim=1, keepdim=True).clamp_min(1e-12)
    mask = torch.zeros(z.shape[0], dtype=torch.bool)
    mask[torch.as_tensor(np.asarray(seen, np.int64))] = True
    fine = [network(group) for group in params["fine"]]  # type: ignore[attr-defined]
    coarse = network(params["coarse"])  # type: ignore[arg-type]
    return Port(coarse, fine, np.asarray(groups), z, mask, **options)  # type: ignore[arg-type]
