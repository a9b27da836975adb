"""Trains the published PyTorch code on a feature file and records its accuracy curve.

This is what our accuracies are compared with, on the same features:

  python -m benchmarks.published_accuracy --reference-dir=DIR --features=FILE.hdf5 \
      --recipe=cub_gzsl --seeds=214,1,2,3,4 --out=DIR

The model, data loader, sampler and evaluation are the published classes, seeded and called in the
order of the published script. One JSON file per seed; a seed whose file is there is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ml_collections import ConfigDict

from benchmarks.arguments import integers, run_benchmark
from dedn_jax.config import load_config
from dedn_jax.errors import InputError
from dedn_jax.files import write_json
from dedn_jax.interop.published_model import PublishedModel, Recipe
from dedn_jax.interop.reference import Reference, load_reference, quiet
from dedn_jax.training.evaluation import METRICS


@contextlib.contextmanager
def published_folder(features: Path, dataset: str) -> Iterator[str]:
    """A folder in which the published loader finds `features`; a path ending in a slash.

    Its loader converts the training features to float32 but not the test features, so a file of
    any other dtype is copied as float32.
    """
    name = dataset.upper()
    with tempfile.TemporaryDirectory(prefix="dedn_published_") as root:
        target = Path(root, "data", name, f"feature_map_ResNet_101_{name}.hdf5")
        target.parent.mkdir(parents=True)
        with h5py.File(features, "r") as source:
            if source["feature_map"].dtype == np.float32:
                target.symlink_to(features.resolve())
            else:
                with h5py.File(target, "w") as copy:
                    for key, value in source.items():
                        kind = np.float32 if key == "feature_map" else value.dtype
                        copy.create_dataset(key, data=value[()].astype(kind))
        yield f"{root}/"


def load_data(reference: Reference, features: Path, balanced: bool) -> Any:
    """The published data loader on `features`.

    Raises:
      InputError: there is no such file, or it is not in the published layout.
    """
    if not features.is_file():
        raise InputError(f"--features: no file {features}; give an HDF5 file of feature maps")
    path = list(sys.path)
    try:
        with (
            published_folder(features, reference.dataset) as folder,
            contextlib.redirect_stdout(io.StringIO()),  # it prints banners
        ):
            return reference.loader_class(folder, "cpu", is_balance=balanced)
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(
            f"--features: {features} is not a feature file in the published layout: {error}"
        ) from error
    finally:
        sys.path[:] = path  # the published loader appends its folder


def train(
    reference: Reference, loader: Any, config: ConfigDict, seed: int
) -> tuple[list[dict[str, float]], float]:
    """The published training loop.

    Returns:
      One entry per evaluation (the number of steps taken, and accuracies in percent), the last
      one after the last step, where the published script does not look; and seconds per step.
    """
    import torch

    shape = loader.data["train_seen"]["resnet_features"].shape
    # The published balanced sampler draws from this generator, the unbalanced one from torch's.
    np.random.seed(seed)  # noqa: NPY002
    model = PublishedModel.build(
        reference,
        Recipe.from_config(config, reference),
        word_vectors=loader.w2v_att.numpy(),
        class_embeddings=loader.att.numpy(),
        seen=np.isin(np.arange(len(loader.att)), loader.seenclasses.numpy()),
        maps=(shape[1], shape[2]),
        seed=seed,
    )
    model.make_optimizer()
    batch = config.train.batch_size
    steps = loader.ntrain * config.train.epochs // batch
    interval = max(steps // config.train.epochs, 1)
    curve, seconds = [], 0.0
    for step in range(steps):
        started = time.perf_counter()
        labels, features, _ = loader.next_batch(batch)
        model.step(features, labels)
        seconds += time.perf_counter() - started
        if step % interval == 0 or step == steps - 1:
            with quiet():
                seen, unseen, harmonic, zero_shot = reference.evaluate(
                    loader, model.module, config.predict.expert_mix, torch.device("cpu")
                )
            values = (100 * float(x) for x in (unseen, seen, harmonic, zero_shot))
            curve.append({"step": step + 1, **dict(zip(METRICS, values, strict=True))})
    return curve, seconds / steps


def best_on_test(curve: list[dict[str, float]]) -> dict[str, float]:
    """What the published script reports: the highest H with its U and S, and the highest T1."""
    by_h = max(curve, key=lambda entry: entry["H"])
    by_t1 = max(curve, key=lambda entry: entry["T1"])
    best = {metric: by_h[metric] for metric in ("U", "S", "H")}
    return {**best, "step": by_h["step"], "T1": by_t1["T1"], "T1_step": by_t1["step"]}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds, of the last and of the best values."""
    summary: dict[str, Any] = {"seeds": [run["seed"] for run in runs]}
    for kind in ("end", "best_on_test"):
        summary[kind] = {}
        for metric in METRICS:
            values = [run[kind][metric] for run in runs]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            summary[kind][metric] = {"mean": statistics.fmean(values), "std": deviation}
    return summary


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference-dir", required=True, help="a checkout of zjrao/DEDN")
    parser.add_argument("--features", type=Path, required=True, help="published HDF5 layout")
    parser.add_argument("--recipe", default="cub_gzsl", help="a name or file of configs/")
    parser.add_argument("--seeds", default="214,1,2,3,4", help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs every seed that has no result yet, then writes and prints the summary."""
    args = parse_args(argv)
    overrides = [f"--config.train.epochs={args.epochs}"] if args.epochs else []
    config = load_config(args.recipe, overrides)
    dataset = Path(args.recipe).stem.split("_")[0]
    seeds = integers("--seeds", args.seeds)
    reference = load_reference(args.reference_dir, dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    import torch

    about = {
        "recipe": Path(args.recipe).stem,
        "features": args.features.name,
        "epochs": config.train.epochs,
    }
    loader, runs = None, []
    for seed in seeds:
        path = args.out / f"{about['recipe']}_seed{seed}.json"
        if path.is_file():
            run = json.loads(path.read_text())
            found = {key: run.get(key) for key in about}
            if found != about:
                raise InputError(f"{path}: is of another run ({found}); give another --out")
        else:
            loader = loader or load_data(reference, args.features, config.train.balanced)
            curve, seconds = train(reference, loader, config, seed)
            run = {**about, "seed": seed, "end": curve[-1], "best_on_test": best_on_test(curve)}
            run |= {"seconds_per_step": seconds, "threads": torch.get_num_threads()}
            run |= {"torch": torch.__version__, "curve": curve}
            write_json(path, run)
        runs.append(run)
        print(f"seed {seed}: end {_line(run['end'])}; best on test {_line(run['best_on_test'])}")
        sys.stdout.flush()
    summary = {**about, **summarise(runs)}
    write_json(args.out / f"{about['recipe']}_summary.json", summary)
    for kind in ("end", "best_on_test"):
        print(f"{kind}, {len(runs)} seeds:", end="")
        for metric, value in summary[kind].items():
            print(f"  {metric} {value['mean']:.1f} ± {value['std']:.1f}", end="")
        print()


def _line(values: dict[str, float]) -> str:
    return " ".join(f"{metric} {values[metric]:.1f}" for metric in METRICS)


if __name__ == "__main__":
    run_benchmark("published_accuracy", main)
