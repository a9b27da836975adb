"""Runs the published PyTorch code (zjrao/DEDN) from a checkout the user names.

The benchmarks and parity tests measure against that code itself. It is never copied or installed:
`load_reference` imports it from its folder and leaves `sys.modules` and `sys.path` as they were.
`dedn_jax.interop.published_model` drives its model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from dedn_jax.errors import InputError
from dedn_jax.paths import local_path
from dedn_jax.torch_files import require_torch

if TYPE_CHECKING:
    import torch

# Imported by the published files, but not used by what runs here. Those that are not installed are
# stubbed, so that a comparison does not need TensorFlow, torchvision and others.
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
# The published code's own top-level modules; their names are too general to stay in sys.modules.
_OWN_MODULES = ("core", "config", "global_setting", "utils", "dataset")


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The published code's files for one data set, and the margin `t` hard-coded in its loss."""

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
      groups: the group of each attribute (the published `indicator`).
      margin: `t`, subtracted from the true class's score by the margin-aware loss.
      train_script: the published training script.
    """

    dataset: str
    directory: Path
    model_class: type[torch.nn.Module]
    loader_class: type[Any]
    evaluate: Callable[..., tuple[float, float, float, float]]
    groups: Int64[np.ndarray, " attributes"]
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
            # PyTorch's compiler asks `find_spec` for it, which fails where there is none.
            module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            module.__path__ = []  # makes it a package, so that its submodules can be imported
            sys.modules[name] = module
        if parent is not None:
            setattr(parent, parts[end - 1], module)
        parent = module


@contextlib.contextmanager
def _import_from(directory: Path) -> Iterator[None]:
    """Imports resolve to `directory`, and to stubs of missing packages; undone on exit."""
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
      InputError: no such dataset, a folder that is not such a checkout, or torch is not installed.
    """
    require_torch()
    layout = _LAYOUTS.get(dataset)
    if layout is None:
        raise InputError(f"--dataset: {dataset!r} is not one of {', '.join(_LAYOUTS)}")
    directory = local_path(reference_dir).resolve()
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
