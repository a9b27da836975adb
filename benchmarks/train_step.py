"""The whole train step, to updated parameters: the published code, a PyTorch port and ours.

  python -m benchmarks.train_step --reference-dir=DIR [--sizes=small,cub,sun,awa2]
      [--channels=1024] [--side=7] [--classes=75,25] [--rounds=15] [--bfloat16] [--json=OUT]

All sides start from the same weights, and the losses of their first two steps must agree. They are
interleaved, so that noise affects all alike; PyTorch's are on the CPU. With the batch at hand, the
published code and the port normalise it in the step; ours is timed on features normalised when they
were loaded, as training does, and with the normalisation counted in. "indexing" takes the batch out
of features in host memory by the code that trains, the published loader or ours, ours without its
reading ahead; "features on the device" runs `config.train.steps_per_call` steps in a call. Without
`--reference-dir` the published code is left out, without PyTorch the port. `--bfloat16` has ours
again in bfloat16, on a processor that multiplies it; its losses may differ by 2 %.

ms: of a step, median and quartiles of all rounds. ratio: how many times faster than `to`. % of
peak: of a float32 matrix product, which is measured between rounds, and so is a copy. Needs an idle
machine: PyTorch's threads wait for each other at every operation, so that other load slows its
sides several times more than ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax

from benchmarks.arguments import positive, run_benchmark
from benchmarks.common import (
    Peaks,
    Row,
    environment,
    peaks,
    peaks_line,
    spread,
    step_flops,
    text_table,
)
from benchmarks.step_sides import (
    AT_HAND,
    INDEXING,
    Side,
    our_bfloat16_sides,
    our_sides,
    published_at_hand,
    published_indexing,
)
from benchmarks.step_sizes import MadeUp, Size, add_flags, make_up, sizes_of
from dedn_jax.errors import InputError, one_line
from dedn_jax.files import write_json
from dedn_jax.interop.compare import build_published
from dedn_jax.interop.convert import state_to_nested
from dedn_jax.interop.our_side import OurSide
from dedn_jax.model.kernels.processor import multiplies_bfloat16

EAGER, COMPILED = "port, eager", "port, torch.compile"
_COLUMNS = ("side", "ms", "low", "high", "% of peak", "ratio", "to", "loss")
_CHECKED = 2  # steps, which warm up as well
_PEAK_SIZE, _COPIED = 3072, 2**26


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def versions() -> str:
    """The environment, with PyTorch where it is installed."""
    if not has_torch():
        return environment()
    import torch

    return f"{environment()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def make_sides(made: MadeUp, reference_dir: Path | None, bfloat16: bool) -> dict[str, Side]:
    """All sides that can run here, by name, from the same weights."""
    config, problem = made.config, made.problem
    sides, params = {}, None
    if reference_dir:
        # A model for each, since steps change its weights.
        model, other = (build_published(reference_dir, config, problem) for _ in range(2))
        params = model.params()
        sides[AT_HAND] = Side(published_at_hand(model, made), AT_HAND)
        sides[INDEXING] = Side(published_indexing(other, made), INDEXING, same_batches=False)
    ours = OurSide(config, problem, params)
    if has_torch():
        from benchmarks.compiled_port import port_step

        params = params or state_to_nested(ours.params)
        for name, compiled in ((EAGER, False), (COMPILED, True)):
            sides[name] = Side(port_step(config, problem, params, compiled), AT_HAND)
    sides |= our_sides(ours, made)
    if bfloat16:
        sides |= our_bfloat16_sides(made, params or state_to_nested(ours.params))
    return sides


def first_losses(sides: dict[str, Side]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The first steps of every side: their losses, and what failed to compile and why.

    Raises:
      InputError: names a side whose losses are not those of the first.
    """
    losses, failed = {}, {}
    for name, side in sides.items():
        try:
            losses[name] = [side.step(number) for number in range(_CHECKED)]
        except Exception as error:  # a compiler, or its absence, may raise anything
            if name != COMPILED:
                raise
            failed[name] = one_line(error)
    same = {name: found for name, found in losses.items() if sides[name].same_batches}
    first, expected = next(iter(same.items()))
    for name, found in same.items():
        for number, (x, y) in enumerate(zip(found, expected, strict=True)):
            if not abs(x - y) <= sides[name].tolerance * abs(y):
                raise InputError(f"{name}: loss {x:.8g} in step {number}, {first} has {y:.8g}")
    return losses, failed


def _timed(call: Callable[[int], Any], turn: int) -> float:
    start = time.perf_counter()
    call(turn)
    return time.perf_counter() - start


def measure(
    size: Size, reference_dir: Path | None, rounds: int, bfloat16: bool = False
) -> dict[str, Any]:
    """A row for every side of one size; left out are those that cannot run, and why."""
    made = make_up(size)
    batch, attributes = made.sampler.size, made.problem.class_embeddings.shape[1]
    with jax.default_matmul_precision(made.config.model.precision):
        sides = make_sides(made, reference_dir, bfloat16)
        losses, left_out = first_losses(sides)
        times: dict[str, list[float]] = {name: [] for name in losses}
        found = []
        for turn in range(_CHECKED, rounds + _CHECKED):
            for name, values in times.items():
                side = sides[name]
                values.append(1e3 * _timed(side.call or side.step, turn) / side.steps)
            found.append(peaks("float32", 1, _PEAK_SIZE, _COPIED))
    if not has_torch():
        left_out["port"] = "PyTorch is not installed: pip install 'dedn-jax[torch]'"
    flops = step_flops(
        batch, attributes, size.channels, size.side**2, made.problem.word_vectors.shape[1]
    )
    peak = Peaks.median(found)
    medians = {name: median(values) for name, values in times.items()}
    rows = []
    for name, values in times.items():
        base = medians.get(sides[name].base)
        rows.append(
            {
                "side": name,
                **spread(values),
                "steps_per_call": sides[name].steps,
                "peak_share": flops / (1e-3 * medians[name]) / peak.product,
                "ratio": base and base / medians[name],
                "to": base and sides[name].base,
                "losses": losses[name],
            }
        )
    return {
        "size": size.name,
        "problem": made.problem.description,
        "rounds": rounds,
        "gflop": flops / 1e9,
        "batch_mb": batch * made.features[0].nbytes / 1e6,
        **peak.numbers(),
        "rows": rows,
        "left_out": left_out,
    }


def table(report: dict[str, Any]) -> str:
    """The report of one size as text."""
    rows: list[Row] = [
        {
            **row,
            "ms": row["median"],
            "% of peak": 100 * row["peak_share"],
            "loss": f"{row['losses'][0]:.6f}",
        }
        for row in report["rows"]
    ]
    return "\n".join(
        [
            f"{report['size']}: {report['problem']}",
            f"a step: {report['gflop']:.1f} GFLOP in matrix products, a batch of "
            f"{report['batch_mb']:.3g} MB; {peaks_line(report)}",
            *text_table(rows, _COLUMNS),
            *(f"left out: {name}: {why}" for name, why in report["left_out"].items()),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints, size by size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--reference-dir", type=Path, help="a checkout of zjrao/DEDN")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bfloat16", action="store_true", help="ours in bfloat16 as well")
    args = parser.parse_args(argv)
    if args.bfloat16 and not multiplies_bfloat16():
        raise InputError("--bfloat16: this processor has no instructions for it")
    sizes, rounds = sizes_of(args), positive("--rounds", args.rounds)
    load = os.getloadavg()[0]
    report: dict[str, Any] = {"environment": versions(), "load_average": load, "sizes": []}
    print(f"{report['environment']}; load average {load:.1f} before")
    for size in sizes:
        report["sizes"].append(measure(size, args.reference_dir, rounds, args.bfloat16))
        print("\n" + table(report["sizes"][-1]), flush=True)
        if args.json:  # after every size, so that a later failure loses nothing
            write_json(args.json, report)


if __name__ == "__main__":
    run_benchmark("train_step", main)
