"""Compiles a recipe's programs for slices, and finds what would fit where one does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.errors import InputError
from dedn_jax.parallel.resident.rule import Residency, requested, residency
from dedn_jax.plan.chips import CHIPS, Slice
from dedn_jax.plan.compile import CPU_DEVICES, compile_program
from dedn_jax.plan.roofline import loop_factor, memory_needed, roofline
from dedn_jax.plan.shapes import Problem

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MOST_EXTRA = 2  # compilations spent on what would fit
Compile = Callable[[dict[str, Any], float], dict[str, Any]]


def cpu_slice() -> Slice:
    """The devices that the CPU plays, with the figures of a chip: for tests."""
    return Slice("cpu", dataclasses.replace(CHIPS["v5e"], compiled_as=None), (2, CPU_DEVICES // 2))


def padded(images: int, parts: int) -> int:
    """A batch filled up so that all parts are as large."""
    return -(-images // parts) * parts


def plan(
    config: ConfigDict,
    problem: Problem,
    slices: Sequence[Slice],
    *,
    timeout: float,
    platform: str = "tpu",
    compile_one: Compile = compile_program,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """One row for each program and slice.

    Args:
      config: the recipe.
      problem: its sizes.
      slices: to compile for.
      timeout: seconds for each compilation.
      platform: `tpu`, or `cpu` for tests.
      compile_one: asks a worker.
      say: told what is being compiled.

    Returns:
      `problem` and `rows`; JSON-ready.

    Raises:
      InputError: see `compile_program`.
    """
    jobs = ["train"]
    if config.data.source == "images" or config.backbone.weights:
        jobs.append("extract")
    budget = MOST_EXTRA
    rows: list[dict[str, Any]] = []

    def ask(
        job: str, on: Slice, problem: Problem, on_device: str = config.data.on_device
    ) -> dict[str, Any]:
        batch = problem.batch
        images = padded(batch, max(1, _parts(config, on)))
        if job == "extract":
            # Every host has batches of its own.
            batch = config.evaluate.batch_size * on.hosts
            images = padded(config.evaluate.batch_size, on.chips // on.hosts) * on.hosts
            side = problem.picture or config.picture.crop
            problem = dataclasses.replace(problem, picture=side)
        kept = _kept(config, problem, on, on_device) if job == "train" else "never"
        say(f"compiling {job} for {on.name}, batch {images}")
        request = {
            "platform": platform,
            "topology": on.name,
            "compiled_as": on.chip.compiled_as,
            "job": job,
            "config": config.to_dict(),
            "problem": dataclasses.asdict(problem),
            "images": images,
            "mapped": job == "train",  # by `jit` over a mesh and by `pmap` alike
            "kept": kept,
        }
        answer = compile_one(request, timeout)
        row = _row(config, problem, job, (batch, images), on, answer)
        if job == "train" and not problem.picture:
            row |= {"maps": _maps(problem), "kept": kept, "parts": _parts(config, on)}
        return row

    asked = [(job, on) for job in jobs for on in slices]
    rows += [ask(job, on, problem) for job, on in asked]
    for (job, on), row in zip(asked, rows, strict=True):
        if row["fits"]:
            continue
        larger = [
            (there.chips, there.name)
            for (other, there), found in zip(asked, rows, strict=True)
            if found["fits"] and other == job and there.chip.name == on.chip.name
        ]
        larger_names = [name for chips, name in sorted(larger) if chips > on.chips]
        row["instead"] = [f"{name} fits" for name in larger_names[:1]]
        for change, smaller in _smaller(problem, row) if row["job"] == "train" else ():
            if not budget:
                break
            budget -= 1
            tried = ask("train", on, *smaller)
            word = "fits" if tried["fits"] else "does not"
            row["instead"].append(f"{change} {word} ({tried['memory_needed'] / 1e9:.2f} GB)")
            if tried["fits"]:
                break
    return {"problem": dataclasses.asdict(problem), "rows": rows}


def _maps(problem: Problem) -> int:
    """Bytes of all feature maps."""
    return problem.stored * problem.channels * problem.regions * _BYTES[problem.dtype]


def _parts(config: ConfigDict, on: Slice) -> int:
    """Into which a batch is cut."""
    return on.chips // config.distribution.attribute_shards


def _kept(config: ConfigDict, problem: Problem, on: Slice, on_device: str) -> Residency:
    """Where `place_features` would have the feature maps: on chips that hold nothing yet."""
    parts, pictures = _parts(config, on), bool(problem.picture)
    try:
        kept = requested(on_device, config.distribution.strategy, pictures=pictures, shards=parts)
    except InputError as error:
        raise InputError(f"--topology: {on.name}: {error}") from error
    return kept or residency(_maps(problem), on.chip.memory, parts, on.hosts)


def _smaller(problem: Problem, row: dict[str, Any]) -> list[tuple[str, tuple]]:
    """What to try where a step does not fit, the least loss first: problem, and on_device."""
    tries: list[tuple[str, tuple]] = []
    less = {"replicated": "sharded" if row.get("parts", 1) > 1 else "never", "sharded": "never"}
    if choice := less.get(row.get("kept", "never")):
        tries.append((f"--config.data.on_device={choice}", (problem, choice)))
    if not problem.picture and problem.dtype == "float32":
        tries.append(
            ("--config.data.dtype=bfloat16", (dataclasses.replace(problem, dtype="bfloat16"),))
        )
    over = row["memory_needed"] / row["memory"]
    batch = problem.batch >> max(1, math.ceil(math.log2(max(over, 1.0))))
    if batch:
        change = f"--config.train.batch_size={batch}"
        tries.append((change, (dataclasses.replace(problem, batch=batch),)))
    return tries


def _row(
    config: ConfigDict,
    problem: Problem,
    job: str,
    batch: tuple[int, int],
    on: Slice,
    answer: dict[str, Any],
) -> dict[str, Any]:
    """What is reported of a worker's answer; `batch` as asked for and as filled up."""
    needed = memory_needed(answer)
    row: dict[str, Any] = {
        "job": job,
        "topology": on.name,
        "chips": on.chips,
        "batch": batch[0],
        "batch_padded": batch[1],
        "memory_needed": needed,
        # What the compiler has left for a program, where it says so.
        "memory": answer.get("have", on.chip.memory),
        "fits": "needed" not in answer and needed <= on.chip.memory,
        "compiled": answer,
    }
    if "needed" in answer:
        return row
    if answer["chips"] != on.chips:
        raise InputError(
            f"--topology: {on.name}: compiled for {answer['chips']} devices, expected {on.chips}"
        )
    # A backbone's products have their own precision, and outweigh the experts'.
    precision = config.backbone.dtype if problem.picture else config.model.precision
    times = roofline(answer, on, precision)
    images = problem.images * (config.train.epochs if job == "train" else 1)
    # As `dedn train` counts its steps, and `dedn features extract` its batches.
    steps = max(1, images // batch[0]) if job == "train" else -(-images // batch[0])
    return row | {
        "roofline": dataclasses.asdict(times),
        "bound": max(("compute", "memory", "exchange"), key=lambda k: getattr(times, k)),
        "step_seconds": times.seconds,
        "steps": steps,
        "total_seconds": steps * times.seconds,
        # One that is left whole runs as many times as often as there are parts.
        "loops_not_cut": loop_factor(answer) > 1.5,
    }
