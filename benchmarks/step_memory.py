"""Peak host memory of the train step: the published code, the compiled PyTorch port and ours.

  python -m benchmarks.step_memory --reference-dir=DIR [--sizes=small,cub,sun,awa2]
      [--channels=1024] [--side=7] [--classes=75,25] [--steps=3] [--json=OUT]

Each side runs alone in a process of its own, with two batches at hand. MB of resident memory:
`imports`, when the libraries are loaded; `built`, just before the first step, with features and
weights; `peak`, in the steps after two that compile and warm up; `of steps`, peak less built. Where
the system cannot reset the peak (only Linux can), it is that of the whole process, and `built` is
the peak so far. Without `--reference-dir` the published code is left out, without PyTorch the port.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import Row, text_table
from benchmarks.input_pipeline import peak_memory
from benchmarks.step_sides import AT_HAND, OURS, Step, ours_at_hand, published_at_hand
from benchmarks.step_sizes import MadeUp, Size, add_flags, make_up, sizes_of
from benchmarks.train_step import COMPILED, has_torch, versions
from dedn_jax.errors import one_line
from dedn_jax.interop.compare import build_published
from dedn_jax.interop.convert import state_to_nested
from dedn_jax.interop.our_side import OurSide

_COLUMNS = ("size", "side", "imports", "built", "peak", "of steps")
_WARM_UP = 2


def _resident() -> float:
    """Resident memory of this process, MB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1e3
    except OSError:
        return peak_memory()


def _trim() -> None:
    """Returns freed memory to the system, so that the memory of compiling is not counted."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def _restart_peak() -> None:
    """Resets the peak that `peak_memory` reads."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _step(side: str, made: MadeUp, reference_dir: Path | None) -> Step:
    config, problem = made.config, made.problem
    if side == OURS:
        return ours_at_hand(OurSide(config, problem), made)
    if side == COMPILED:
        from benchmarks.compiled_port import port_step

        if reference_dir:
            params = build_published(reference_dir, config, problem).params()
        else:
            params = state_to_nested(OurSide(config, problem).params)
        return port_step(config, problem, params, compiled=True)
    assert reference_dir is not None
    return published_at_hand(build_published(reference_dir, config, problem), made)


def alone(side: str, size: Size, reference_dir: Path | None, steps: int) -> Row:
    """Builds one side and runs its steps; to be called in a process of its own."""
    if side != OURS:
        importlib.import_module("torch")
    imports = _resident()
    made = make_up(size, most_bytes=0)
    # The features of all images are freed: the batches are copies.
    made = made._replace(features=made.features[:0])
    with jax.default_matmul_precision(made.config.model.precision):
        step = _step(side, made, reference_dir)
        _trim()
        built = _resident()
        try:
            for number in range(_WARM_UP):
                step(number)
        except Exception as error:  # a compiler, or its absence, may raise anything
            if side != COMPILED:
                raise
            return {"size": size.name, "side": side, "error": one_line(error)}
        _trim()
        _restart_peak()
        for number in range(steps):
            step(_WARM_UP + number)
    peak = peak_memory()
    return {
        "size": size.name,
        "side": side,
        "imports_mb": imports,
        "built_mb": built,
        "peak_mb": peak,
        "steps_mb": peak - built,
    }


def measure(sizes: list[Size], reference_dir: Path | None, steps: int) -> dict[str, Any]:
    """A row for every size and side."""
    sides = [AT_HAND] * bool(reference_dir) + [COMPILED] * has_torch() + [OURS]
    rows = []
    for size in sizes:
        for side in sides:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as process:
                rows.append(process.submit(alone, side, size, reference_dir, steps).result())
    return {"environment": versions(), "steps": steps, "rows": rows}


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    rows = [
        {**row, **{c: row.get(f"{c.removeprefix('of ')}_mb") for c in _COLUMNS[2:]}}
        for row in report["rows"]
    ]
    failed = [row for row in rows if "error" in row]
    return "\n".join(
        [
            report["environment"],
            "resident memory in MB",
            *text_table(rows, _COLUMNS),
            *(f"left out: {row['size']}, {row['side']}: {row['error']}" for row in failed),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--reference-dir", type=Path, help="a checkout of zjrao/DEDN")
    parser.add_argument("--steps", type=int, default=3, help="after warming up")
    args = parser.parse_args(argv)
    report = measure(sizes_of(args), args.reference_dir, positive("--steps", args.steps))
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("step_memory", main)
