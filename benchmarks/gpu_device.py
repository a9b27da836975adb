"""What JAX finds on this machine, as JSON; `benchmarks.gpu` runs it before it measures anything.

It imports all that the parts need: what is missing or broken shows in seconds.
"""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version

import jax

from benchmarks.common import environment
from benchmarks.gpu_parts import PARTS


def nvidia_smi(*fields: str) -> str:
    """What the driver says of the GPUs, one after another; "" where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if found.returncode else found.stdout.strip().replace("\n", "; ")


def main() -> None:
    """Prints one line."""
    driver = nvidia_smi("driver_version")
    weights = {name: weight for name, (_, weight) in PARTS.items()}
    about = {
        "platform": jax.devices()[0].platform,
        "gpus": nvidia_smi("name"),
        "note": f"{environment()}, jaxlib {version('jaxlib')}, driver {driver or 'unknown'}",
        "weights": weights,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
