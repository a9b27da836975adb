"""Configs that earlier versions wrote into work directories, in today's fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedn_jax.config_ranges import BACKBONES
from dedn_jax.errors import InputError, one_line

# What earlier versions called values of `data.on_device`.
_RENAMED = {"always": "replicated", "cut": "sharded"}


def upgraded(saved: Any, file: Path) -> dict[str, Any]:
    """A saved config with fields and values as they are called today; the rest as it is.

    Args:
      saved: what `file` holds as a config, which may be anything; it is not changed.
      file: for messages.

    Raises:
      InputError: it is no config.
    """
    try:
        return _upgraded(saved)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise no_config(file, error) from error


def no_config(file: Path, error: Exception) -> InputError:
    """What is said of a file whose config cannot be used."""
    return InputError(f"{file}: not a config of this version: {one_line(error)}")


def _upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    now = dict(saved)
    if "data" in now:
        data = dict(now["data"])
        if data.get("on_device") in _RENAMED:
            data["on_device"] = _RENAMED[data["on_device"]]
        now["data"] = data
    backbone = now.get("backbone", {})
    # Of runs on features any name was taken, and none was used.
    if now.get("data", {}).get("source") == "features" and backbone.get("name") not in BACKBONES:
        now["backbone"] = {name: value for name, value in backbone.items() if name != "name"}
    if "loss" in now:
        now["loss"] = _with_distillation(dict(now["loss"]))
    return now


def _with_distillation(loss: dict[str, Any]) -> dict[str, Any]:
    """`agreement_weight` and the `kl_` fields, which were added up, as `distillation`."""
    if "agreement_weight" not in loss:
        return loss
    agreement, kl = loss.pop("agreement_weight"), loss.pop("kl_weight", 0.0)
    temperature = loss.pop("kl_temperature", 1.0)
    stop_gradient = loss.pop("kl_stop_gradient", False)
    sections: dict[str, Any] = {}
    if agreement:
        sections["agreement"] = {"weight": agreement}
    if kl:
        sections["kl"] = {
            "weight": kl,
            "temperature": temperature,
            "stop_gradient": stop_gradient,
        }
    loss["distillation"] = {"name": "+".join(sections) or "none", **sections}
    return loss
