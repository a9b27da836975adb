"""DEDN, the Dual Expert Distillation Network for generalized zero-shot learning, in JAX.

The names below are the public API; docs/how-to/python.md shows them at work. They are imported when
they are first used: `import dedn_jax` does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedn_jax.config import base_config, load_config
    from dedn_jax.data.dataset import GZSLDataset
    from dedn_jax.data.load import load_dataset
    from dedn_jax.errors import InputError
    from dedn_jax.inference.export.published import (
        export_published_weights,
        read_published_weights,
    )
    from dedn_jax.inference.report.write import write_report
    from dedn_jax.inference.run import Run, open_run, train
    from dedn_jax.model import distillation, losses
    from dedn_jax.model.experts import DualExpert
    from dedn_jax.sweep.run import run_sweep
    from dedn_jax.training import metrics
    from dedn_jax.training.callbacks import Callback
    from dedn_jax.training.interrupt import Interrupted, StopRequest

from dedn_jax.version import __version__

# Where each public name is: in a module, or a module itself.
_HOMES = {
    "Callback": "dedn_jax.training.callbacks",
    "DualExpert": "dedn_jax.model.experts",
    "GZSLDataset": "dedn_jax.data.dataset",
    "InputError": "dedn_jax.errors",
    "Interrupted": "dedn_jax.training.interrupt",
    "Run": "dedn_jax.inference.run",
    "StopRequest": "dedn_jax.training.interrupt",
    "base_config": "dedn_jax.config",
    "distillation": "dedn_jax.model.distillation",
    "export_published_weights": "dedn_jax.inference.export.published",
    "load_config": "dedn_jax.config",
    "load_dataset": "dedn_jax.data.load",
    "losses": "dedn_jax.model.losses",
    "metrics": "dedn_jax.training.metrics",
    "open_run": "dedn_jax.inference.run",
    "read_published_weights": "dedn_jax.inference.export.published",
    "run_sweep": "dedn_jax.sweep.run",
    "train": "dedn_jax.inference.run",
    "write_report": "dedn_jax.inference.report.write",
}

__all__ = [
    "Callback",
    "DualExpert",
    "GZSLDataset",
    "InputError",
    "Interrupted",
    "Run",
    "StopRequest",
    "__version__",
    "base_config",
    "distillation",
    "export_published_weights",
    "load_config",
    "load_dataset",
    "losses",
    "metrics",
    "open_run",
    "read_published_weights",
    "run_sweep",
    "train",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(home)
    value = module if home.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
