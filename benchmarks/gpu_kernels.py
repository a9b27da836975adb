"""A part of `benchmarks.gpu`: the kernels of a train step, by time, from a trace."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.gpu_part import NAMES, Part
from benchmarks.gpu_steps import executor_of, problem_of

_SHOWN = 14  # kernels, the longest


class _Kernel(NamedTuple):
    name: str
    start: float  # ns
    duration: float  # ns


def step_kernels(part: Part) -> None:
    """Steps in bfloat16 with resident features, with fused kernels and with XLA's operations."""
    for name in ("awa2",) if part.smoke else NAMES:
        for kernel in ("xla",) if part.smoke else ("pallas", "xla"):
            what = f"{name} bfloat16 {kernel}"
            part.attempt(what, _step_kernels, part, what, name, kernel)


def _step_kernels(part: Part, what: str, name: str, kernel: str) -> None:
    config, dataset = problem_of(part, kernel, name, "bfloat16")
    with jax.default_matmul_precision(config.model.precision):
        executor, state, _ = executor_of(part, config, dataset, resident=True)
        steps = executor.max_steps
        for _ in range(2):  # compiles, and warms up
            state, terms = executor.run(state, steps)
        jax.block_until_ready(terms)
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                state, terms = executor.run(state, steps)
                jax.block_until_ready(terms)
            found = traced(Path(folder), part.smoke)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for event in found:
        times[event.name].append(event.duration)
    busy = sum(event.duration for event in found)
    idle, end = 0.0, found[0].start
    for event in found:
        idle += max(0.0, event.start - end)
        end = max(end, event.start + event.duration)
    count = f"{len(found) / steps:.0f} launches a step"
    part.add(f"{what}, all kernels", value=1e-6 * busy / steps, unit="ms", note=count)
    part.add(f"{what}, between kernels", value=1e-6 * idle / steps, unit="ms")
    longest = sorted(times.items(), key=lambda item: -sum(item[1]))[:_SHOWN]
    for title, durations in longest:
        note = f"{len(durations) / steps:.3g} a step, {100 * sum(durations) / busy:.0f}% of all"
        part.add(f"{what}, {title}", value=1e-3 * sum(durations) / steps, unit="us", note=note)


def traced(folder: Path, smoke: bool) -> list[_Kernel]:
    """What ran on the first GPU, in turn; for a smoke test on a CPU, on the threads of XLA.

    Raises:
      ValueError: the trace has no kernels.
    """
    (path,) = folder.glob("**/*.xplane.pb")
    plane, line = ("/host:CPU", "tf_XLA") if smoke else ("/device:GPU:0", "Stream")
    found = [
        _Kernel(event.name, event.start_ns, event.duration_ns)
        for p in jax.profiler.ProfileData.from_file(str(path)).planes
        if p.name == plane
        for li in p.lines
        if li.name.startswith(line)
        for event in li.events
        if event.duration_ns
    ]
    if not found:
        raise ValueError("the trace has no kernels")
    return sorted(found, key=lambda event: event.start)
