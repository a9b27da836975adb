"""Leaves libtpu alone where it is installed for `dedn plan` and the machine has no TPU."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

_DEVICES = Path("/sys/bus/pci/devices")
_GOOGLE = "0x1ae0"
# Classes of Google's devices that are no TPUs: disks and network cards of its virtual machines.
_OTHERS = ("0x01", "0x02")


def has_tpu(devices: Path = _DEVICES) -> bool:
    """Whether a TPU is attached to this machine.

    Args:
      devices: the folder in which Linux lists PCI devices.
    """
    for vendor in devices.glob("*/vendor"):
        kind = vendor.with_name("class")
        if vendor.read_text().strip() != _GOOGLE or not kind.is_file():
            continue
        if not kind.read_text().startswith(_OTHERS):
            return True
    return False


def leave_out_absent_tpus() -> None:
    """Keeps JAX from starting libtpu, which warns and logs errors where there is no TPU.

    Whoever sets `JAX_PLATFORMS` or `JAX_FORCE_TPU_INIT` has asked for what they get. To be called
    before JAX is first used.
    """
    asked = os.environ.get("JAX_PLATFORMS") or "JAX_FORCE_TPU_INIT" in os.environ
    if asked or importlib.util.find_spec("libtpu") is None or has_tpu():
        return
    from jax.extend.backend import register_backend_factory

    # A platform without a client is passed over.
    register_backend_factory("tpu", lambda: None, fail_quietly=True)
