"""Every distillation objective, trained over several seeds: H against epochs, and a table.

  python -m benchmarks.distillation --recipe=cub_gzsl --features=STORE|FILE.hdf5 --seeds=1,2,3,4,5 \
      --out=DIR [--objectives=none,agreement,kl] [--config.section.field=value ...]
  python -m benchmarks.distillation --recipe=demo --seeds=1,2,3,4,5 --out=DIR

Protocol `validation`, calibrated: what is chosen, is chosen on validation classes. Every run keeps
its own work directory under `--out`, and a finished one is not run again; the seeds are the outer
loop, so that a table of fewer seeds is there early. Writes `summary.json`, `table.md` and
`epochs.png`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy import run_seed
from benchmarks.arguments import integers, run_benchmark
from dedn_jax.config import load_config
from dedn_jax.files import write_atomically, write_json
from dedn_jax.model.distillation import OBJECTIVES
from dedn_jax.sweep.report import summary
from dedn_jax.training.logs import read_lines
from dedn_jax.training.workdir import Workdir

NONE, BASE = "none", "agreement"
MARKS = (10, 20, 40, 80)  # epochs at which the curves are put into numbers
METRICS = ("H", "AUSUC", "T1")


def curve(workdir: Path, epochs: int) -> dict[str, list[float]]:
    """H and AUSUC of the fused score on validation classes at the end of every epoch."""
    looks = [
        line["fused"]
        for line in read_lines(Workdir(workdir).metrics_file)
        if line.get("phase") == "validation" and "evaluated_on" in line
    ]
    return {metric: [look[metric] for look in looks[:epochs]] for metric in ("H", "AUSUC")}


def objective_rows(runs: dict[str, list[dict[str, Any]]], epochs: int) -> list[dict[str, Any]]:
    """One row an objective: test metrics, their difference to the published term, curves."""
    rows = []
    for name, of_seeds in runs.items():
        row: dict[str, Any] = {"objective": name, "seeds": [r["seed"] for r in of_seeds]}
        for kind in ("calibrated", "fixed"):
            row[kind] = {m: summary([r[kind][m] for r in of_seeds]) for m in METRICS}
        base = {r["seed"]: r for r in runs.get(BASE, [])}
        pairs = [(r, base[r["seed"]]) for r in of_seeds if r["seed"] in base]
        if pairs and name != BASE:
            row["over_agreement"] = {
                m: summary([r["calibrated"][m] - b["calibrated"][m] for r, b in pairs])
                for m in METRICS
            }
        row["curve"] = {
            m: np.mean([r["curve"][m] for r in of_seeds], axis=0).tolist() for m in ("H", "AUSUC")
        }
        row["at"] = {e: {m: row["curve"][m][e - 1] for m in row["curve"]} for e in marks(epochs)}
        rows.append(row)
    return rows


def marks(epochs: int) -> list[int]:
    """The epochs of `MARKS` that a run has, and its last."""
    return [*(e for e in MARKS if e < epochs), epochs]


def _cell(value: dict[str, Any], digits: int, signed: bool = False) -> str:
    text = f"{value['mean']:{'+' if signed else ''}.{digits}f}"
    if value["interval"]:
        text += f" ± {(value['interval'][1] - value['interval'][0]) / 2:.{digits}f}"
    return text


def table(rows: list[dict[str, Any]], epochs: int) -> str:
    """Markdown: means with 95 % intervals on the test sets, then means on validation classes."""
    head = [
        *("objective", "H", "AUSUC", "T1", "H over `agreement`", "H at the fixed bias"),
        *(f"H after {e}" for e in marks(epochs)),
        *(f"AUSUC after {e}" for e in marks(epochs)),
    ]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for row in rows:
        best = row["calibrated"]
        over = row.get("over_agreement")
        cells = [
            f"`{row['objective']}`",
            _cell(best["H"], 1),
            _cell(best["AUSUC"], 3),
            _cell(best["T1"], 1),
            _cell(over["H"], 1, signed=True) if over else "-",
            _cell(row["fixed"]["H"], 1),
            *(f"{row['at'][e]['H']:.1f}" for e in marks(epochs)),
            *(f"{row['at'][e]['AUSUC']:.3f}" for e in marks(epochs)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """H and AUSUC on validation classes against epochs, one line an objective."""
    figure = Figure((11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    styles = ("-", "--", ":")
    for i, row in enumerate(rows):
        for ax, metric in zip(axes, ("H", "AUSUC"), strict=True):
            values = row["curve"][metric]
            ax.plot(
                range(1, len(values) + 1),
                values,
                styles[i // 10],
                color=f"C{i % 10}",
                lw=2.6 if row["objective"] in (NONE, BASE) else 1.2,
                label=row["objective"],
            )
    for ax, label in zip(axes, ("H at the fixed bias, percent", "AUSUC"), strict=True):
        ax.set(xlabel="epochs", ylabel=f"{label}, validation classes")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    png = BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_atomically(path, png.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, one seed of all objectives after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cub_gzsl", help="name of a recipe")
    parser.add_argument("--features", type=Path, help="a feature store, or the published HDF5")
    parser.add_argument("--objectives", default=",".join((NONE, *OBJECTIVES)))
    parser.add_argument("--seeds", default="1,2,3,4,5", help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="folder of the work directories")
    args, overrides = parser.parse_known_args(argv)
    names = [name.strip() for name in args.objectives.split(",")]
    seeds = integers("--seeds", args.seeds)
    chosen = {name: [*overrides, f"--config.loss.distillation.name={name}"] for name in names}
    epochs = {n: load_config(args.recipe, flags).train.epochs for n, flags in chosen.items()}[
        names[0]
    ]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in seeds:
        for name, flags in chosen.items():
            out = args.out / name
            found = run_seed(args.recipe, args.features, seed, "validation", out, flags)
            workdir = out / f"{Path(args.recipe).stem}_validation_seed{seed}"
            runs[name].append(
                {
                    "seed": seed,
                    "fixed": found["validation"],
                    "calibrated": found["validation, calibrated"],
                    "curve": curve(workdir, epochs),
                }
            )
            print(f"seed {seed} {name}: {runs[name][-1]['calibrated']}", flush=True)
        rows = objective_rows(runs, epochs)
        write_json(args.out / "summary.json", {"recipe": args.recipe, "rows": rows})
        write_atomically(args.out / "table.md", table(rows, epochs).encode())
        draw(rows, args.out / "epochs.png")
    sys.stdout.write((args.out / "table.md").read_text())


if __name__ == "__main__":
    run_benchmark("distillation", main)
