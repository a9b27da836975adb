"""`dedn compare`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
from typing import Any

from dedn_jax.cli.arguments import output_flag, path_flag
from dedn_jax.errors import InputError


def add_compare(jobs: Any) -> None:
    """Adds `dedn compare` to the jobs."""
    compare = jobs.add_parser(
        "compare",
        help="run the published PyTorch code beside ours and report the differences",
        description="Runs a checkout of the published code (zjrao/DEDN) beside ours on the same "
        "weights and batches: outputs, losses, gradients, parameters after some steps, step times.",
    )
    compare.add_argument("--reference-dir", required=True, type=path_flag, help="the checkout")
    compare.add_argument("--recipe", default="cub_gzsl", help="which recipe (default: cub_gzsl)")
    compare.add_argument("--features", type=path_flag, help="published HDF5; default: random ones")
    compare.add_argument("--channels", type=int, default=1024, help="of random features")
    compare.add_argument("--side", type=int, default=7, help="of random features: side x side")
    compare.add_argument("--steps", type=int, default=20, help="optimiser steps (default: 20)")
    compare.add_argument(
        "--float64",
        action="store_true",
        help="also run the published code in float64, to see how far its own rounding carries it",
    )
    compare.add_argument("--json", type=output_flag, help="write the report here as well")
    compare.set_defaults(run=_compare, overrides=True)


def _compare(args: argparse.Namespace, overrides: list[str]) -> None:
    from dedn_jax.config import load_config
    from dedn_jax.files import check_output, write_json
    from dedn_jax.interop.compare import compare, comparison_text

    if args.json:
        check_output(args.json)
    for name in ("steps", "channels", "side"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}={getattr(args, name)}, expected at least 1")
    report = compare(
        args.reference_dir,
        load_config(args.recipe, overrides),
        features=args.features,
        steps=args.steps,
        channels=args.channels,
        side=args.side,
        float64=args.float64,
    )
    print(comparison_text(report))
    if args.json:
        write_json(args.json, report)
