"""`dedn info`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
import json
from typing import Any


def add_info(jobs: Any) -> None:
    """Adds `dedn info` to the jobs."""
    info = jobs.add_parser(
        "info",
        help="versions, devices, caches, and extras that are installed",
        description="Shows versions, the devices that JAX finds, caches and their sizes, and which "
        "extras are installed. What is missing or damaged is a line of its own.",
    )
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=_info, overrides=False)


def _info(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.installation import installation, installation_text

    found = installation()
    print(json.dumps(found, indent=2) if args.json else installation_text(found))
