"""From pictures to U, S, H: build, extract, train, evaluate, each as its command does it.

  python -m benchmarks.end_to_end [--set=demo] [--root=DIR] [--word-vectors=FILE]
      [--backbone=resnet18] [--weights=FILE] [--side=96] [--recipe=cub_gzsl] [--epochs=5]
      [--groups=single] [--rounds=3] [--json=OUT]

`--set` and `--root` are those of `dedn data build`; `demo` draws its pictures while it builds.
Without `--weights` a ResNet gets random ones, and accuracies say little. Every round runs all four
commands in a folder of its own, so that nothing is resumed; the first, which is shown apart, also
compiles what the later ones find in the compilation cache. `share` is the part of the measured
matrix-product peak that the products of a stage reach, of extraction and of training; start-up,
reading and compiling are in the time, so it is what a user gets.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import (
    Peaks,
    Row,
    batch_images,
    environment,
    peaks,
    peaks_line,
    picture_flops,
    spread,
    step_flops,
    text_table,
)
from benchmarks.memory import random_weights
from dedn_jax.cli import main as cli
from dedn_jax.config import load_config
from dedn_jax.data.load import load_prepared
from dedn_jax.errors import InputError
from dedn_jax.files import read_json
from dedn_jax.plan.sizes import find_sizes
from dedn_jax.training.evaluation import METRICS
from dedn_jax.training.network import feature_shape, init_backbone

STAGES = ("build", "extract", "train", "evaluate")
_COLUMNS = ("stage", "first_s", "median_s", "low", "high", "pictures_per_s", "share")


def command(*arguments: str) -> float:
    """Runs `dedn`; returns the seconds it took.

    Raises:
      InputError: it failed; with the last line of its output.
    """
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = cli.main(arguments)
    if status:
        last = (said.getvalue().strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"dedn {' '.join(arguments[:2])} ended with status {status}: {last}")
    return time.perf_counter() - start


def one_round(source: Sequence[str], flags: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds of every stage.

    Args:
      source: arguments of `dedn data build`.
      flags: of the recipe, the backbone and the pictures' size.
      folder: for all that is written.
    """
    # In the same folder as the other rounds, to share their compilation cache.
    run = f"--workdir={run_of(folder)}"
    seconds = {"build": command("data", "build", *source, f"--out={folder / 'sets'}")}
    data = ["--config.data.format=prepared", f"--config.data.path={prepared_in(folder)}"]
    store = folder / "store"
    seconds["extract"] = command("features", "extract", *flags, *data, f"--out={store}")
    trained = [*flags, *data, f"--config.data.features={store}"]
    seconds["train"] = command("train", *trained, run, "--config.selection.protocol=last")
    seconds["evaluate"] = command("evaluate", run)
    return seconds


def run_of(folder: Path) -> Path:
    """The work directory of a round."""
    return folder.with_name(f"run {folder.name}")


def prepared_in(folder: Path) -> Path:
    """The set that was built there."""
    return next((folder / "sets").iterdir())


def flops(config: ConfigDict, steps: int) -> dict[str, float]:
    """Operations of the products of extracting all pictures, and of training so many steps."""
    sizes = find_sizes(config, "", {})
    backbone = nnx.eval_shape(lambda: init_backbone(config))
    shape = feature_shape(backbone, config.picture.crop)
    annotations = load_prepared(config).annotations
    batch = batch_images(config, annotations.trainval, annotations.labels[annotations.trainval])
    step = step_flops(batch, sizes.attributes, shape.channels, shape.regions, sizes.word_dim)
    return {"extract": picture_flops(config) * sizes.stored, "train": step * steps}


def measure(source: Sequence[str], flags: Sequence[str], rounds: int) -> dict[str, Any]:
    """All stages, the first round apart.

    Raises:
      InputError: a command failed, or the flags make no sense.
    """
    times: list[dict[str, float]] = []
    peaks_of_rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds + 1):
            folder = Path(scratch) / str(turn)
            folder.mkdir()
            times.append(one_round(source, flags, folder))
            peaks_of_rounds.append(peaks("float32", 1))
        result = read_json(run_of(folder) / "result.json")
        overrides = ["--config.data.format=prepared", f"--config.data.path={prepared_in(folder)}"]
        overrides += ["--config.data.source=images", *flags[1:]]
        config = load_config(flags[0].removeprefix("--config="), overrides)
        work = flops(config, result["steps"])
        pictures = len(load_prepared(config).annotations.labels)
    peak = Peaks.median(peaks_of_rounds)
    rows: list[Row] = []
    for stage in STAGES:
        found = spread([t[stage] for t in times[1:]])
        middle = found["median"]
        row: Row = {"stage": stage, "first_s": times[0][stage], "median_s": middle}
        row |= {"low": found["low"], "high": found["high"]}
        if stage in work:
            row["share"] = work[stage] / middle / peak.product
        if stage in ("build", "extract"):
            row["pictures_per_s"] = pictures / middle
        rows.append(row)
    total = spread([sum(t.values()) for t in times[1:]])
    whole = {"stage": "all", "first_s": sum(times[0].values()), "median_s": total["median"]}
    rows.append(whole | {"low": total["low"], "high": total["high"]})
    return {
        "environment": environment(),
        "problem": f"{pictures} pictures, {config.backbone.name}, {config.picture.crop} x "
        f"{config.picture.crop}, {result['steps']} steps, {rounds} rounds",
        **peak.numbers(),
        "fused": result["test"]["fused"],
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    accuracy = ", ".join(f"{m} {report['fused'][m]:.1f}" for m in METRICS if m in report["fused"])
    return "\n".join(
        [
            report["environment"],
            report["problem"],
            f"{peaks_line(report)}; in the last round {accuracy}",
            *text_table(report["rows"], _COLUMNS),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", default="demo", help="as `dedn data build` names it")
    parser.add_argument("--root", type=Path, help="its folder")
    parser.add_argument("--word-vectors", type=Path, help="where they are not with the set")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", type=Path, help="of the backbone")
    parser.add_argument("--side", type=int, default=96, help="of the squares, in pixels")
    parser.add_argument("--recipe", default="cub_gzsl")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--groups", default="single", help="of attributes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    source = [args.set, *([f"--root={args.root}"] if args.root else [])]
    source += [f"--word-vectors={args.word_vectors}"] if args.word_vectors else []
    side = positive("--side", args.side)
    with tempfile.TemporaryDirectory() as scratch:
        weights = args.weights or random_weights(args.backbone, Path(scratch) / "w.safetensors")
        flags = [
            f"--config={args.recipe}",
            f"--config.backbone.name={args.backbone}",
            f"--config.backbone.weights={weights}",
            f"--config.picture.resize={side}",
            f"--config.picture.crop={side}",
            f"--config.data.groups={args.groups}",
            f"--config.train.epochs={positive('--epochs', args.epochs)}",
        ]
        report = measure(source, flags, positive("--rounds", args.rounds))
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("end_to_end", main)
