"""Attention pooling on this machine's device: XLA's own kernels and our fused ones.

  python -m benchmarks.attention_pool [--sizes=cub,sun,awa2] [--dtypes=bfloat16,float32]
      [--precision=default] [--batch=50] [--channels=2048] [--regions=196] [--rounds=20]
      [--json=OUT]

Both branches, forward alone and with the gradient of the rows. XLA and Pallas are interleaved, so
that noise affects both alike, and multiply in the features' type. Operations are those of the
formula (two products forward, two backward), bytes those of reading the features once forward and
once backward. The peaks are a square matrix product of the same type and a copy. `difference` is
that of both results, relative to the largest number. On a CPU Pallas would be interpreted: only XLA
is timed there.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.arguments import positive, run_benchmark, show_report
from benchmarks.common import Call, environment, interleaved_medians
from benchmarks.common import peaks as machine_peaks
from dedn_jax.errors import InputError
from dedn_jax.model.attention import BranchRows, dual_attention
from dedn_jax.model.kernels import Kernel, resolve_kernel

# Rows of both experts.
_SIZES = {"cub": 624, "sun": 204, "awa2": 170}
_DTYPES = ("bfloat16", "float32")
_PRECISIONS = ("default", "tensorfloat32", "float32")


def _pool(
    kernel: Kernel, branch: str, score: jax.Array, attend: jax.Array, features: jax.Array
) -> jax.Array:
    """As the model calls it: of the map as stored, for the channel branch too."""
    rows = BranchRows(score, attend)
    region, channel = (rows, None) if branch == "region" else (None, rows)
    pooled = dual_attention(region, channel, features, kernel)
    return next(p for p in pooled if p is not None)


def _value_and_gradient(
    kernel: Kernel, branch: str, score: jax.Array, attend: jax.Array, features: jax.Array
) -> Any:
    def loss(score: jax.Array, attend: jax.Array) -> jax.Array:
        return (_pool(kernel, branch, score, attend, features) ** 2).sum()

    return jax.value_and_grad(loss, (0, 1))(score, attend)


_PASSES = {"value": _pool, "gradient": _value_and_gradient}


def _difference(a: Any, b: Any) -> float:
    """The largest, relative to the largest number of each array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max() / jnp.abs(y).max()) for x, y in pairs)


def measure(
    sizes: list[str],
    dtypes: list[str],
    precision: str,
    batch: int,
    channels: int,
    regions: int,
    rounds: int,
) -> dict[str, Any]:
    """Times everything; one row per size, type, branch, pass and kernel."""
    xla = resolve_kernel("xla", jax.default_backend(), (channels, regions))
    kernels: list[Kernel] = [xla] if xla == "cpu" else [xla, "pallas"]
    rng = np.random.default_rng(0)
    rows, peaks = [], {}
    for dtype in dtypes:
        flops_peak, bytes_peak = peaks[dtype] = machine_peaks(dtype, rounds)
        values = rng.random((batch, channels, regions), np.float32)
        # Normalised over channels, as the model's are.
        features = jnp.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), dtype)
        for size, branch, (what, function) in (
            (s, b, p) for s in sizes for b in ("region", "channel") for p in _PASSES.items()
        ):
            dim = channels if branch == "region" else regions
            score, attend = (
                jnp.asarray(rng.standard_normal((_SIZES[size], dim)), jnp.float32) for _ in range(2)
            )
            calls: dict[str, Call] = {}
            for kernel in kernels:
                compiled = jax.jit(functools.partial(function, kernel, branch))
                calls[kernel] = functools.partial(compiled, score, attend, features)
            passes = 1 if what == "value" else 2
            flops = passes * 4.0 * batch * _SIZES[size] * channels * regions
            read = passes * features.nbytes
            times = interleaved_medians(calls, rounds)
            for kernel in kernels:
                seconds = times[kernel]
                row: dict[str, Any] = {
                    "size": size,
                    "dtype": dtype,
                    "branch": branch,
                    "pass": what,
                    "kernel": kernel,
                    "median_ms": 1e3 * seconds,
                    "tflop_per_s": flops / seconds / 1e12,
                    "gb_per_s": read / seconds / 1e9,
                    "flop_share": flops / seconds / flops_peak,
                    "byte_share": read / seconds / bytes_peak,
                }
                if kernel != xla:
                    row["speedup"] = times[xla] / seconds
                    row["difference"] = _difference(calls[kernel](), calls[xla]())
                rows.append(row)
    return {
        "environment": environment(),
        "problem": f"features [{batch}, {channels}, {regions}], products {precision}",
        "peaks": {
            dtype: {"tflop_per_s": flops / 1e12, "gb_per_s": read / 1e9}
            for dtype, (flops, read) in peaks.items()
        },
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [report["environment"], report["problem"]]
    if all(row["kernel"] == "cpu" for row in report["rows"]):
        lines.append("on a CPU Pallas kernels would be interpreted: only XLA is timed")
    lines += [
        f"{dtype}: measured peak {peak['tflop_per_s']:.3g} TFLOP/s, {peak['gb_per_s']:.0f} GB/s"
        for dtype, peak in report["peaks"].items()
    ]
    lines.append(
        f"{'size':<6}{'type':<10}{'branch':<9}{'pass':<10}{'kernel':<8}{'median':>11}"
        f"{'TFLOP/s':>9}{'peak':>6}{'GB/s':>7}{'peak':>6}{'speedup':>9}{'difference':>12}"
    )
    for row in report["rows"]:
        names = f"{row['size']:<6}{row['dtype']:<10}{row['branch']:<9}{row['pass']:<10}"
        line = (
            f"{names}{row['kernel']:<8}{row['median_ms']:8.3f} ms{row['tflop_per_s']:9.3g}"
            f"{100 * row['flop_share']:5.0f}%{row['gb_per_s']:7.0f}{100 * row['byte_share']:5.0f}%"
        )
        if "speedup" in row:
            line += f"{row['speedup']:9.2f}{row['difference']:12.1e}"
        lines.append(line)
    return "\n".join(lines)


def _choices(flag: str, text: str, known: Any) -> list[str]:
    """A comma-separated list of known names.

    Raises:
      InputError: names the flag and what was found.
    """
    names = text.split(",")
    if not set(names) <= set(known):
        raise InputError(f"{flag}={text!r}, expected names from {', '.join(known)}")
    return names


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default=",".join(_SIZES), help="rows of which benchmarks")
    parser.add_argument("--dtypes", default=",".join(_DTYPES), help="of features and products")
    parser.add_argument("--precision", default="default", help="of float32 products")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--regions", type=int, default=196)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    (precision,) = _choices("--precision", args.precision, _PRECISIONS)
    with jax.default_matmul_precision(precision):
        report = measure(
            _choices("--sizes", args.sizes, _SIZES),
            _choices("--dtypes", args.dtypes, _DTYPES),
            precision,
            positive("--batch", args.batch),
            positive("--channels", args.channels),
            positive("--regions", args.regions),
            positive("--rounds", args.rounds),
        )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("attention_pool", main)
