"""`dedn plan`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from dedn_jax.cli.arguments import add_config, chosen_config, output_flag
from dedn_jax.errors import InputError


def add_plan(jobs: Any) -> None:
    """Adds `dedn plan` to the jobs."""
    plan = jobs.add_parser(
        "plan",
        help="compile a recipe for TPUs or GPUs without having them: memory, traffic, time",
        description="Compiles the train step, and for recipes with a backbone the extraction "
        "step, for TPU slices or GPUs without having one. Sizes: flags, else the data set's, else "
        "the published ones of the recipe. Needs libtpu, or XLA for CUDA.",
    )
    add_config(plan)
    plan.add_argument(
        "--topology", help="TPU slices, such as v5e:4x8,v4:2x2x4 or v5litepod-256,v5p-16"
    )
    plan.add_argument("--device", help="GPUs: h100, h200; what cannot be timed is not timed")
    for name, help_text in (
        ("images", "to train on"),
        ("classes", "seen and unseen"),
        ("attributes", "of a class"),
        ("channels", "of feature maps"),
        ("regions", "of feature maps"),
        ("groups", "of attributes, of equal size"),
        ("picture", "side of pictures, pixels"),
        ("scale", "multiplies classes, attributes and batch"),
    ):
        plan.add_argument(f"--{name}", type=int, help=help_text)
    plan.add_argument(
        "--timeout", type=float, default=1800, help="seconds for each compilation (default: 1800)"
    )
    plan.add_argument(
        "--price", help="of a chip-hour: a number, or one for each chip, such as v5e=1.2,v5p=4.2"
    )
    plan.add_argument("--json", type=output_flag, help="write the numbers here as well")
    plan.add_argument("--platform", choices=("cpu",), help=argparse.SUPPRESS)
    plan.set_defaults(run=_plan, overrides=True)


def _plan(args: argparse.Namespace, overrides: list[str]) -> None:
    from pathlib import Path

    from dedn_jax.files import check_output, write_json
    from dedn_jax.plan.planner import cpu_slice, plan
    from dedn_jax.plan.report import plan_text
    from dedn_jax.plan.sizes import FLAGS, find_sizes

    if args.json:
        check_output(args.json)
    if not args.timeout > 0:
        raise InputError(f"--timeout={args.timeout:g}, expected more than 0 seconds")
    config = chosen_config(args, overrides)
    slices = [cpu_slice()] if args.platform == "cpu" else _slices(args)
    flags = {name: getattr(args, name) for name in FLAGS}
    sizes = find_sizes(config, Path(args.config).stem, flags)
    report = plan(
        config,
        sizes,
        slices,
        timeout=args.timeout,
        platform=args.platform,
        say=lambda text: print(text, file=sys.stderr),
        prices=_prices(args.price, list(dict.fromkeys(on.chip.name for on in slices))),
    )
    print(plan_text(report))
    if args.json:
        write_json(args.json, report)


def _slices(args: argparse.Namespace) -> list[Any]:
    """The slices of `--topology`, and each GPU of `--device`."""
    from dedn_jax.plan.chips import parse_slice
    from dedn_jax.plan.gpus import parse_device

    found = [
        parse(name)
        for text, parse in ((args.topology, parse_slice), (args.device, parse_device))
        for name in (text.split(",") if text is not None else ())
    ]
    if not found:
        raise InputError("dedn plan: give --topology, such as v5e:4x8, or --device, such as h100")
    return list({on.name: on for on in found}.values())


def _prices(text: str | None, chips: list[str]) -> dict[str, float]:
    """The price of a chip-hour by chip.

    Raises:
      InputError: no number, or one for a chip that is not planned for.
    """
    if text is None:
        return {}
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf or (name and name not in chips) or (not name and "," in text):
            raise InputError(
                f"--price={text!r}, expected a number or one for each chip of {', '.join(chips)}, "
                f"such as {chips[0]}=1.2"
            )
        found |= dict.fromkeys([name] if name else chips, value)
    return found
