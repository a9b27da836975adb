"""Exports a model of CUB's size: seconds, bytes, and its speed beside the compiled model.

  python -m benchmarks.export [--formats=stablehlo,onnx] [--rounds=5]

From feature maps, with random parameters. `onnx` needs the extra of that name.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from benchmarks.arguments import run_benchmark
from benchmarks.common import interleaved_medians
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.inference.export.function import INPUTS, OUTPUTS, exportable
from dedn_jax.inference.export.onnx import export_onnx
from dedn_jax.inference.export.stablehlo import MODEL, export_stablehlo
from dedn_jax.inference.run import Run, train

_CHANNELS, _REGIONS, _ATTRIBUTES, _CLASSES, _BATCH = 2048, 196, 312, 200, 50
_SEEN = 150


def make_run(folder: Path) -> Run:
    """A run of CUB's sizes, after one step on made-up images."""
    rng = np.random.default_rng(0)
    labels = np.arange(_CLASSES)
    dataset = GZSLDataset.from_arrays(
        features=rng.random((_CLASSES + 1, _CHANNELS, _REGIONS), np.float32),
        labels=np.append(labels, 0),
        class_embeddings=rng.random((_CLASSES, _ATTRIBUTES), np.float32),
        word_vectors=rng.standard_normal((_ATTRIBUTES, 300)).astype(np.float32),
        trainval=labels[:_SEEN],
        test_seen=np.array([_CLASSES]),
        test_unseen=labels[_SEEN:],
        dtype="float16",
    )
    fields = {"selection.protocol": "last", "train.epochs": 1, "train.balanced": False}
    config = load_config("cub_gzsl", fields | {"train.batch_size": _SEEN})
    return train(config, folder / "run", dataset=dataset)


def load(file: Path, name: str) -> Callable[..., Any]:
    """The exported function."""
    if name == "stablehlo":
        with zipfile.ZipFile(file) as archive:
            return jax.jit(export.deserialize(bytearray(archive.read(MODEL))).call)
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda *values: session.run(OUTPUTS, dict(zip(INPUTS, values, strict=True)))


def main(argv: list[str] | None = None) -> None:
    """Prints a line for every format."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--formats", default="stablehlo", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    exporters = {"stablehlo": (export_stablehlo, ".zip"), "onnx": (export_onnx, ".onnx")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder)
        found = exportable(run)
        examples = found.examples(_BATCH)
        compiled = jax.jit(found.function)
        for form in args.formats.split(","):
            write, suffix = exporters[form]
            start = time.perf_counter()
            write(run, folder / f"model{suffix}")
            seconds = time.perf_counter() - start
            size = (folder / f"model{suffix}").stat().st_size
            call = load(folder / f"model{suffix}", form)
            calls: dict[str, Callable[[], Any]] = {
                "compiled": lambda: compiled(*examples),
                "exported": lambda call=call: call(*examples),  # type: ignore[misc]
            }
            ours, theirs = interleaved_medians(calls, args.rounds).values()
            print(
                f"{form}: {seconds:.1f} s to export, {size / 1e6:.1f} MB; {_BATCH} images "
                f"{1e3 * theirs:.0f} ms, the compiled model {1e3 * ours:.0f} ms: "
                f"{ours / theirs:.2f} of its speed"
            )


if __name__ == "__main__":
    run_benchmark("export", main)
