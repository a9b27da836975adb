"""Python in a process of its own, with several simulated devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# XLA_FLAGS that compile without LLVM's optimisations, in half the time.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run_on_devices(
    *arguments: str, devices: int = 8, quick: bool = False
) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` wrote, which has to succeed.

    Args:
      arguments: such as `-m`, and the name of a module of tests.
      devices: how many CPU devices JAX has.
      quick: compile without LLVM's optimisations, in half the time.
    """
    flags = f"--xla_force_host_platform_device_count={devices}"
    if quick:
        flags += f" {QUICK}"
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
