"""A whole training of a recipe on made-up features of the published size, evaluations included.

  python -m benchmarks.whole_training [--recipe=cub_gzsl] [--protocols=last,test-best] [--epochs=80]
      [--images=11788] [--channels=2048] [--regions=196] [--batch=50] [--dtype=bfloat16]
      [--precision=bfloat16] [--kernel=auto] [--json=OUT]

`dedn_jax.train` on a random data set in memory, whose images share a few hundred maps: the host
holds a few hundred MB of what takes 9.5 GB on the device. Features are resident there
(`config.data.on_device=replicated`), and several steps run in a call. Accuracies mean nothing.
"load" is from host memory to the device; "first call" compiles; steps/s are of the steps after it,
with checkpoints and logs and without evaluations and what is compiled for shorter calls, and
`share` is the part that their products have of a matrix product's peak, measured after every
training; evaluations are those of every epoch and of the end; "epoch" is from one evaluation to the
next. Device memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import jax
import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import (
    Peaks,
    Row,
    batch_images,
    environment,
    peaks,
    peaks_line,
    step_flops,
    text_table,
)
from benchmarks.compiling import compiling
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.data.features.maps import FeatureMaps, checked_indices, normalize
from dedn_jax.data.published import RECIPES
from dedn_jax.errors import InputError
from dedn_jax.inference.run import train
from dedn_jax.model.groups import published_attributes
from dedn_jax.parallel.mesh import Layout
from dedn_jax.parallel.resident.placement import place_features
from dedn_jax.training.callbacks import Callback
from dedn_jax.training.evaluation import Metrics
from dedn_jax.training.phase import PhaseResult

WORD_DIM = 300
PROTOCOLS = ("last", "test-best")
_DISTINCT = 256  # maps in memory: 400 MB of bfloat16 at the full size
_COLUMNS = (
    *("protocol", "steps", "total_s", "load_s", "load_gb_per_s", "first_call_s", "steps_per_s"),
    *("share", "evaluations", "evaluation_s", "epoch_s", "peak_device_gb"),
)


class RepeatedFeatures(FeatureMaps):
    """Feature maps of any number of images that share a few in memory.

    Args:
      maps: `[distinct, channels, regions]`, normalised.
      images: how many there are.
    """

    def __init__(self, maps: np.ndarray, images: int) -> None:
        self._maps, self._images = maps, images

    @property
    def dtype(self) -> np.dtype:
        return self._maps.dtype

    @property
    def channels(self) -> int:
        return self._maps.shape[1]

    @property
    def regions(self) -> int:
        return self._maps.shape[2]

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._maps.take(checked_indices(indices, self._images) % len(self._maps), axis=0)


def made_up_dataset(
    recipe: str,
    attributes: int,
    images: int | None = None,
    channels: int = 2048,
    regions: int = 196,
    dtype: str = "bfloat16",
) -> GZSLDataset:
    """A random data set with the sizes of a published one.

    Args:
      recipe: its name begins with that of the data set.
      attributes: A.
      images: of all splits, in the published proportions; None: as many as published.
      channels: C.
      regions: R.
      dtype: of the feature maps.

    Raises:
      InputError: too few images for one in every class.
    """
    name = Path(recipe).stem.split("_")[0]
    if name not in RECIPES:
        names = ", ".join(RECIPES)
        raise InputError(f"--recipe={recipe}, expected one of {names} and _gzsl or _zsl")
    known = RECIPES[name]
    images = known.images if images is None else images
    if images < 16:
        raise InputError(f"--images={images}, expected at least 16")
    test_seen, test_unseen = (
        max(2, n * images // known.images) for n in (known.test_seen, known.test_unseen)
    )
    train_images = images - test_seen - test_unseen
    # Small sets have fewer classes, so that each has some images.
    seen, unseen = min(known.seen, max(2, train_images // 4)), min(known.unseen, test_unseen)
    labels = np.arange(images) % seen
    labels[images - test_unseen :] = seen + np.arange(test_unseen) % unseen
    rng = np.random.default_rng(0)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    maps = np.empty((min(images, _DISTINCT), channels, regions), kind)
    for i in range(len(maps)):
        maps[i] = normalize(rng.random((1, channels, regions), np.float32), kind)[0]
    first, second = train_images, train_images + test_seen
    return GZSLDataset(
        source="made up",
        inputs=RepeatedFeatures(maps, images),
        labels=labels.astype(np.int32),
        class_embeddings=rng.random((seen + unseen, attributes), np.float32),
        word_vectors=rng.standard_normal((attributes, WORD_DIM), np.float32),
        trainval=np.arange(first),
        test_seen=np.arange(first, second),
        test_unseen=np.arange(second, images),
        class_names=tuple(f"class {k}" for k in range(seen + unseen)),
        attribute_names=tuple(f"attribute {a}" for a in range(attributes)),
    )


class Clock(Callback):
    """Seconds of a training's parts.

    Attributes:
      first_call, first_steps: of the call that compiles, and its steps.
      evaluation, evaluations: of all evaluations, and how many.
      after_first: from the end of the first call to that of the last phase, less the evaluations
        and less compiling.
      epochs: from the end of an evaluation to that of the next one.
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._compiled = self._compiled_in_evaluation = self._evaluation_ended = 0.0
        self.evaluation = self.first_call = self.after_first = 0.0
        self.first_steps = self.evaluations = 0
        self._first_done = self._evaluation_began = self._phase_ended = 0.0

    def on_first_call(self, steps: int, seconds: float) -> None:
        self.first_steps, self.first_call = steps, seconds
        self._first_done = time.perf_counter()
        self._compiled = compiling().seconds

    def on_evaluation_start(self, step: int, label: str) -> None:
        self._evaluation_began = time.perf_counter()
        self._compiled_in_evaluation -= compiling().seconds

    def on_evaluation(self, step: int, label: str, metrics: Metrics) -> None:
        now = time.perf_counter()
        if self.evaluations:
            self.epochs.append(now - self._evaluation_ended)
        self._evaluation_ended = now
        self._compiled_in_evaluation += compiling().seconds
        self.evaluation += now - self._evaluation_began
        self.evaluations += 1

    def on_phase_end(self, phase: str, result: PhaseResult) -> None:
        jax.block_until_ready(result.params)
        self._phase_ended = time.perf_counter()
        compiled = compiling().seconds - self._compiled - self._compiled_in_evaluation
        self.after_first = self._phase_ended - self._first_done - self.evaluation - compiled

    def finish(self) -> None:
        """After the last phase comes the evaluation on the test sets."""
        self.evaluation += time.perf_counter() - self._phase_ended
        self.evaluations += 1


def load_seconds(dataset: GZSLDataset, config: ConfigDict) -> float:
    """Of feature maps from host memory to the device, once more than the training itself."""
    layout = Layout.of_devices(attribute_shards=config.distribution.attribute_shards)
    start = time.perf_counter()
    jax.block_until_ready(place_features(dataset.inputs, config, layout))
    return time.perf_counter() - start


def run(dataset: GZSLDataset, recipe: str, protocol: str, overrides: list[str]) -> Row:
    """One whole training in a folder of its own; its times."""
    compiling()  # from here on
    config = load_config(
        recipe,
        [
            "--config.data.on_device=replicated",
            "--config.train.compilation_cache=false",
            f"--config.data.dtype={dataset.features.dtype}",
            f"--config.selection.protocol={protocol}",
            *overrides,
        ],
    )
    clock, load = Clock(), load_seconds(dataset, config)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        finished = train(config, Path(folder) / "run", dataset=dataset, callbacks=[clock])
        clock.finish()
        total = time.perf_counter() - start
    result = finished.result
    features = dataset.features
    sent = len(features) * features.channels * features.regions * features.dtype.itemsize
    left = result["steps"] - clock.first_steps
    memory = jax.local_devices()[0].memory_stats() or {}
    peak = memory.get("peak_bytes_in_use")
    return {
        "protocol": protocol,
        "steps": result["steps"],
        "total_s": total,
        "load_s": load,
        "load_gb_per_s": sent / load / 1e9,
        "first_call_s": clock.first_call,
        "steps_per_s": left / clock.after_first if left else None,
        "evaluations": clock.evaluations,
        "evaluation_s": clock.evaluation,
        "epoch_s": median(clock.epochs) if clock.epochs else None,
        "peak_device_gb": peak and peak / 1e9,
    }


def measure(
    recipe: str,
    protocols: list[str],
    dataset: GZSLDataset,
    epochs: int,
    batch: int,
    precision: str = "bfloat16",
    kernel: str = "auto",
) -> dict[str, Any]:
    """A row for each protocol."""
    overrides = [
        f"--config.train.epochs={epochs}",
        f"--config.train.batch_size={batch}",
        f"--config.model.precision={precision}",
        f"--config.model.kernel={kernel}",
    ]
    features = dataset.features
    images = batch_images(
        load_config(recipe, overrides), dataset.trainval, dataset.labels[dataset.trainval]
    )
    flops = step_flops(
        images, dataset.num_attributes, features.channels, features.regions, WORD_DIM
    )
    rows, peaks_of_rounds = [], []
    for protocol in protocols:
        rows.append(run(dataset, recipe, protocol, overrides))
        with jax.default_matmul_precision(precision):
            peaks_of_rounds.append(peaks(str(features.dtype), 5))
    peak = Peaks.median(peaks_of_rounds)
    for row in rows:
        speed = row["steps_per_s"]
        row["share"] = speed and speed * flops / peak.product
    return {
        "environment": environment(),
        "problem": f"{recipe}: {len(features)} images [{features.channels}, {features.regions}] "
        f"{features.dtype}, {dataset.num_attributes} attributes, {dataset.num_classes} classes, "
        f"batch {images}, {epochs} epochs, products {precision}, kernel {kernel}",
        "gflop_of_step": flops / 1e9,
        **peak.numbers(),
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    return "\n".join(
        [
            report["environment"],
            report["problem"],
            f"a step: {report['gflop_of_step']:.3g} GFLOP in matrix products; {peaks_line(report)}",
            *text_table(report["rows"], _COLUMNS),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cub_gzsl", help="a published recipe")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="a training for each")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--images", type=int, help="instead of as many as published")
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--regions", type=int, default=196)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--dtype", default="bfloat16", help="of the features")
    parser.add_argument("--precision", default="bfloat16", help="of matrix products")
    parser.add_argument("--kernel", default="auto", help="of attention pooling")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    protocols = args.protocols.split(",")
    if not set(protocols) <= set(PROTOCOLS):
        raise InputError(f"--protocols={args.protocols}, expected some of {', '.join(PROTOCOLS)}")
    overrides = [
        f"--config.data.dtype={args.dtype}",
        f"--config.model.precision={args.precision}",
        f"--config.model.kernel={args.kernel}",
    ]
    config = load_config(args.recipe, overrides)
    dataset = made_up_dataset(
        args.recipe,
        published_attributes(config.data.groups),
        args.images,
        positive("--channels", args.channels),
        positive("--regions", args.regions),
        args.dtype,
    )
    report = measure(
        args.recipe,
        protocols,
        dataset,
        positive("--epochs", args.epochs),
        positive("--batch", args.batch),
        args.precision,
        args.kernel,
    )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("whole_training", main)
