"""Decoding JPEGs and resizing their short side: Pillow, as the package does, and other decoders.

  python -m benchmarks.decoding [--folder=DIR] [--pictures=48] [--side=448] [--rounds=15]
      [--threads=1,2] [--json=OUT]

Pictures are synthetic (500 x 375 and 1000 x 750, noise with the spectrum of photographs) and, with
`--folder`, the JPEGs under it, `--pictures` of each kind. Every decoder's output is resized by the
same function, to the same numbers; they are interleaved, and a ratio is the median over rounds of
Pillow's time by the decoder's. Decoders that are not installed are left out:

  pip install opencv-python-headless simplejpeg PyTurboJPEG

PyTurboJPEG also needs libjpeg-turbo itself, where the system or TURBOJPEG finds it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from dedn_jax.data.pictures.decoding import decode
from dedn_jax.data.pictures.transforms import resize_short_side
from dedn_jax.errors import InputError

Decoder = Callable[[bytes], np.ndarray]
_SYNTHETIC = ((500, 375), (1000, 750))  # width, height


def decoders() -> dict[str, Decoder]:
    """Those installed: bytes to uint8 `[height, width, 3]`, RGB; Pillow first."""
    found: dict[str, Decoder] = {f"Pillow {_version('pillow')}": lambda data: decode(data, "JPEG")}
    if cv2 := _module("cv2"):
        cv2.setNumThreads(1)
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        found[f"OpenCV {_version('opencv-python-headless')}"] = lambda data: cv2.imdecode(
            np.frombuffer(data, np.uint8), flags
        )
    if simplejpeg := _module("simplejpeg"):
        found[f"simplejpeg {_version('simplejpeg')}"] = lambda data: simplejpeg.decode_jpeg(data)
    if turbojpeg := _module("turbojpeg"):
        try:
            turbo = turbojpeg.TurboJPEG(os.environ.get("TURBOJPEG"))
        except (OSError, RuntimeError) as error:
            print(f"PyTurboJPEG left out: {str(error).splitlines()[0]}", file=sys.stderr)
        else:
            found[f"PyTurboJPEG {_version('PyTurboJPEG')}"] = lambda data: turbo.decode(
                data, pixel_format=turbojpeg.TJPF_RGB
            )
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def synthetic(width: int, height: int, count: int) -> list[bytes]:
    """JPEGs of random pictures in which, as in photographs, amplitude falls with frequency."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    mixing = np.array([[1, 0.3, 0.1], [1, 0, -0.1], [1, -0.3, 0.1]])  # colours vary less than grey
    pictures = []
    for _ in range(count):
        spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency
        planes = np.fft.irfft2(spectrum, (height, width))
        planes *= 50 / planes.std(axis=(1, 2), keepdims=True)
        pixels = np.einsum("cp,phw->hwc", mixing, planes) + 128
        file = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    return pictures


def photographs(folder: Path, count: int) -> list[bytes]:
    """`count` JPEGs under a folder, spread over it.

    Raises:
      InputError: there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise InputError(f"{folder}: no .jpg files here, expected a folder of pictures")
    return [p.read_bytes() for p in islice(paths, 0, None, max(1, len(paths) // count))][:count]


def _seconds(work: Callable[[bytes], Any], pictures: list[bytes], threads: int) -> float:
    """Per picture; threads are started outside of the measurement."""
    if threads == 1:
        start = time.perf_counter()
        for picture in pictures:
            work(picture)
        return (time.perf_counter() - start) / len(pictures)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(time.sleep, [0.001] * threads))
        start = time.perf_counter()
        list(pool.map(work, pictures))
        return (time.perf_counter() - start) / len(pictures)


def measure_set(
    pictures: list[bytes], side: int, rounds: int, threads: list[int]
) -> list[dict[str, Any]]:
    """Times every decoder on the same pictures: one row per decoder and number of threads."""
    candidates = decoders()
    reference, *_ = candidates
    pixels = [candidates[reference](p).astype(np.int16) for p in pictures]
    rows = []
    for workers in threads:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
        for turn in range(rounds + 1):  # the first round warms up
            for name, decoder in candidates.items():

                def resized(data: bytes, decoder: Decoder = decoder) -> np.ndarray:
                    return resize_short_side(decoder(data), side)

                pair = _seconds(decoder, pictures, workers), _seconds(resized, pictures, workers)
                if turn:
                    times[name].append(pair)
        for name, decoder in candidates.items():
            both = list(zip(times[reference], times[name], strict=True))
            rows.append(
                {
                    "decoder": name,
                    "threads": workers,
                    "decode_ms": 1e3 * median(t for t, _ in times[name]),
                    "decode_resize_ms": 1e3 * median(t for _, t in times[name]),
                    "decode_ratio": median(base[0] / own[0] for base, own in both),
                    "decode_resize_ratio": median(base[1] / own[1] for base, own in both),
                    "levels_apart": max(
                        int(np.abs(decoder(p) - reference_pixels).max())
                        for p, reference_pixels in zip(pictures, pixels, strict=True)
                    ),
                }
            )
    return rows


def measure(
    folder: Path | None, count: int, side: int, rounds: int, threads: list[int]
) -> dict[str, Any]:
    """Times all decoders on all kinds of pictures."""
    sets = {f"synthetic {w} x {h}": synthetic(w, h, count) for w, h in _SYNTHETIC}
    if folder:
        sets["photographs"] = photographs(folder, count)
    environment = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    return {
        "environment": environment,
        "side": side,
        "rounds": rounds,
        "sets": {
            name: {
                "pictures": len(pictures),
                "mean_bytes": sum(map(len, pictures)) / len(pictures),
                "rows": measure_set(pictures, side, rounds, threads),
            }
            for name, pictures in sets.items()
        },
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [report["environment"]]
    for name, result in report["sets"].items():
        lines += [
            "",
            f"{name}: {result['pictures']} JPEGs of {result['mean_bytes'] / 1e3:.0f} kB, short "
            f"side to {report['side']}; milliseconds a picture",
            f"{'':<22}{'threads':>8}{'decode':>9}{'ratio':>7}{'+ resize':>10}{'ratio':>7}"
            f"{'levels apart':>14}",
        ]
        lines += [
            f"{row['decoder']:<22}{row['threads']:>8}{row['decode_ms']:9.2f}"
            f"{row['decode_ratio']:7.2f}{row['decode_resize_ms']:10.2f}"
            f"{row['decode_resize_ratio']:7.2f}{row['levels_apart']:14}"
            for row in result["rows"]
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="JPEGs to decode as well")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--side", type=int, default=448, help="short side after resizing")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    report = measure(
        args.folder,
        positive("--pictures", args.pictures),
        positive("--side", args.side),
        positive("--rounds", args.rounds),
        [positive("--threads", n) for n in integers("--threads", args.threads)],
    )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("decoding", main)
