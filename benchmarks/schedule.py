"""Scheduled time of the train step on TPUs that are not there, beside the floor.

  python -m benchmarks.schedule [--topologies=v5e:1x1,v5e:4x8,...] [--batches=50,400,1600]
      [--dtype=bfloat16] [--precision=DTYPE] [--kernel=auto] [--state=auto]
      [--recipe=cub_gzsl] [--only=step|attention] [--timeout=1800]
      [--baseline=BEFORE.json] [--json=OUT]

Needs libtpu (`pip install 'dedn-jax[tpu-plan]'`), no TPU. Each row is a program that libtpu
compiles, a step of the recipe on the published sizes or attention pooling alone with the gradient
of its rows, for the images that a chip has of the batch. Its time is that of the compiler's own
schedule (`dedn_jax.plan.schedule`), the floor what no program can avoid (`dedn_jax.plan.floor`).
Nothing is measured. With `--baseline` the report of an earlier run stands beside it.
`--topologies=h100` needs XLA for CUDA (`dedn-jax[gpu-plan]`); its times are rules of thumb
(`dedn_jax.plan.planner.estimate`), its operations launches.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from typing import Any

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from benchmarks.common import Row, text_table
from dedn_jax.cli.arguments import path_flag
from dedn_jax.config import load_config
from dedn_jax.config_ranges import STATES
from dedn_jax.errors import InputError
from dedn_jax.files import check_output, read_json, write_json
from dedn_jax.model.kernels import KERNELS
from dedn_jax.plan.chips import Slice, parse_slice
from dedn_jax.plan.compile import compile_program
from dedn_jax.plan.gpus import GPUS, parse_device
from dedn_jax.plan.planner import Planner, padded
from dedn_jax.plan.sizes import find_sizes

TOPOLOGIES = "v5e:1x1,v5e:4x8,v5e:16x16,v5p:1x1x1,v5p:2x4x4,v5p:4x8x8,v6e:1x1,v6e:4x8,v6e:16x16"
_KEY = ("program", "topology", "batch", "dtype", "precision")
_PARTS = ("compute", "memory", "exchange", "latency")
_COLUMNS = (
    *("program", "slice", "batch", "images", "floor ms", "bound", "before ms", "ms", "/ floor"),
    *("is bound by", *_PARTS, "HBM MB", "temp MB", "operations"),
)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One row for every program.

    Raises:
      InputError: none of them was compiled.
    """
    report: dict[str, Any] = {"recipe": args.recipe, "kernel": args.kernel, "rows": []}
    slices = [
        parse_device(name) if name in GPUS else parse_slice(name)
        for name in args.topologies.split(",")
    ]
    batches = [positive("--batches", batch) for batch in integers("--batches", args.batches)]
    for on, batch, program in itertools.product(slices, batches, ("step", "attention")):
        if args.only in (None, program):
            report["rows"].append(_compiled(args, program, on, batch))
            if args.json:  # a compilation takes up to minutes: what is done stays
                write_json(args.json, report)
    if all("error" in row for row in report["rows"]):
        raise InputError(report["rows"][-1]["error"])
    return report


def _compiled(args: argparse.Namespace, program: str, on: Slice, batch: int) -> Row:
    """A row; where the compiler fails, what it says in place of figures."""
    precision = args.precision or args.dtype
    row: Row = dict(zip(_KEY, (program, on.name, batch, args.dtype, precision), strict=True))
    row["images"] = padded(batch, on.chips) // on.chips
    try:
        return row | _figures(args, program, on, row)
    except InputError as error:
        print(error, file=sys.stderr)
        return row | {"error": str(error)}


def _figures(args: argparse.Namespace, program: str, on: Slice, row: Row) -> Row:
    batch, precision = row["batch"], row["precision"]
    flags = {"train.batch_size": batch, "data.dtype": args.dtype, "data.path": "none"}
    flags |= {
        "model.precision": precision,
        "model.kernel": args.kernel,
        "distribution.state": args.state,
    }
    config = load_config(args.recipe, flags)
    planner = Planner(
        config, args.timeout, None, compile_program, lambda text: print(text, file=sys.stderr)
    )
    sizes = find_sizes(config, args.recipe, {})
    if program == "step":
        found = planner.train(sizes, on)
    else:
        found = planner.attention(dataclasses.replace(sizes, batch=row["images"]), on)
    needed = {"memory_needed": found["memory_needed"]}
    if "floor" not in found:
        return needed
    compiled = found["compiled"]
    return needed | {
        "residency": found.get("residency"),
        "temporaries": compiled["temporaries"],
        "collectives": compiled["collectives"],
        "floor": found["floor"],
        "schedule": found["schedule"],
        "estimate": found["estimate"],
        "launches": compiled.get("launches"),
        "seconds": found["step_seconds"],
        "bound": found["bound"],
    }


def table(report: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """The report as text, beside an earlier one."""
    earlier = {_key(row): row for row in (before or {"rows": []})["rows"]}
    columns = [c for c in _COLUMNS if before or c != "before ms"]
    rows = [_cells(row, earlier.get(_key(row), {})) for row in report["rows"]]
    lines = [
        f"{report['recipe']}, kernel {report['kernel']}; scheduled by libtpu, not measured; "
        "compute, memory, exchange and latency in ms, each as if alone"
    ]
    return "\n".join([*lines, *text_table(rows, columns)])


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _cells(row: Row, before: Row) -> Row:
    cells: Row = {"program": row["program"], "slice": row["topology"]}
    cells |= {"batch": row["batch"], "images": row["images"]}
    if "seconds" in before:
        cells["before ms"] = 1e3 * before["seconds"]
    if "seconds" not in row:
        return cells | {"is bound by": "not compiled" if "error" in row else "does not fit"}
    floor, times = row["floor"], row["schedule"] or row["estimate"]
    counted = row["schedule"] or row["launches"] | {"operations": row["launches"]["launches"]}
    words = [row["bound"]]
    if row["estimate"]:
        words.append("(estimate)")
    elif row["schedule"]["kernels"]:
        words.append("(kernels not scheduled)")
    cells |= {
        "floor ms": 1e3 * floor["seconds"],
        "bound": floor["bound"],
        "ms": 1e3 * row["seconds"],
        "/ floor": row["seconds"] / floor["seconds"],
        "is bound by": " ".join(words),
        "HBM MB": (counted["read"] + counted["written"]) / 1e6,
        "temp MB": row["temporaries"] / 1e6,
        "operations": counted["operations"],
    }
    return cells | {name: 1e3 * times[name] for name in _PARTS if name in times}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.schedule")
    parser.add_argument("--topologies", default=TOPOLOGIES)
    parser.add_argument("--batches", default="50,400,1600")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--precision", choices=("bfloat16", "tensorfloat32", "float32"))
    parser.add_argument("--kernel", default="auto", choices=KERNELS)
    parser.add_argument("--state", default="auto", choices=STATES)
    parser.add_argument("--recipe", default="cub_gzsl")
    parser.add_argument("--only", choices=("step", "attention"))
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--baseline", type=path_flag)
    parser.add_argument("--json", type=path_flag)
    args = parser.parse_args()
    if args.json:
        check_output(args.json)
    before = read_json(args.baseline) if args.baseline else None
    if before is not None and not isinstance(before.get("rows"), list):
        raise InputError(f"--baseline: {args.baseline}: not a report of this benchmark")
    report = measure(args)
    show_report(table(report, before), report, args.json)


if __name__ == "__main__":
    run_benchmark("schedule", main)
