"""The training objective: the weighted sum of the losses in `model/losses.py`.

To add a loss:

1. a pure function in `model/losses.py` that takes its mean over images by `BatchMean`;
2. its weight in `config.loss` (`configs/base.py`, 0 by default), in `Objective`, and its range in
   `config.check_config`;
3. a term in `objective_terms`, added to the total only where its weight is not 0;
4. a refusal in `interop/published_model.py` (`Recipe.from_config`), since the published code has no
   such term.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int
from ml_collections import ConfigDict

from dedn_jax.model import losses
from dedn_jax.model.experts import AttributeScores
from dedn_jax.model.groups import AttributeGroups


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
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The fields of `config.loss`: margins and the weight of each loss."""

    bias: float
    margin_aware: bool
    margin: float
    seen_margin: float
    calibration_weight: float
    agreement_weight: float
    alignment_weight: float
    kl_weight: float
    kl_temperature: float
    kl_stop_gradient: bool

    @classmethod
    def from_config(cls, config: ConfigDict) -> Objective:
        return cls(**config.loss.to_dict())


def objective_terms(
    coarse: AttributeScores,
    fine: AttributeScores,
    labels: Int[Array, " batch"],
    classes: ClassSpace,
    objective: Objective,
    mean: losses.BatchMean = losses.MEAN,
) -> dict[str, Float[Array, ""]]:
    """Every loss term, and their weighted sum as `loss`; scalars, means over images by `mean`.

    A term of weight 0 is computed and logged but not added, except `bidirectional_kl`, which is not
    computed at all.

    Args:
      coarse, fine: scores of the two experts.
      labels: `[batch]` class ids.
      classes: to choose among.
      objective: weights and margins.
      mean: the mean over images.
    """
    o = objective
    terms: dict[str, Float[Array, ""]] = {}
    scores = {}
    total = jnp.zeros((), jnp.float32)
    for name, attribute_scores in (("coarse", coarse), ("fine", fine)):
        s = losses.class_scores(
            attribute_scores.for_training(), classes.embeddings, classes.seen, o.bias
        )
        terms[f"cross_entropy_{name}"] = losses.margin_cross_entropy(
            s,
            labels,
            classes.seen,
            bias=o.bias,
            margin=o.margin if o.margin_aware else 0.0,
            seen_margin=o.seen_margin if o.margin_aware else 0.0,
            mean=mean,
        )
        terms[f"calibration_{name}"] = losses.self_calibration(s, classes.seen, mean)
        terms[f"alignment_{name}"] = losses.agreement(
            attribute_scores.region, attribute_scores.channel, mean
        )
        total += terms[f"cross_entropy_{name}"]
        # Left out rather than multiplied by 0: calibration can be infinite, and 0 · inf is NaN.
        if o.calibration_weight:
            total += o.calibration_weight * terms[f"calibration_{name}"]
        if o.alignment_weight:
            total += o.alignment_weight * terms[f"alignment_{name}"]
        scores[name] = s
    terms["agreement"] = losses.agreement(scores["coarse"], scores["fine"], mean)
    if o.agreement_weight:
        total += o.agreement_weight * terms["agreement"]
    if o.kl_weight:
        terms["bidirectional_kl"] = losses.bidirectional_kl(
            scores["coarse"],
            scores["fine"],
            temperature=o.kl_temperature,
            stop_gradient=o.kl_stop_gradient,
            mean=mean,
        )
        total += o.kl_weight * terms["bidirectional_kl"]
    return {"loss": total, **terms}
