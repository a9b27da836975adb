"""Shared by benchmarks: a line on the machine, quartiles, interleaved timing, peaks, tables."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dedn_jax.data.sampler import Sampler
from dedn_jax.plan.programs import extract_program

# A timing is of as many calls as take this long: starting one takes tens of microseconds.
_SECONDS = 0.02
# Sides of the matrices and numbers copied that keep a CPU busy.
_ON_CPU = 2048, 2**24
_tiny = contextvars.ContextVar[tuple[int, int] | None]("tiny", default=None)
Call = Callable[[], Any]
Row = dict[str, Any]


def environment() -> str:
    """One line on the machine and the versions."""
    device = jax.devices()[0]
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.device_count()} x "
        f"{device.device_kind}, Python {platform.python_version()}, JAX {jax.__version__}"
    )


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third quartile; of a single value, that value twice."""
    if len(values) < 2:
        return [*values] * 2
    return quantiles(values, n=4, method="inclusive")[::2]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, high = quartiles(values)
    return {"median": median(values), "low": low, "high": high}


def seconds_of(call: Call, count: int) -> float:
    """Seconds of one of `count` calls, all of them started before the last is waited for."""
    start = time.perf_counter()
    for _ in range(count - 1):
        call()
    jax.block_until_ready(call())
    return (time.perf_counter() - start) / count


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in every round, interleaved, after warming up."""
    counts = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        counts[name] = max(1, min(100, round(_SECONDS / seconds_of(call, 2))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds_of(call, counts[name]))
    return times


def interleaved_medians(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Medians of `interleaved`."""
    return {name: median(values) for name, values in interleaved(calls, rounds).items()}


class Peaks(NamedTuple):
    """Peak throughput of the device.

    Attributes:
      product: FLOP/s of a square matrix product.
      copy: bytes/s, read and written.
    """

    product: float
    copy: float

    @classmethod
    def median(cls, found: Sequence[Peaks]) -> Peaks:
        """The median of peaks measured in several rounds."""
        return cls(*(median(values) for values in zip(*found, strict=True)))

    def numbers(self) -> dict[str, float]:
        """For a report."""
        return {"peak_gflop_per_s": self.product / 1e9, "copy_gb_per_s": self.copy / 1e9}


def peaks_line(report: Mapping[str, Any]) -> str:
    """`Peaks.numbers` of a report as text."""
    product, copy = report["peak_gflop_per_s"], report["copy_gb_per_s"]
    return f"measured peaks: {product:.0f} GFLOP/s product, {copy:.1f} GB/s copy"


def peaks(dtype: str, rounds: int, size: int | None = None, copied: int | None = None) -> Peaks:
    """Measures the peaks, on random numbers: on ones a GPU draws less power and runs faster.

    Args:
      dtype: of the product; float32 follows `jax.default_matmul_precision`.
      rounds: of which the medians are taken.
      size: side of the matrices; None: enough to fill the device.
      copied: float32 numbers; None: likewise.
    """
    usual = _ON_CPU if jax.default_backend() == "cpu" else (8192, 2**28)
    size, copied = _tiny.get() or (size or usual[0], copied or usual[1])
    keys = jax.random.split(jax.random.key(0))
    square = jax.random.normal(keys[0], (size, size)).astype(dtype)
    vector = jax.random.normal(keys[1], (copied,))
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    copy = jax.jit(lambda x: x + 1)
    times = interleaved_medians(
        {"product": lambda: product(square, square), "copy": lambda: copy(vector)}, rounds
    )
    return Peaks(2.0 * size**3 / times["product"], 2.0 * vector.nbytes / times["copy"])


@contextlib.contextmanager
def tiny_peaks() -> Iterator[None]:
    """Within the block peaks are measured in a moment, and mean nothing; for smoke tests."""
    token = _tiny.set((64, 2**12))
    try:
        yield
    finally:
        _tiny.reset(token)


def host_peaks(rounds: int) -> Peaks:
    """The peaks of this machine's CPU in float32, even if it has an accelerator."""
    with jax.default_device(jax.devices("cpu")[0]):
        return peaks("float32", rounds, *_ON_CPU)


def send_speed(rounds: int, size: int) -> float:
    """Bytes/s from host memory to the device."""
    # Zeros would be one page of memory, over and over.
    host = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return size / interleaved_medians({"send": lambda: jax.device_put(host)}, rounds)["send"]


def batch_images(config: ConfigDict, images: np.ndarray, labels: np.ndarray) -> int:
    """Images of a step that trains on `images`, whose class ids are `labels`.

    Balanced batches have an equal number of each class, which can be fewer than the recipe says.
    """
    return Sampler.from_config(images, labels, config, 0).size


def step_flops(
    batch: int, attributes: int, channels: int, regions: int, word_dim: int = 300
) -> float:
    """Floating-point operations of the matrix products of one step, forward and backward.

    Scores and attention of both branches and experts, and their gradients: four products of
    `2 · batch · rows · channels · regions` per branch; folding V·H: one forward, two backward.
    """
    rows = 2 * attributes
    attention = 2 * 4 * 2.0 * batch * rows * channels * regions
    folding = 3 * 2.0 * rows * word_dim * 2 * (channels + regions)
    return attention + folding


def picture_flops(config: ConfigDict) -> float:
    """Floating-point operations of the products that one picture's feature map takes."""
    return float(extract_program(config, config.picture.crop, 1).flops().total)


def text_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Lines of a table: names left-aligned, numbers right-aligned, `-` for missing values."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return "-" if value is None else str(value)

    cells = [[*columns], *([cell(row.get(c)) for c in columns] for row in rows)]
    left = [all(not isinstance(row.get(c), int | float) for row in rows) for c in columns]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if names else text.rjust(width)
            for text, width, names in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]
