"""`dedn predict`: the whole of it, the backbone alone and the reading of pictures alone.

  python -m benchmarks.predict --workdir=RUN PICTURE|FOLDER... [--batch=16] [--rounds=5]
      [--json=OUT] [--config.backbone.weights=FILE ...]

The whole reads, decodes and resizes the files, computes backbone and experts, chooses the classes
and makes the lines of the table; models are loaded and compiled before. The backbone computes the
same pictures, decoded before, in the same batches. Reading ends with the resized pictures. All
three take turns, so that noise hits them alike, and `of_backbone` is the median over rounds of a
speed by the backbone's in the same round. On a CPU reading wants the same cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import Row, environment, spread, text_table
from dedn_jax.data.pipeline import read_ahead
from dedn_jax.inference.picture_files import find_pictures
from dedn_jax.inference.predict import predict
from dedn_jax.inference.run import Run, open_run
from dedn_jax.inference.scorer import PictureScorer
from dedn_jax.model.picture_model import backbone_maps

_TOP = 5
Work = Callable[[], object]


def _backbone(scorer: PictureScorer, pictures: np.ndarray) -> Work:
    definition, values = nnx.split(scorer.model.backbone)
    size = scorer.batch_size

    @jax.jit
    def compute(values: nnx.State, batch: jax.Array) -> jax.Array:
        return backbone_maps(nnx.merge(definition, values), batch)

    def work() -> None:
        results = [
            compute(values, pictures[start : start + size])
            for start in range(0, len(pictures), size)
        ]
        jax.block_until_ready(results)

    return work


def measure(run: Run, files: list[str], batch: int, rounds: int) -> dict[str, Any]:
    """Pictures a second of each; files that do not fill a batch are left out."""
    scorer = PictureScorer(run, batch)
    files = files[: len(files) // batch * batch] or files
    candidates, mixing = run.candidates, run.mixing()
    pictures = np.stack([scorer.decode(file) for file in files])

    def whole() -> None:
        for predictions in predict(scorer, files, candidates, mixing, top=_TOP):
            str(predictions)

    sides: dict[str, Work] = {
        "predict": whole,
        "backbone alone": _backbone(scorer, pictures),
        "reading alone": lambda: list(read_ahead(files, scorer.decode, 2 * batch)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):  # the first warms up
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if turn:
                speeds[name].append(len(files) / (time.perf_counter() - start))
    rows: list[Row] = []
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(values, speeds["backbone alone"], strict=True)]
        rows.append({"name": name, **spread(values), "of_backbone": median(ratios)})
    return {
        "environment": environment(),
        "problem": f"{len(files)} pictures to {scorer.transform.crop} x {scorer.transform.crop}, "
        f"{type(scorer.model.backbone).__name__}, {len(candidates.attribute_names)} attributes, "
        f"{len(candidates.names)} classes, batch {batch}, {rounds} rounds",
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    columns = ("name", "median", "low", "high", "of_backbone")
    lines = [report["environment"], report["problem"], "pictures/s"]
    return "\n".join([*lines, *text_table(report["rows"], columns)])


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="of a finished run")
    parser.add_argument("pictures", nargs="+", type=Path, help="files or folders")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args, overrides = parser.parse_known_args(argv)
    run = open_run(args.workdir, overrides)
    batch, rounds = positive("--batch", args.batch), positive("--rounds", args.rounds)
    report = measure(run, find_pictures(args.pictures), batch, rounds)
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("predict", main)
