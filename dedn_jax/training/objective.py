"""The training objective: the weighted sum of `model/losses.py` and `model/distillation/`.

How to add an objective between the experts is said in `model/distillation/__init__.py`. To add
another loss:

1. a pure function in `model/losses.py` that takes its mean over images by `BatchMean`;
2. its weight in `config.loss` (`configs/base.py`, 0 by default), in `Objective`, and its range in
   `config_ranges.check_ranges`;
3. a term in `objective_terms`, added to the total only where its weight is not 0;
4. a refusal in `interop/published_model.py` (`Recipe.from_config`), since the published code has no
   such term.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int
from ml_collections import ConfigDict

from dedn_jax.model import losses
from dedn_jax.model.distillation import Peers
from dedn_jax.model.distillation.teacher import teacher_kl
from dedn_jax.model.experts import EXPERTS
from dedn_jax.model.groups import AttributeGroups
from dedn_jax.model.norms import MIN_NORM
from dedn_jax.training.distillation import Distillation
from dedn_jax.training.views import Mixed


class ClassSpace(NamedTuple):
    """The classes a model chooses among.

    Attributes:
      embeddings: Z, `[classes, attributes]` float32: columns in group order, rows L2-normalised.
      seen: `[classes]` bool.
    """

    embeddings: Float[Array, "classes attributes"]
    seen: Bool[Array, " classes"]


def make_class_space(
    class_embeddings: Float[np.ndarray, "classes attributes"],
    seen: Bool[np.ndarray, " classes"],
    groups: AttributeGroups,
) -> ClassSpace:
    """Z from class embeddings: columns put in group order, rows L2-normalised."""
    z = normalized_embeddings(class_embeddings)[:, groups.order]
    return ClassSpace(jnp.asarray(z), jnp.asarray(seen))


def normalized_embeddings(
    class_embeddings: Float[np.ndarray, "classes attributes"],
) -> Float32[np.ndarray, "classes attributes"]:
    """Rows L2-normalised, `z / max(‖z‖, 1e-12)`; columns as they are."""
    z = np.asarray(class_embeddings, np.float32)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), MIN_NORM)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What `config.loss` asks for: margins, the weight of each loss, and the distillation.

    Attributes:
      experts: names of those that are trained.
      align: whether each expert has both branches, which can then be aligned.
      mixup: α of the mixing of images; 0: none.
      teacher_weight: share of the cross-entropy that a trained teacher takes the place of.
      teacher_temperature: of its scores.
      seed: of what is drawn at random.
    """

    bias: float
    margin_aware: bool
    margin: float
    seen_margin: float
    calibration_weight: float
    alignment_weight: float
    distillation: Distillation
    experts: tuple[str, ...]
    align: bool
    mixup: float
    teacher_weight: float
    teacher_temperature: float
    seed: int

    @classmethod
    def from_config(cls, config: ConfigDict, steps_per_epoch: float = 1.0) -> Objective:
        """The objective of a config.

        Args:
          config: a checked config.
          steps_per_epoch: of the phase; schedules are in epochs.
        """
        loss = {k: v for k, v in config.loss.to_dict().items() if k != "distillation"}
        return cls(
            **loss,
            distillation=Distillation.from_config(config, steps_per_epoch),
            experts=EXPERTS[config.model.experts],
            align=config.model.branches == "both",
            mixup=config.train.mixup,
            teacher_weight=config.teacher.weight if config.teacher.workdir else 0.0,
            teacher_temperature=config.teacher.temperature,
            seed=config.seed,
        )


@jax.named_scope("losses")
def objective_terms(
    peers: Peers,
    objective: Objective,
    factor: Float[Array, ""] | None = None,
    mixed: Mixed | None = None,
    teacher: Peers | None = None,
) -> dict[str, Float[Array, ""]]:
    """Every loss term, and their weighted sum as `loss`; scalars, means over images.

    A term of weight 0 is computed and logged but not added, except distillation objectives, of
    which only `ALWAYS_LOGGED` are computed without a weight.

    Args:
      peers: what the experts say of the batch.
      objective: weights and margins.
      factor: of the distillation in this step; None: 1.
      mixed: with what the images are mixed, if they are.
      teacher: what a trained model says of them, if there is one.
    """
    o, mean = objective, peers.mean
    terms: dict[str, Float[Array, ""]] = {}
    total = jnp.zeros((), jnp.float32)
    scores = peers.scores._asdict()
    for name in o.experts:
        terms[f"cross_entropy_{name}"] = _cross_entropy(scores[name], peers, o, mixed)
        terms[f"calibration_{name}"] = losses.self_calibration(scores[name], peers.seen, mean)
        if teacher is None:
            total += terms[f"cross_entropy_{name}"]
        else:
            theirs = getattr(teacher.scores, name)
            terms[f"teacher_{name}"] = teacher_kl(theirs, scores[name], o.teacher_temperature, mean)
            total += (1.0 - o.teacher_weight) * terms[f"cross_entropy_{name}"]
            total += o.teacher_weight * terms[f"teacher_{name}"]
        # Left out rather than multiplied by 0: calibration can be infinite, and 0 · inf is NaN.
        if o.calibration_weight:
            total += o.calibration_weight * terms[f"calibration_{name}"]
        if o.align:
            region, channel = getattr(peers.attributes, name)
            terms[f"alignment_{name}"] = losses.agreement(region, channel, mean)
            if o.alignment_weight:
                total += o.alignment_weight * terms[f"alignment_{name}"]
    if len(o.experts) == 2:
        distilled = o.distillation.terms(peers)
        for name, weight in o.distillation.weights.items():
            total += (weight if factor is None else weight * factor) * distilled[name]
        terms |= distilled
    return {"loss": total, **terms}


def _cross_entropy(
    scores: Float[Array, "b K"], peers: Peers, o: Objective, mixed: Mixed | None
) -> Float[Array, ""]:
    """Of the labels; of mixed images also of the other labels, each with its share."""

    def of(labels: Int[Array, " b"], share: Float[Array, " b"] | None) -> Float[Array, ""]:
        return losses.margin_cross_entropy(
            scores,
            labels,
            peers.seen,
            bias=o.bias,
            margin=o.margin if o.margin_aware else 0.0,
            seen_margin=o.seen_margin if o.margin_aware else 0.0,
            mean=dataclasses.replace(peers.mean, scale=share),
        )

    if mixed is None:
        return of(peers.labels, None)
    return of(peers.labels, mixed.share) + of(mixed.labels, 1.0 - mixed.share)
