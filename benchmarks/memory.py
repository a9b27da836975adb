"""Peak host memory of extraction and of training, for a set of pictures and for one four times it.

  python -m benchmarks.memory [--pictures=256] [--side=224] [--backbone=resnet18] [--json=OUT]

Each job runs in a process of its own, as the command a user gives: features extracted to a store;
training from that store left on disk (`config.data.memory_map`); training from the pictures with
the backbone in the graph. Weights are random. The result shows that memory does not grow with the
number of pictures; how much it is depends on batch, picture size and backbone.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from benchmarks.arguments import positive, show_report
from benchmarks.input_pipeline import made_up_set
from dedn_jax.model.backbones import make_backbone
from dedn_jax.model.backbones.weights import expected_arrays

_STEPS = 8
_BATCH = 16


def random_weights(name: str, path: Path) -> Path:
    """A `.safetensors` file of random weights for a backbone."""
    rng = np.random.default_rng(0)
    shapes = expected_arrays(make_backbone(name, "float32", nnx.Rngs(0)))
    scale = {k: (2 / np.prod(s[1:])) ** 0.5 if len(s) > 1 else 1.0 for k, s in shapes.items()}
    arrays = {
        k: (scale[k] * (rng.standard_normal(s) if len(s) > 1 else np.ones(s))).astype(np.float32)
        for k, s in shapes.items()
    }
    save_file(arrays, str(path))
    return path


def _peak(arguments: list[str]) -> float:
    """Runs `dedn` with `arguments`; returns its peak memory in MB."""
    code = (
        "import sys\n"
        "from benchmarks.input_pipeline import peak_memory\n"
        "from dedn_jax.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "print(peak_memory())\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise RuntimeError(f"dedn {' '.join(arguments)}: {done.stderr}")
    return float(done.stdout.splitlines()[-1])


def measure(pictures: int, side: int, backbone: str) -> dict[str, Any]:
    """Peak MB of each job, for `pictures` and for four times as many."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        weights = random_weights(backbone, work / "weights.safetensors")
        for count in (pictures, 4 * pictures):
            prepared, store = made_up_set(count, work / f"set-{count}"), work / f"store-{count}"
            flags = [
                "--config=base",
                "--config.data.format=prepared",
                f"--config.data.path={prepared}",
                f"--config.backbone.name={backbone}",
                f"--config.backbone.weights={weights}",
                f"--config.picture.resize={side}",
                f"--config.picture.crop={side}",
                f"--config.evaluate.batch_size={_BATCH}",
            ]
            training = [
                f"--config.train.batch_size={_BATCH}",
                f"--config.train.epochs={max(1, _STEPS * _BATCH // count)}",
                "--config.selection.protocol=last",
            ]
            rows.append(
                {
                    "pictures": count,
                    "extract_mb": _peak(
                        ["features", "extract", *flags, f"--out={store}", "--shard-images=128"]
                    ),
                    "train_features_mb": _peak(
                        [
                            "train",
                            *flags,
                            *training,
                            f"--workdir={work}/features-{count}",
                            f"--config.data.features={store}",
                            "--config.data.memory_map=true",
                        ]
                    ),
                    "train_images_mb": _peak(
                        [
                            "train",
                            *flags,
                            *training,
                            f"--workdir={work}/images-{count}",
                            "--config.data.source=images",
                        ]
                    ),
                    "store_mb": sum(p.stat().st_size for p in store.iterdir()) / 1e6,
                }
            )
    return {
        "environment": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, JAX {version('jax')}",
        "backbone": backbone,
        "side": side,
        "batch": _BATCH,
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [
        report["environment"],
        f"{report['backbone']}, {report['side']} x {report['side']}, batch {report['batch']}",
        f"{'pictures':>9}{'store':>11}{'extract':>11}{'train, store':>15}{'train, images':>16}",
    ]
    for row in report["rows"]:
        lines.append(
            f"{row['pictures']:9d}{row['store_mb']:8.0f} MB{row['extract_mb']:8.0f} MB"
            f"{row['train_features_mb']:12.0f} MB{row['train_images_mb']:13.0f} MB"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--backbone", default="resnet18", help="one with pretrained weights")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    pictures, side = positive("--pictures", args.pictures), positive("--side", args.side)
    report = measure(pictures, side, args.backbone)
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    main()
