"""All measurements that need a GPU, in one command and within minutes.

  python -m benchmarks.gpu [--reference-dir=DEDN] [--out=gpu] [--minutes=8] [--smoke]

Writes `gpu.json` and `gpu.txt`, a table, into `--out`, anew after every part, and a log of each.
Parts: the device's peaks; train steps of CUB, AWA2 and SUN at the published sizes (batch 50) by
type, by kernel, with batches sent each step and with features on the device; a whole training of
CUB; the published PyTorch step, if `--reference-dir` and torch with CUDA are there; 16 seeds in one
program; a backbone's pictures a second; attention pooling alone. Each part has a process of its
own: one that fails, crashes or takes too long becomes a row, and the next one runs. Parts that
there is no time for are listed as skipped.

`share` is the roofline's time by the measured time. The roofline is the larger of the formula's
operations at the measured peak of that type and its bytes at the speed of the measured copy;
sending batches is not in it. For a whole training it counts the steps' products alone. `ratio` is
the published step's time (float32, as published) by ours.

`--smoke` runs the same code at tiny sizes on any machine; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Required packages, checked before any is imported: module name, and name for pip.
_NEEDED = {
    "jax": "jax[cuda13]",
    "flax": "flax",
    "optax": "optax",
    "orbax.checkpoint": "orbax-checkpoint",
    "grain": "grain",
    "tensorflow_datasets": "tensorflow-datasets",
    "ml_collections": "ml_collections",
    "absl": "absl-py",
    "einops": "einops",
    "h5py": "h5py",
    "ml_dtypes": "ml_dtypes",
    "numpy": "numpy",
    "PIL": "pillow",
    "requests": "requests",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "tensorboardX": "tensorboardX",
    "tqdm": "tqdm",
}
_COLUMNS = ("part", "what", "value", "unit", "low", "high", "share", "ratio", "note")
_START = 10.0  # seconds that starting a part takes at most


def missing() -> list[str]:
    """The packages to install, by their names for pip."""
    names = []
    for module, package in _NEEDED.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # its parent package is missing too
            found = False
        if not found:
            names.append(package)
    return names


def _run_part(
    name: str, out: Path, seconds: float, smoke: bool, reference_dir: Path | None
) -> list[dict[str, Any]]:
    """The rows of a part, and an error's row if it failed or timed out."""
    stem = name.replace(", ", "_")
    rows, log = out / f"{stem}.jsonl", out / f"{stem}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, f"--rows={rows}"]
    command += [f"--seconds={max(1.0, seconds - 2 * _START):.0f}"]
    command += ["--smoke"] if smoke else []
    command += [f"--reference-dir={reference_dir}"] if reference_dir else []
    # The published code gets the GPU to itself: JAX would not return the memory that it reserves.
    changed = {"JAX_PLATFORMS": "cpu"} if name == "published" else {}
    ended = ""
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | changed,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
            if status:
                ended = f"ended with status {status}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            ended = f"ended after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if ended:
        found.append({"what": name, "error": ended})
    return [{"part": name, **row} for row in found]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no output")


def completed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what is computed from several: shares of the roofline, and ratios."""
    peaks = {row["peak"]: row["value"] for row in rows if "peak" in row}
    theirs = {row["size"]: row["value"] for row in rows if row.get("published")}
    result = []
    for row in rows:
        row = dict(row)
        mode = row.get("mode")
        if mode in peaks and "copy" in peaks:
            compute = row["flops"] / (1e12 * peaks[mode])
            memory = row["bytes"] / (1e9 * peaks["copy"])
            row["share"] = 1e3 * max(compute, memory) / row["value"]
            row["note"] = (
                f"{row['flops'] / row['value'] / 1e9:.3g} TFLOP/s, bound by "
                f"{'products' if compute > memory else 'memory'}, loss {row['last_loss']:.4g}"
            )
        if mode and row["size"] in theirs:
            row["ratio"] = theirs[row["size"]] / row["value"]
        result.append(row)
    return result


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    from benchmarks.common import text_table

    def line(row: dict[str, Any]) -> dict[str, Any]:
        for kind in ("error", "skipped"):
            if kind in row:
                return {**row, "note": f"{kind}: {row[kind]}"}
        return {"note": "", **row}

    return "\n".join(
        [
            report["environment"],
            *(["smoke: tiny sizes, numbers mean nothing"] if report["smoke"] else []),
            *text_table([line(row) for row in report["rows"]], _COLUMNS),
        ]
    )


def measure(
    out: Path, minutes: float, smoke: bool, reference_dir: Path | None = None
) -> dict[str, Any]:
    """Runs all parts and writes what they found after each.

    Raises:
      InputError: no GPU, or JAX does not run there.
    """
    from benchmarks.gpu_parts import PARTS
    from dedn_jax.errors import InputError
    from dedn_jax.files import write_atomically, write_json

    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"smoke": smoke}
    for name, (_, most) in PARTS.items():
        left = end - time.monotonic()
        if left < 2 * _START:
            rows.append({"part": name, "what": name, "skipped": "no time left"})
        else:
            print(f"{name}: at most {min(left, most):.0f} s", file=sys.stderr)
            rows += _run_part(name, out, min(left, most), smoke, reference_dir)
        if name == "machine":
            about = next((row for row in rows if "platform" in row), None)
            if about is None:
                raise InputError(f"JAX does not run here: {rows[-1].get('error')}")
            if about["platform"] != "gpu" and not smoke:
                raise InputError(
                    f"no GPU: JAX finds {about['platform']} only; install jax[cuda13] where there "
                    "is one, or try --smoke"
                )
            report["environment"] = about["note"]
        report["rows"] = completed(rows)
        write_json(out / "gpu.json", report)
        write_atomically(out / "gpu.txt", (table(report) + "\n").encode())
    return report


def main(argv: list[str] | None = None) -> int:
    """Measures and prints; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference-dir", type=Path, help="a checkout of zjrao/DEDN")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of what is found")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all of it may take")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any machine")
    args = parser.parse_args(argv)
    if needed := missing():
        quoted = " ".join(f"'{name}'" for name in needed)
        print(f"gpu: not installed: {', '.join(needed)}; pip install {quoted}", file=sys.stderr)
        return 2
    from dedn_jax.errors import InputError

    # A signal here also ends the running part, which has a session of its own.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        if args.minutes <= 0:
            raise InputError(f"--minutes={args.minutes}, expected more than 0")
        report = measure(
            args.out.resolve(),
            args.minutes,
            args.smoke,
            args.reference_dir.resolve() if args.reference_dir else None,
        )
    except InputError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
