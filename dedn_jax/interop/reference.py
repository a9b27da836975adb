"""Runs the published PyTorch code (zjrao/DEDN) from a checkout the user names.

The benchmarks and parity tests measure against that code itself. It is never copied or installed:
`load_reference` imports it from its folder and leaves `sys.modules` and `sys.path` as they were;
`PublishedModel` drives its model through our parameter layout (`dedn_jax.interop.published`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dedn_jax.errors import InputError
from dedn_jax.interop import published

if TYPE_CHECKING:
    import torch
    from ml_collections import ConfigDict

# Imported at the top of the published files and not used by what we run. They are stubbed where
# they are not installed, so that comparing does not require TensorFlow, torchvision and others.
_UNUSED_IMPORTS = (
    "PIL.Image",
    "matplotlib.pyplot",
    "pandas",
    "skimage.transform",
    "sklearn.preprocessing",
    "tensorflow",
    "torchvision.datasets",
    "torchvision.models.resnet",
    "torchvision.transforms",
)
# Top-level names the published code gives its own modules; too general to leave in sys.modules.
_OWN_MODULES = ("core", "config", "global_setting", "utils", "dataset")


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where the published code keeps one dataset, and the margin `t` written into its loss."""

    model: str
    loader: str
    loader_class: str
    train_script: str
    margin: float


_LAYOUTS = {
    "cub": _Layout("DEDN_Cub", "CUBDataLoader", "CUBDataLoader", "Cub_train.py", 3.0),
    "sun": _Layout("DEDN_Sun", "SUNDataLoader", "SUNDataLoader", "Sun_train.py", 2.0),
    "awa2": _Layout("DEDN_Awa2", "AWA2DataLoader", "AWA2DataLoader", "Awa2_train.py", 2.0),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """The published code for one dataset.

    Attributes:
      dataset: `cub`, `sun` or `awa2`.
      directory: the checkout.
      model_class: the published `DEDN` module class.
      loader_class: the published data loader class; `loader_class(folder + "/", device,
        is_balance=...)` reads `folder/data/<DATASET>/feature_map_ResNet_101_<DATASET>.hdf5`.
      evaluate: the published `eval_zs_gzsl(loader, model, expert_mix, device)`, which returns
        `(seen, unseen, harmonic mean, zero-shot)` as fractions.
      groups: [attributes] int64, the group of each attribute (the published `indicator`).
      margin: `t`, taken off the true class score by the margin-aware loss.
      train_script: the published training script.
    """

    dataset: str
    directory: Path
    model_class: type[torch.nn.Module]
    loader_class: type[Any]
    evaluate: Callable[..., tuple[float, float, float, float]]
    groups: np.ndarray
    margin: float
    train_script: Path


def _is_own(name: str) -> bool:
    return name.split(".", 1)[0] in _OWN_MODULES


def _stub_missing(dotted: str) -> None:
    """Puts empty modules for `dotted` into sys.modules unless its package is installed."""
    parts = dotted.split(".")
    top = sys.modules.get(parts[0])
    if isinstance(top, types.ModuleType) and not getattr(top, "_dedn_stub", False):
        return
    if top is None and importlib.util.find_spec(parts[0]) is not None:
        return
    parent: types.ModuleType | None = None
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        module = sys.modules.get(name)
        if module is None:
            module = types.ModuleType(name)
            module._dedn_stub = True  # type: ignore[attr-defined]
            module.__path__ = []  # makes it a package, so that its submodules can be imported
            sys.modules[name] = module
        if parent is not None:
            setattr(parent, parts[end - 1], module)
        parent = module


@contextlib.contextmanager
def _import_from(directory: Path) -> Iterator[None]:
    """Imports resolve to `directory` and to stubs of what is missing; all is undone at the end."""
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_own(name)}
    sys.path.insert(0, str(directory))
    sys.dont_write_bytecode = True  # the checkout is the user's: leave no __pycache__ in it
    importlib.invalidate_caches()
    try:
        for dotted in _UNUSED_IMPORTS:
            _stub_missing(dotted)
        yield
    finally:
        for name in list(sys.modules):
            if _is_own(name) or getattr(sys.modules[name], "_dedn_stub", False):
                del sys.modules[name]
        sys.modules.update(hidden)
        sys.path[:] = path
        sys.dont_write_bytecode = bytecode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the published code's deprecated calls (implicit softmax axis, tensor of tensor)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Implicit dimension choice for softmax")
        warnings.filterwarnings("ignore", message="To copy construct from a tensor")
        yield


def load_reference(reference_dir: str | Path, dataset: str) -> Reference:
    """Imports the published code for one dataset. This runs the Python files of that folder.

    Args:
      reference_dir: a checkout of zjrao/DEDN, for example from `git clone`.
      dataset: `cub`, `sun` or `awa2`.

    Raises:
      InputError: no such dataset, a folder that is no such checkout, or torch is not installed.
    """
    published.require_torch()
    layout = _LAYOUTS.get(dataset)
    if layout is None:
        raise InputError(f"--dataset: {dataset!r} is not one of {', '.join(_LAYOUTS)}")
    directory = Path(reference_dir).expanduser().resolve()
    files = [f"core/{layout.model}.py", f"core/{layout.loader}.py", "core/helper_eval.py"]
    files += ["global_setting.py", layout.train_script]
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        raise InputError(
            f"--reference-dir: {directory} has no {', '.join(missing)}; give a checkout of the "
            "published code (git clone https://github.com/zjrao/DEDN)"
        )
    try:
        with _import_from(directory), quiet():
            model = importlib.import_module(f"core.{layout.model}")
            loader = importlib.import_module(f"core.{layout.loader}")
            helper = importlib.import_module("core.helper_eval")
        return Reference(
            dataset=dataset,
            directory=directory,
            model_class=model.DEDN,
            loader_class=getattr(loader, layout.loader_class),
            evaluate=helper.eval_zs_gzsl,
            groups=model.indicator.numpy().astype(np.int64),
            margin=layout.margin,
            train_script=directory / layout.train_script,
        )
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(
            f"--reference-dir: {directory} does not import as the published code: {error}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the published training script takes as flags. Defaults: what all its recipes share."""

    calibration_weight: float = 0.0
    region_mix: float = 0.8
    margin_aware: bool = True
    bias: float = 1.0
    rank: int = 0
    agreement_weight: float = 0.1
    alignment_weight: float = 0.001
    learning_rate: float = 1e-4
    decay: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 1e-4

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
                f"{reference.margin} written into its loss; set that to compare"
            )
        if loss.kl_weight:
            raise InputError(
                f"config.loss.kl_weight={loss.kl_weight}: the published code has no bidirectional "
                "KL; set 0 to compare"
            )
        return cls(
            calibration_weight=loss.calibration_weight,
            region_mix=config.predict.region_mix,
            margin_aware=loss.margin_aware,
            bias=loss.bias,
            rank=config.model.rank,
            agreement_weight=loss.agreement_weight,
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
        word_vectors: np.ndarray,
        class_embeddings: np.ndarray,
        seen: np.ndarray,
        unseen: np.ndarray,
        channels: int,
        side: int,
        seed: int = 0,
        device: str = "cpu",
    ) -> PublishedModel:
        """Seeds torch as the published script does and builds its model.

        Args:
          reference: the published code.
          recipe: its flags.
          word_vectors: [attributes, v] in the dataset's attribute order, any row norm.
          class_embeddings: [classes, attributes] in the dataset's attribute order, any row norm.
          seen: [seen classes] class ids.
          unseen: [unseen classes] class ids.
          channels: C of the feature maps.
          side: regions are side x side.
          seed: torch's global generator starts from it and is left where building ends, because
            the published script draws its unbalanced batches from there.
          device: torch device.

        Raises:
          InputError: arrays whose shapes do not fit the dataset or one another.
        """
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
                f"config.model.rank={recipe.rank}: the published code factors the region score "
                "for sun only"
            )
        import torch

        torch.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        target = torch.device(device)
        vectors = torch.from_numpy(np.asarray(word_vectors, np.float32))
        embeddings = torch.from_numpy(np.asarray(class_embeddings, np.float32))
        # The script's flag is an integer, and it decides the dtype of an entry of the state_dict.
        bias = int(recipe.bias) if float(recipe.bias).is_integer() else recipe.bias
        with quiet():
            module = reference.model_class(
                dim_f=channels,
                dim_v=vectors.shape[1],
                dim_r=side,
                hidd_f=recipe.rank,
                init_w2v_att=vectors,
                att=embeddings,
                normalize_att=embeddings,
                seenclass=torch.from_numpy(np.asarray(seen, np.int64)).to(target),
                unseenclass=torch.from_numpy(np.asarray(unseen, np.int64)).to(target),
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
