"""Trains a recipe over several seeds and protocols; accuracies beside the published code's.

  python -m benchmarks.accuracy --recipe=cub_gzsl --features=STORE|FILE.hdf5 --seeds=1,2,3,4,5 \
      --out=DIR [--published=DIR/cub_gzsl_summary.json] [--config.section.field=value ...]

`--published` is the summary that `benchmarks/published_accuracy.py` writes for the same file. Every
run keeps its own work directory under `--out`; a finished one is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import integers, run_benchmark
from dedn_jax.config import load_config
from dedn_jax.files import read_json, write_json
from dedn_jax.inference.run import train
from dedn_jax.training.evaluation import AUSUC, METRICS
from dedn_jax.training.logs import read_lines
from dedn_jax.training.workdir import Workdir

Row = dict[str, float]
COLUMNS = (*METRICS, AUSUC)


def run_seed(
    recipe: str,
    features: Path | None,
    seed: int,
    protocol: str,
    out: Path,
    overrides: Sequence[str] = (),
) -> dict[str, Row]:
    """Trains one seed by one protocol, with `overrides` of the recipe; None: on the recipe's data.

    Returns:
      Rows of U, S, H, T1 and AUSUC of the fused score: `validation` for that protocol, and
      `validation, calibrated` with gamma and mixes chosen on the validation classes; `last` and
      `test-best` for `test-best`, which trains just as `last` does and looks at every epoch's end.
    """
    source = []
    if features is not None and features.is_dir():
        source = ["--config.data.format=store", f"--config.data.path={features}"]
    elif features is not None:
        source = [f"--config.data.path={features}"]
    flags = [
        *overrides,
        *source,
        f"--config.seed={seed}",
        f"--config.selection.protocol={protocol}",
    ]
    workdir = Workdir(out / f"{Path(recipe).stem}_{protocol}_seed{seed}")
    result = train(load_config(recipe, flags), workdir.path).result
    if protocol == "validation":
        return {
            "validation": result["test"]["fused"],
            "validation, calibrated": result["test_calibrated"]["fused"],
        }
    looks = [r["fused"] for r in read_lines(workdir.metrics_file) if "evaluated_on" in r]
    # As the published script reports: U and S from the epoch of the best H, T1 from its own best.
    best = max(looks, key=lambda row: row["H"])
    return {"last": looks[-1], "test-best": {**best, "T1": max(row["T1"] for row in looks)}}


def summarise(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation over seeds."""
    return {
        m: {
            "mean": statistics.fmean(r[m] for r in rows),
            "std": statistics.stdev(r[m] for r in rows) if len(rows) > 1 else 0.0,
        }
        for m in COLUMNS
        if all(m in r for r in rows)
    }


def main(argv: list[str] | None = None) -> None:
    """Runs what is missing, then writes `summary.json` and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cub_gzsl", help="name of a recipe")
    parser.add_argument(
        "--features", type=Path, required=True, help="a feature store, or the published HDF5"
    )
    parser.add_argument("--seeds", default="1,2,3,4,5", help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="folder of the work directories")
    parser.add_argument("--published", type=Path, help="summary of the published code's runs")
    args, overrides = parser.parse_known_args(argv)
    seeds = integers("--seeds", args.seeds)
    rows: dict[str, list[Row]] = {}
    for seed in seeds:
        for protocol in ("validation", "test-best"):
            found = run_seed(args.recipe, args.features, seed, protocol, args.out, overrides)
            for name, row in found.items():
                rows.setdefault(name, []).append(row)
                print(f"seed {seed} {name}: {json.dumps({m: round(row[m], 3) for m in COLUMNS})}")
            sys.stdout.flush()
    table = {f"ours, {name}": summarise(values) for name, values in rows.items()}
    if args.published:
        published = read_json(args.published)
        table["published, last"] = published["end"]
        table["published, test-best"] = published["best_on_test"]
    write_json(args.out / "summary.json", {"recipe": args.recipe, "seeds": seeds, "table": table})
    print(f"{'mean ± deviation, percent':<30}" + "".join(f"{m:>16}" for m in COLUMNS))
    for name, summary in table.items():
        print(f"{name:<30}" + "".join(f"{_cell(summary, m):>16}" for m in COLUMNS))


def _cell(summary: dict[str, dict[str, float]], metric: str) -> str:
    if metric not in summary:
        return "-"
    digits = 3 if metric == AUSUC else 1
    return f"{summary[metric]['mean']:.{digits}f} ± {summary[metric]['std']:.{digits}f}"


if __name__ == "__main__":
    run_benchmark("accuracy", main)
