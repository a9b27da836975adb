"""Python in a process of its own, with several simulated devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def xla_flags(devices: int = 1, *, quick: bool = True) -> str:
    """`XLA_FLAGS` for a process of its own: those of this one, and more.

    Args:
      devices: how many CPU devices JAX has.
      quick: compile without LLVM's optimisations, in half the time.
    """
    inherited = os.environ.get("XLA_FLAGS", "")
    count = f"--xla_force_host_platform_device_count={devices}"
    return f"{inherited} {count} {_QUICK if quick else ''}".strip()


def run_on_devices(
    *arguments: str, devices: int = 8, quick: bool = False
) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` wrote, which has to succeed.

    Args:
      arguments: such as `-m`, and the name of a module of tests.
      devices, quick: see `xla_flags`.
    """
    flags = xla_flags(devices, quick=quick)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
