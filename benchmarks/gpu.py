"""All measurements that need a GPU, in one command and within minutes.

  python -m benchmarks.gpu [--reference-dir=DEDN] [--out=gpu] [--minutes=8] [--smoke]
      [--parts=machine,steps-xla,...]

Where JAX finds no GPU it says so at once and measures nothing. Writes `gpu.json` and `gpu.txt`, a
table, into `--out`, anew after every part, and a log of each. Parts: the device's peaks; train
steps of CUB, AWA2 and SUN at the published sizes (batch 50) by type, by kernel, with batches sent
each step and with features on the device; what each launch of such a step takes, from a trace; a
whole training of CUB; the published PyTorch step, if
`--reference-dir` and torch with CUDA are there; 16 seeds in one program; a backbone's pictures a
second; attention pooling alone. Each part has a process of its own: one that fails, crashes or
takes too long becomes a row, and the next one runs. Parts that there is no time for are listed as
skipped.

`--minutes` is that of all of it. The parts share it by weight, and what one does not need goes to
the next. Compiling, on a GPU mostly the trying out of algorithms, takes from a share of its own,
and is a column of its own: `compile_s`, seconds since the row before. Compiled programs and chosen
algorithms are kept in `--out`, so that a second run compiles next to nothing.

`share` is the roofline's time by the measured time. The roofline is the larger of the formula's
operations at the measured peak of that type and its bytes at the speed of the measured copy;
sending batches is not in it. For a whole training it counts the steps' products alone. `ratio` is
the published step's time (float32, as published) by ours.

`--smoke` runs the same code at tiny sizes on any machine, all parts in one process; its numbers
mean nothing.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dedn_jax.errors import InputError

# What the parts import, checked before anything is: module name, and name for pip. The rest are
# requirements of these.
_NEEDED = {
    "jax": "jax[cuda13]",
    "flax": "flax",
    "optax": "optax",
    "orbax.checkpoint": "orbax-checkpoint",
    "grain": "grain",
    "ml_collections": "ml_collections",
    "einops": "einops",
    "jaxtyping": "jaxtyping",
    "h5py": "h5py",
    "PIL": "pillow",
    "tensorboardX": "tensorboardX",
    "tqdm": "tqdm",
}
_COLUMNS = ("part", "what", "value", "unit", "low", "high", "share", "ratio", "compile_s", "note")
_START = 10.0  # seconds that starting a part takes at most
_COLD = 0.4  # share of the time that compiling may take, all parts together
_LONGEST = 1440  # minutes
_ROOT = Path(__file__).parents[1]
# LLVM's optimisations would take twice the time, for numbers that mean nothing.
_SMOKE_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


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


def found_device() -> dict[str, Any]:
    """What `benchmarks.gpu_device` prints; a process of its own, since JAX takes a GPU's memory.

    Raises:
      InputError: it fails.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_device"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"cannot start: {_last_line(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def check_gpu(about: dict[str, Any]) -> None:
    """Checks what `found_device` gave.

    Raises:
      InputError: no GPU.
    """
    if about["platform"] != "gpu":
        why = "the driver lists none either; run it where there is one"
        if about["gpus"]:
            why = (
                f"the driver lists {about['gpus']}: install jax[cuda13], or jax[cuda12] for a "
                "driver before 580, and leave JAX_PLATFORMS unset"
            )
        raise InputError(f"no GPU: JAX finds {about['platform']} only, {why}; or try --smoke")


def limits(left: float, weights: Sequence[float]) -> tuple[float, float]:
    """Seconds for the first of the parts to come: for its measurements, and for all it does.

    Args:
      left: seconds for all parts.
      weights: of the parts.
    """
    free = max(0.0, left - _START * len(weights))
    measuring = (1 - _COLD) * free * weights[0] / sum(weights)
    return measuring, measuring + _COLD * free + _START


def _environment(names: Sequence[str], out: Path, smoke: bool) -> dict[str, str]:
    """Variables of the process that runs these parts."""
    # All that is compiled is kept, unless the caller has a cache that he set up otherwise.
    found = {
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    } | os.environ
    if smoke:
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {_SMOKE_FLAGS}".strip()
    if names == ["published"]:
        # The published code gets the GPU to itself: JAX would not return the memory it reserves.
        found["JAX_PLATFORMS"] = "cpu"
    return found


def _run_parts(
    names: list[str],
    out: Path,
    seconds: tuple[float, float],
    smoke: bool,
    reference_dir: Path | None,
) -> list[dict[str, Any]]:
    """The rows of parts in one process, and an error's row if it failed or timed out."""
    title = names[0] if len(names) == 1 else "all parts"
    stem, (measuring, most) = title.replace(", ", "_").replace(" ", "_"), seconds
    rows, log = out / f"{stem}.jsonl", out / f"{stem}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", *names, f"--rows={rows}"]
    command += [f"--seconds={measuring:.1f}"]
    command += ["--smoke"] if smoke else []
    command += [f"--reference-dir={reference_dir}"] if reference_dir else []
    ended = ""
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(names, out, smoke),
            cwd=_ROOT,
            start_new_session=True,
        )
        try:
            status = process.wait(most)
            if status:
                ended = f"ended with status {status}: {_last_line(log.read_text(errors='replace'))}"
        except subprocess.TimeoutExpired:
            ended = f"ended after {most:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if ended:
        found.append({"part": title, "what": title, "error": ended})
    return found


def _last_line(text: str) -> str:
    lines = (line.strip()[:300] for line in reversed(text.split("\n")))
    return next((line for line in lines if line), "no output")


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
            f"{report['seconds']:.0f} s, {report['compile_seconds']:.0f} of them compiling",
            *(["smoke: tiny sizes, numbers mean nothing"] if report["smoke"] else []),
            *text_table([line(row) for row in report["rows"]], _COLUMNS),
        ]
    )


def measure(
    out: Path,
    minutes: float,
    smoke: bool,
    reference_dir: Path | None = None,
    parts: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs parts, all of them unless some are named, and writes what they found after each.

    Raises:
      InputError: no GPU, or JAX does not run there; a part that there is not.
    """
    from dedn_jax.files import write_atomically, write_json

    start = time.monotonic()
    about = found_device()
    if not smoke:
        check_gpu(about)
    rows: list[dict[str, Any]] = []
    weights: dict[str, float] = about["weights"]
    if unknown := [name for name in parts if name not in weights]:
        raise InputError(f"--parts: {unknown[0]!r}, expected names from {', '.join(weights)}")
    weights = {name: weight for name, weight in weights.items() if not parts or name in parts}
    out.mkdir(parents=True, exist_ok=True)
    calls = [[*weights]] if smoke else [[name] for name in weights]
    report: dict[str, Any] = {"environment": about["note"], "smoke": smoke}
    for number, names in enumerate(calls):
        left = start + 60 * minutes - time.monotonic()
        to_come = [sum(weights[name] for name in call) for call in calls[number:]]
        seconds = limits(left, to_come)
        if left < 2 * _START:
            rows += [{"part": n, "what": n, "skipped": "no time left"} for n in names]
        else:
            print(f"{', '.join(names)}: at most {seconds[1]:.0f} s", file=sys.stderr)
            rows += _run_parts(names, out, seconds, smoke, reference_dir)
        report["seconds"] = time.monotonic() - start
        report["compile_seconds"] = sum(row.get("compile_s", 0.0) for row in rows)
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
    parser.add_argument("--parts", default="", help="these alone, separated by commas")
    args = parser.parse_args(argv)
    if needed := missing():
        quoted = " ".join(f"'{name}'" for name in needed)
        print(f"gpu: not installed: {', '.join(needed)}; pip install {quoted}", file=sys.stderr)
        return 2
    # A signal here also ends the running part, which has a session of its own.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        if not 0 < args.minutes <= _LONGEST:
            raise InputError(
                f"--minutes={args.minutes}, expected more than 0 and at most {_LONGEST}"
            )
        report = measure(
            args.out.resolve(),
            args.minutes,
            args.smoke,
            args.reference_dir.resolve() if args.reference_dir else None,
            [name for name in args.parts.split(",") if name],
        )
    except (InputError, OSError) as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
