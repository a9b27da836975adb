"""The whole train step, from a batch in memory to updated parameters: published code and ours.

  python -m benchmarks.train_step --reference-dir=DIR [--recipe=cub_gzsl] [--channels=1024]
      [--side=7] [--classes=75,25] [--rounds=15] [--json=OUT]

Both sides get the same weights and batches and take turns, so that noise hits both alike. The
published step normalises its features itself; ours is timed on features normalised when they were
loaded, as training does, and once more with the normalisation counted in. Without
`--reference-dir` only ours is timed. The peak is a float32 matrix product measured between rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.arguments import integers, positive
from benchmarks.common import environment, quartiles, step_flops
from dedn_jax.compare import OurSide, build_published
from dedn_jax.config import load_config
from dedn_jax.data.features import normalize
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.interop.problem import random_problem

_PEAK_SIZE = 3072


def _timed(call: Callable[[Any], Any], argument: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(argument))
    return 1e3 * (time.perf_counter() - start)


def measure(
    recipe: str,
    reference_dir: Path | None,
    channels: int,
    side: int,
    classes: tuple[int, int],
    rounds: int,
) -> dict[str, Any]:
    """Times all sides in turn; milliseconds per step, and the matrix-product peak in FLOP/s."""
    config = load_config(recipe)
    problem = random_problem(config, channels=channels, side=side, batches=2, classes=classes)
    theirs = build_published(reference_dir, config, problem) if reference_dir else None
    ours = OurSide(config, problem, theirs.params() if theirs else None)
    batches = [ours.batch(*pair) for pair in problem.batches]
    square = jnp.asarray(np.random.default_rng(0).random((_PEAK_SIZE, _PEAK_SIZE), np.float32))
    product = jax.jit(lambda x: x @ x).lower(square).compile()

    def with_normalisation(index: int) -> None:
        features, _ = problem.batches[index]
        flat = features.reshape(*features.shape[:2], -1)
        ours.step(batches[index]._replace(inputs=jnp.asarray(normalize(flat, np.float32))))

    calls: dict[str, Callable[[int], Any]] = {}
    if theirs:
        theirs.make_optimizer()
        calls["published"] = lambda i: theirs.step(*problem.batches[i]).item()
    calls["ours"] = lambda i: ours.step(batches[i])
    calls["ours, normalising"] = with_normalisation
    times: dict[str, list[float]] = {name: [] for name in calls}
    products = []
    for turn in range(rounds + 2):  # the first two turns warm up
        for name, call in calls.items():
            elapsed = _timed(call, turn % 2)
            if turn >= 2:
                times[name].append(elapsed)
        products.append(_timed(product, square))
    flops = step_flops(
        config.train.batch_size,
        len(problem.word_vectors),
        channels,
        side * side,
        problem.word_vectors.shape[1],
    )
    peak = 2.0 * _PEAK_SIZE**3 / (1e-3 * median(products))
    rows: dict[str, dict[str, Any]] = {
        name: {
            "median_ms": median(values),
            "quartiles_ms": quartiles(values),
            "peak_share": flops / (1e-3 * median(values)) / peak,
        }
        for name, values in times.items()
    }
    report = {
        "environment": environment(),
        "problem": problem.description,
        "rounds": rounds,
        "gflop": flops / 1e9,
        "peak_gflop_per_s": peak / 1e9,
        "sides": rows,
    }
    if "published" in rows:
        base = rows["published"]["median_ms"]
        report["ratio"] = {name: base / row["median_ms"] for name, row in rows.items()}
    return report


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [
        report["environment"],
        report["problem"],
        f"{report['gflop']:.1f} GFLOP a step in matrix products; measured peak "
        f"{report['peak_gflop_per_s']:.0f} GFLOP/s",
        f"{'':<20}{'median':>10}{'quartiles':>20}{'of peak':>10}{'ratio':>8}",
    ]
    for name, row in report["sides"].items():
        low, high = row["quartiles_ms"]
        ratio = report.get("ratio", {}).get(name)
        lines.append(
            f"{name:<20}{row['median_ms']:7.0f} ms{low:11.0f} - {high:.0f} ms"
            f"{100 * row['peak_share']:9.0f}%" + (f"{ratio:8.2f}" if ratio else "")
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference-dir", type=Path, help="a checkout of zjrao/DEDN")
    parser.add_argument("--recipe", default="cub_gzsl", help="a published recipe")
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--side", type=int, default=7, help="regions are side x side")
    parser.add_argument("--classes", default="75,25", help="seen,unseen")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    seen, unseen = integers("--classes", args.classes, 2)
    report = measure(
        args.recipe,
        args.reference_dir,
        positive("--channels", args.channels),
        positive("--side", args.side),
        (positive("--classes", seen), positive("--classes", unseen)),
        positive("--rounds", args.rounds),
    )
    print(table(report))
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"train_step: {error}")
