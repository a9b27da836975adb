"""The train step on growing numbers of devices: equal losses, communication, and overhead.

  python -m benchmarks.scaling [--devices=1,2,4,8] [--processes=1,2,4]
      [--ways=jit,pmap,replicated,sharded] [--groups=GROUPS] [--rows=8] [--channels=64]
      [--regions=49] [--steps=20] [--rounds=3] [--json=OUT]

Devices are simulated by XLA on this machine's CPU, in a process of their own for every count;
processes are real ones that talk over localhost, with a device each. Weak: `--rows` images for
every device. Strong: as many images as the largest count has, sharded over all. Ways: batches
streamed to a `jit` over the mesh, or to `pmap`; or looked up in resident feature maps, `replicated`
on the devices or `sharded` over them.

Ways take turns step by step, counts round by round. `difference` is the largest relative one
between the losses of any way and those of one device's `jit` on the same batches, over all steps. A
way's time is of a step: median and quartiles of all rounds, in milliseconds. `share` is the part
that the products of a step have of a matrix product's peak, measured between the processes, for the
first of the ways. Collectives are those that the compiled step runs, and their MB those of the
whole arrays that they reduce or hand out. All devices and processes share the same cores: in strong
scaling the work is the same for any number of them, and extra time is overhead. This says nothing
about how real devices scale.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.arguments import integers, positive, run_benchmark, show_report
from benchmarks.common import (
    Peaks,
    Row,
    environment,
    host_peaks,
    peaks_line,
    spread,
    step_flops,
    text_table,
)
from benchmarks.scaling_work import ATTRIBUTES, RECIPE, WAYS
from dedn_jax.errors import InputError

_TIMEOUT = 300
Found = dict[str, Row]  # what `scaling_work.work` found, by way


class Setting(NamedTuple):
    """A number of devices or processes, and their batch.

    Attributes:
      kind: `devices` or `processes`.
      parts: how many of them.
      batch: images of a step.
    """

    kind: str
    parts: int
    batch: int


def _start(arguments: list[str], devices: int, folder: Path, name: str) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    changed = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling_work", *arguments],
            env=os.environ | changed,
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _run(setting: Setting, job: list[str]) -> Found:
    """Runs `scaling_work` in a setting.

    Raises:
      InputError: it failed; names the last line of its output.
    """
    kind, parts, batch = setting
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arguments = [*job, f"--batch={batch}", f"--out={folder / 'result.json'}"]
        if kind == "devices" or parts == 1:
            started = [_start(arguments, parts, folder, "0")]
        else:
            with socket.socket() as s:
                s.bind(("localhost", 0))
                port = s.getsockname()[1]
            arguments += [f"--join=localhost:{port},{parts}"]
            started = [
                _start([*arguments, f"--process={i}"], 1, folder, str(i)) for i in range(parts)
            ]
        try:
            for i, process in enumerate(started):
                if process.wait(_TIMEOUT):
                    lines = (folder / f"{i}.log").read_text().strip().splitlines() or ["no output"]
                    raise InputError(f"{parts} {kind}: a process failed: {lines[-1]}")
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{parts} {kind}: not done after {_TIMEOUT} s") from error
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        result: Found = json.loads((folder / "result.json").read_text())
        return result


def _difference(losses: list[float], base: list[float]) -> float:
    expected = np.asarray(base)
    return float((np.abs(np.asarray(losses) - expected) / np.abs(expected)).max())


def measure(
    counts: dict[str, list[int]],
    ways: list[str],
    rows: int,
    shape: tuple[int, int],
    steps: int,
    rounds: int,
    groups: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """A row for every kind, scaling and count.

    Args:
      counts: of `devices` and of `processes`.
      ways: of `WAYS`.
      rows: images of a device, weak.
      shape: channels and regions of the feature maps.
      steps: that are compared and timed in every round.
      rounds: of all settings.
      groups: `config.data.groups`, where not the recipe's.
      say: told what runs.
    """
    wanted = {
        (kind, scaling, parts): Setting(
            kind, parts, rows * (parts if scaling == "weak" else max(numbers))
        )
        for kind, numbers in counts.items()
        for scaling in ("weak", "strong")
        for parts in numbers
    }
    # One process with one device is the same for both kinds, and the base of all comparisons.
    alone = {s.batch: Setting("devices", 1, s.batch) for s in wanted.values()}
    wanted = {key: alone[s.batch] if s.parts == 1 else s for key, s in wanted.items()}
    shown = set(wanted.values())
    settings = list(dict.fromkeys([*alone.values(), *wanted.values()]))
    job = [f"--channels={shape[0]}", f"--regions={shape[1]}", f"--steps={steps}"]
    job += [f"--groups={groups}"] if groups else []
    found: dict[Setting, list[Found]] = {setting: [] for setting in settings}
    peaks_of_rounds = []
    for turn in range(rounds):
        for setting in settings:
            say(f"round {turn + 1} of {rounds}: {setting.parts} {setting.kind}, {setting.batch}")
            asked = ways if setting in shown else []
            compared = asked if setting.parts > 1 or "jit" in asked else [*asked, "jit"]
            found[setting].append(_run(setting, [*job, f"--ways={','.join(compared)}"]))
            peaks_of_rounds.append(host_peaks(1))
    peak = Peaks.median(peaks_of_rounds)

    table = []
    for (kind, scaling, parts), setting in wanted.items():
        losses = found[alone[setting.batch]][0]["jit"]["losses"]
        least = step_flops(setting.batch, ATTRIBUTES, *shape) / peak.product
        of_ways = {way: _of_rounds([one[way] for one in found[setting]], losses) for way in ways}
        for own in of_ways.values():
            own["share"] = least / (1e-3 * own["median"])
        row = {"kind": kind, "scaling": scaling, "parts": parts, "batch": setting.batch}
        table.append({**row, "ways": of_ways})
    return {
        "environment": environment(),
        "problem": f"{RECIPE}{groups and f' with groups {groups}'}, features "
        f"[{shape[0]}, {shape[1]}] float32, {steps} steps, {rounds} rounds",
        **peak.numbers(),
        "ways": ways,
        "rows": table,
    }


def _of_rounds(rounds: list[Row], losses: list[float]) -> Row:
    """One way in all rounds of a setting, compared with one device's losses."""
    return {
        "difference": max(_difference(one["losses"], losses) for one in rounds),
        "last_loss": rounds[0]["losses"][-1],
        "collectives": rounds[0]["collectives"],
        "collective_mb": rounds[0]["collective_mb"],
        **spread([t for one in rounds for t in one["times"]]),
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    ways = report["ways"]

    def line(row: Row) -> Row:
        of_ways = row["ways"]
        result = {k: row[k] for k in ("kind", "scaling", "parts", "batch")}
        result["difference"] = max(w["difference"] for w in of_ways.values())
        for way, w in of_ways.items():
            result[way] = f"{w['median']:.3g} ({w['low']:.3g}-{w['high']:.3g})"
        return result | {"share": of_ways[ways[0]]["share"]}

    def traffic(row: Row) -> Row:
        result = {k: row[k] for k in ("kind", "scaling", "parts", "batch")}
        for way, w in row["ways"].items():
            result[way] = f"{w['collectives']}, {w['collective_mb']:.3g}"
        return result

    heads = ("kind", "scaling", "parts", "batch")
    return "\n".join(
        [
            report["environment"],
            f"{report['problem']}; {peaks_line(report)}",
            "all parts share the same cores: times are of overhead, not of scaling",
            *text_table([*map(line, report["rows"])], (*heads, "difference", *ways, "share")),
            "",
            "collectives of a step, and MB that they reduce or hand out",
            *text_table([*map(traffic, report["rows"])], (*heads, *ways)),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", default="1,2,4,8", help="simulated, comma-separated")
    parser.add_argument("--processes", default="1,2,4", help="on localhost, comma-separated")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated")
    parser.add_argument("--groups", default="", help="config.data.groups, as the recipe has it")
    parser.add_argument("--rows", type=int, default=8, help="images of a device")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--regions", type=int, default=49)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the report here as well")
    args = parser.parse_args(argv)
    ways = args.ways.split(",")
    if not set(ways) <= set(WAYS):
        raise InputError(f"--ways={args.ways}, expected some of {', '.join(WAYS)}")
    counts = {
        "devices": [positive("--devices", n) for n in integers("--devices", args.devices)],
        "processes": [positive("--processes", n) for n in integers("--processes", args.processes)],
    }
    report = measure(
        counts,
        ways,
        positive("--rows", args.rows),
        (positive("--channels", args.channels), positive("--regions", args.regions)),
        positive("--steps", args.steps),
        positive("--rounds", args.rounds),
        groups=args.groups,
        say=lambda text: print(text, file=sys.stderr),
    )
    show_report(table(report), report, args.json)


if __name__ == "__main__":
    run_benchmark("scaling", main)
