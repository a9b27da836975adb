"""The published model, driven in our names and parameter layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool, Float

from dedn_jax.errors import InputError
from dedn_jax.interop import published
from dedn_jax.interop.reference import Reference, quiet

if TYPE_CHECKING:
    import torch
    from ml_collections import ConfigDict

# Of `config.optimizer`, what the published code does.
_OPTIMIZER: dict[str, object] = {
    "name": "rmsprop",
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "scale_with_batch": False,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the published training script takes as flags."""

    calibration_weight: float
    region_mix: float
    margin_aware: bool
    bias: float
    rank: int
    agreement_weight: float
    alignment_weight: float
    learning_rate: float
    decay: float
    epsilon: float
    momentum: float
    weight_decay: float

    @classmethod
    def from_config(cls, config: ConfigDict, reference: Reference) -> Recipe:
        """The published flags that a `configs/` recipe stands for.

        Raises:
          InputError: the recipe asks for what the published code cannot do.
        """
        loss, optimizer = config.loss, config.optimizer
        if loss.margin_aware and loss.margin != reference.margin:
            raise InputError(
                f"config.loss.margin={loss.margin}: the published {reference.dataset} code has "
                f"{reference.margin} hard-coded in its loss; set that to compare"
            )
        if loss.margin_aware and loss.seen_margin != 1:
            raise InputError(
                f"config.loss.seen_margin={loss.seen_margin}: the published code has 1 "
                "hard-coded in its loss; set that to compare"
            )
        if loss.margin_aware and loss.bias != 1 and reference.dataset == "awa2":
            raise InputError(
                f"config.loss.bias={loss.bias}: the published awa2 code makes its margins of the "
                "bias; set 1 to compare"
            )
        distillation = loss.distillation
        if distillation.name not in ("agreement", "none") or distillation.schedule != "constant":
            raise InputError(
                f"config.loss.distillation.name={distillation.name!r}, schedule="
                f"{distillation.schedule!r}: the published code has its agreement term alone, with "
                "a constant weight; set agreement (or none) and constant to compare"
            )
        for field in ("experts", "branches"):
            if config.model[field] != "both":
                raise InputError(
                    f"config.model.{field}={config.model[field]!r}: the published code always has "
                    "both; set that to compare"
                )
        for field, value in _OPTIMIZER.items():
            if optimizer[field] != value:
                raise InputError(
                    f"config.optimizer.{field}={optimizer[field]!r}: the published code has "
                    "RMSprop at one learning rate, without clipping or averaging; set "
                    f"{value!r} to compare"
                )
        return cls(
            calibration_weight=loss.calibration_weight,
            region_mix=config.predict.region_mix,
            margin_aware=loss.margin_aware,
            bias=loss.bias,
            rank=config.model.rank,
            agreement_weight=(
                distillation.agreement.weight if distillation.name == "agreement" else 0.0
            ),
            alignment_weight=loss.alignment_weight,
            learning_rate=optimizer.learning_rate,
            decay=optimizer.decay,
            epsilon=optimizer.epsilon,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
        )


class PublishedModel:
    """The published model, its losses and its training step, in our names and layout.

    `coarse` is the expert over all attributes, `fine` the one of attribute groups.
    """

    def __init__(
        self, reference: Reference, module: torch.nn.Module, recipe: Recipe, device: torch.device
    ):
        """Wraps a model that is already built; `PublishedModel.build` makes one."""
        self.reference = reference
        self.module = module
        self.recipe = recipe
        self.device = device
        self.optimizer: torch.optim.Optimizer | None = None

    @classmethod
    def build(
        cls,
        reference: Reference,
        recipe: Recipe,
        *,
        word_vectors: Float[np.ndarray, "attributes word_dim"],
        class_embeddings: Float[np.ndarray, "classes attributes"],
        seen: Bool[np.ndarray, " classes"],
        maps: tuple[int, int],
        seed: int = 0,
        device: str = "cpu",
    ) -> PublishedModel:
        """Seeds torch as the published script does and builds its model.

        Args:
          reference: the published code.
          recipe: its flags.
          word_vectors: in the dataset's attribute order, of any norm.
          class_embeddings: their columns in the same order, of any norm.
          seen: which classes are seen.
          maps: channels and side of the feature maps, whose regions are side x side.
          seed: torch's global generator starts from it and is left where building ends, because
            the published script draws its unbalanced batches from there.
          device: torch device.

        Raises:
          InputError: arrays whose shapes do not fit the dataset or one another.
        """
        _check_sizes(reference, recipe, word_vectors, class_embeddings)
        import torch

        torch.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        target = torch.device(device)
        vectors = torch.from_numpy(np.asarray(word_vectors, np.float32))
        embeddings = torch.from_numpy(np.asarray(class_embeddings, np.float32))
        # The script's flag is an integer, and it decides the dtype of an entry of the state_dict.
        bias = int(recipe.bias) if float(recipe.bias).is_integer() else recipe.bias
        channels, side = maps
        seen_ids, unseen_ids = (
            torch.from_numpy(np.flatnonzero(m)).to(target) for m in (seen, ~seen)
        )
        with quiet():
            module = reference.model_class(
                dim_f=channels,
                dim_v=vectors.shape[1],
                dim_r=side,
                hidd_f=recipe.rank,
                init_w2v_att=vectors,
                att=embeddings,
                normalize_att=embeddings,
                seenclass=seen_ids,
                unseenclass=unseen_ids,
                lambda_=recipe.calibration_weight,
                trainable_w2v=True,
                normalize_V=False,
                normalize_F=True,
                is_bias=True,
                bias=bias,
                mixcr=recipe.region_mix,
                mal=recipe.margin_aware,
            ).to(target)
        return cls(reference, module, recipe, target)

    def params(self) -> published.Params:
        """The trained parameters, in our layout (copies)."""
        state = {k: v.detach().cpu().numpy().copy() for k, v in self.module.state_dict().items()}
        return published.from_published(state, source="the published model")

    def load_params(self, params: published.Params) -> None:
        """Replaces the trained parameters; class embeddings and bias stay the model's own."""
        import torch

        state = dict(self.module.state_dict())
        for key, value in published.learned_entries(params).items():
            state[key] = torch.from_numpy(np.array(value))
        self.module.load_state_dict(state, strict=True)

    def outputs(self, features: np.ndarray | torch.Tensor, training: bool) -> dict[str, np.ndarray]:
        """Scores of both experts.

        Args:
          features: [batch, channels, side, side], not yet normalised.
          training: attribute scores add both branches; otherwise they are mixed by `region_mix`.

        Returns:
          `class_scores_{coarse,fine}` [batch, classes], bias `d` included, and
          `{region,channel,attribute}_scores_{coarse,fine}` [batch, attributes] in group order.
        """
        import torch

        branches: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                branches[name] = (output[0].sum(2), output[1].sum(2))

            return hook

        # The published forward returns no channel scores; its subnetworks do.
        subnets = [
            n for n, _ in self.module.named_children() if n == "GNet" or n.startswith("Snet")
        ]
        handles = [getattr(self.module, n).register_forward_hook(keep(n)) for n in subnets]
        self.module.train(training)
        try:
            with torch.no_grad(), quiet():
                coarse, fine = self.module(self._features(features))
        finally:
            for handle in handles:
                handle.remove()
        order = torch.from_numpy(np.argsort(self.reference.groups, kind="stable")).to(self.device)
        fine_names = sorted(name for name in branches if name != "GNet")
        result: dict[str, torch.Tensor] = {}
        for index, branch in enumerate(("region", "channel")):
            result[f"{branch}_scores_coarse"] = branches["GNet"][index][:, order]
            parts = [branches[name][index] for name in fine_names]
            result[f"{branch}_scores_fine"] = torch.cat(parts, dim=1)
        for expert, package in (("coarse", coarse), ("fine", fine)):
            result[f"class_scores_{expert}"] = package["S_pp"]
            result[f"attribute_scores_{expert}"] = package["S_p"]
        return {name: value.cpu().numpy() for name, value in result.items()}

    def losses(
        self, features: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor
    ) -> dict[str, float]:
        """Every loss term of a training batch, unweighted, and `total`.

        Args:
          features: [batch, channels, side, side], not yet normalised.
          labels: [batch] class ids.

        Returns:
          `cross_entropy_{coarse,fine}`, `calibration_{coarse,fine}`, `agreement`,
          `alignment_{coarse,fine}`, `total`.
        """
        import torch

        with torch.no_grad():
            return {name: value.item() for name, value in self._losses(features, labels).items()}

    def gradients(
        self, features: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor
    ) -> published.Params:
        """Gradients of the total loss, in the layout of the parameters."""
        self.module.zero_grad()
        self._losses(features, labels)["total"].backward()
        grads = {
            name: cast("torch.Tensor", value.grad).cpu().numpy().copy()
            for name, value in self.module.named_parameters()
            if value.requires_grad
        }
        self.module.zero_grad()
        return published.from_published(grads, source="the published gradients")

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A fresh RMSprop as the published script makes it; `step` uses it from then on."""
        import torch

        recipe = self.recipe
        self.optimizer = torch.optim.RMSprop(
            [value for value in self.module.parameters() if value.requires_grad],
            lr=recipe.learning_rate,
            alpha=recipe.decay,
            eps=recipe.epsilon,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        return self.optimizer

    def step(
        self, features: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor
    ) -> torch.Tensor:
        """One published training step: forward, losses, backward, update.

        Returns:
          The total loss before the update, a scalar on the device. It is not brought to the host,
          so that timing measures the step as published, which does not wait for it either.
        """
        optimizer = self.optimizer if self.optimizer is not None else self.make_optimizer()
        optimizer.zero_grad()
        loss = self._losses(features, labels)["total"]
        loss.backward()
        optimizer.step()
        return loss.detach()

    def _features(self, features: np.ndarray | torch.Tensor) -> torch.Tensor:
        import torch

        if isinstance(features, np.ndarray):
            features = torch.from_numpy(np.asarray(features, np.float32))
        return features.to(self.device)

    def _losses(
        self, features: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """The published loop's losses, in its order of operations."""
        import torch

        if isinstance(labels, np.ndarray):
            labels = torch.from_numpy(np.asarray(labels, np.int64))
        labels = labels.to(self.device)
        module = cast(Any, self.module)
        module.train()
        with quiet():
            coarse, fine = module(self._features(features))
            coarse["batch_label"] = fine["batch_label"] = labels
            first, second = module.compute_loss(coarse), module.compute_loss(fine)
            agreement = module.compute_contrastive_loss(coarse, fine)
        recipe = self.recipe
        total = (
            first["loss"]
            + second["loss"]
            + recipe.agreement_weight * agreement
            + recipe.alignment_weight * (coarse["Con_loss"] + fine["Con_loss"])
        )
        return {
            "cross_entropy_coarse": first["loss_CE"],
            "cross_entropy_fine": second["loss_CE"],
            "calibration_coarse": first["loss_cal"],
            "calibration_fine": second["loss_cal"],
            "agreement": agreement,
            "alignment_coarse": coarse["Con_loss"],
            "alignment_fine": fine["Con_loss"],
            "total": total,
        }


def _check_sizes(
    reference: Reference, recipe: Recipe, word_vectors: np.ndarray, class_embeddings: np.ndarray
) -> None:
    """Raises InputError where the published model cannot be built from these."""
    attributes = reference.groups.shape[0]
    for field, found, axis in (
        ("word_vectors", word_vectors.shape[0], "rows"),
        ("class_embeddings", class_embeddings.shape[1], "columns"),
    ):
        if found != attributes:
            raise InputError(
                f"{field}: found {found} {axis}, the published {reference.dataset} code is "
                f"written for {attributes} attributes"
            )
    if (recipe.rank > 0) != (reference.dataset == "sun"):
        raise InputError(
            f"config.model.rank={recipe.rank}: the published code factors the region score for sun "
            "only"
        )
