"""Compiles a recipe's programs for slices, and tries what would fit where one does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.errors import InputError
from dedn_jax.parallel.resident.rule import Residency, half_is_enough, requested, residency
from dedn_jax.plan.chips import CHIPS, Chip, Slice
from dedn_jax.plan.compile import CPU_DEVICES, compile_program
from dedn_jax.plan.floor import Floor, attention_floor, counted_floor, step_floor
from dedn_jax.plan.gpus import LAUNCH
from dedn_jax.plan.hints import step_hints
from dedn_jax.plan.sizes import Sizes

MAX_EXTRA = 2  # compilations spent on what would fit
Compile = Callable[[dict[str, Any], float], dict[str, Any]]
Row = dict[str, Any]
Change = tuple[str, Sizes, str]  # a flag; the sizes and `config.data.on_device` with it


def cpu_slice() -> Slice:
    """The simulated CPU devices, with the figures of a chip: for tests."""
    return Slice("cpu", CHIPS["v5e"], (2, CPU_DEVICES // 2))


def padded(images: int, shards: int) -> int:
    """Images of a batch that is padded to equal shards."""
    return -(-images // shards) * shards


@dataclasses.dataclass(frozen=True)
class Planner:
    """Compiles programs of a recipe.

    Attributes:
      config: the recipe.
      timeout: seconds for each compilation.
      platform: `cpu` for tests; None: that of the chips.
      compile_one: asks a worker.
      say: told what is being compiled.
      prices: of a chip-hour, by the chip's name.
    """

    config: ConfigDict
    timeout: float
    platform: str | None
    compile_one: Compile
    say: Callable[[str], None]
    prices: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def train(self, sizes: Sizes, on: Slice, on_device: str | None = None) -> Row:
        """The row of a training step; `on_device` None: as in the config."""
        shards = self._shards(on)
        placed, halved = self._residency(sizes, on, on_device or self.config.data.on_device)
        if halved:
            sizes = dataclasses.replace(sizes, dtype="bfloat16")
        batch, images = sizes.batch, padded(sizes.batch, max(1, shards))
        row = self._row("train", sizes, on, batch, images, placed)
        answer, timed = row["compiled"], "needed" not in row["compiled"]
        if timed:
            each = images // max(1, shards)
            # Counted as `dedn train` counts its steps.
            steps = max(1, sizes.images * self.config.train.epochs // batch)
            least = self._floor(sizes, on, each, answer, placed)
            row |= self._times(least, answer, sizes, on, each, steps)
        if sizes.picture:
            return row
        row |= {
            "feature_bytes": sizes.stored * sizes.map_bytes,
            "residency": placed,
            "num_shards": shards,
        }
        return row | {"hints": step_hints(self.config, sizes, on, row) if timed else []}

    def extract(self, sizes: Sizes, on: Slice) -> Row:
        """The row of the backbone's forward pass; every host has batches of its own."""
        per_host = self.config.evaluate.batch_size
        images = padded(per_host, on.chips // on.hosts) * on.hosts
        side = sizes.picture or self.config.picture.crop
        sizes = dataclasses.replace(sizes, picture=side)
        row = self._row("extract", sizes, on, per_host * on.hosts, images)
        answer = row["compiled"]
        if "needed" in answer:
            return row
        steps = -(-sizes.images // (per_host * on.hosts))
        return row | self._times(self._counted(sizes, on, answer), answer, sizes, on, 0, steps)

    def attention(self, sizes: Sizes, on: Slice) -> Row:
        """The row of attention pooling alone, of a batch on one chip of the slice."""
        images = sizes.batch
        row = self._row("attention", sizes, on, images, images)
        if "needed" in row["compiled"]:
            return row
        least = attention_floor(self.config, sizes, images, on.chip)
        return row | self._times(least, row["compiled"], sizes, on, images)

    def smaller(self, sizes: Sizes, row: Row) -> list[Change]:
        """What to try where a training step does not fit, the smallest sacrifice first."""
        found: list[Change] = []
        on_device = self.config.data.on_device
        less = {"replicated": "sharded" if row.get("num_shards", 1) > 1 else "never"}
        less["sharded"] = "never"
        if choice := less.get(row.get("residency", "never")):
            found.append((f"--config.data.on_device={choice}", sizes, choice))
        if not sizes.picture and sizes.dtype == "float32":
            half = dataclasses.replace(sizes, dtype="bfloat16")
            found.append(("--config.data.dtype=bfloat16", half, on_device))
        over = row["memory_needed"] / row["memory"]
        batch = sizes.batch >> max(1, math.ceil(math.log2(max(over, 1.0))))
        if batch:
            fewer = dataclasses.replace(sizes, batch=batch)
            found.append((f"--config.train.batch_size={batch}", fewer, on_device))
        return found

    def _shards(self, on: Slice) -> int:
        """Shards of a batch."""
        return on.chips // self.config.distribution.attribute_shards

    def _residency(self, sizes: Sizes, on: Slice, on_device: str) -> tuple[Residency, bool]:
        """Where `place_features` would put the feature maps, on chips with free memory, and
        whether in half the bits.
        """
        shards, strategy = self._shards(on), self.config.distribution.strategy
        try:
            choice = requested(on_device, strategy, pictures=bool(sizes.picture), shards=shards)
        except InputError as error:
            raise InputError(f"{on.name}: {error}") from error
        if choice:
            return choice, False
        half = half_is_enough(sizes.dtype, self.config.model.precision)
        needed = sizes.stored * sizes.map_bytes
        return residency(needed, on.chip.memory, shards, on.hosts, half=half)

    def _row(
        self,
        job: str,
        sizes: Sizes,
        on: Slice,
        batch: int,
        images: int,
        placed: Residency = "never",
    ) -> Row:
        """What is reported of a worker's answer; `images` are the batch's, padding included."""
        self.say(f"compiling {job} for {on.name}, batch {images}")
        request = {
            "platform": self.platform or on.chip.platform,
            "topology": on.name,
            "job": job,
            "config": self.config.to_dict(),
            "sizes": dataclasses.asdict(sizes),
            "images": images,
            "residency": placed,
        }
        answer = self.compile_one(request, self.timeout)
        needed = memory_needed(answer)
        if "needed" not in answer and answer["chips"] != on.chips and job != "attention":
            raise InputError(
                f"{on.name}: compiled for {answer['chips']} devices, expected {on.chips}"
            )
        return {
            "job": job,
            "topology": on.name,
            "chips": on.chips,
            "batch": batch,
            "batch_padded": images,
            "memory_needed": needed,
            # What the compiler has left for a program, where it says so.
            "memory": answer.get("have", on.chip.memory),
            "fits": "needed" not in answer and needed <= on.chip.memory,
            "compiled": answer,
        }

    def _floor(
        self, sizes: Sizes, on: Slice, images: int, answer: dict[str, Any], placed: Residency
    ) -> Floor:
        """Of a training step; `images` are a chip's."""
        if sizes.picture:
            return self._counted(sizes, on, answer)
        # What the compiled step keeps of the state on a chip; laid out it may be padded.
        state = min(answer["state"], answer["aliased"] or answer["state"])
        return step_floor(self.config, sizes, images, on, answer["parameters"], state, placed)

    def _counted(self, sizes: Sizes, on: Slice, answer: dict[str, Any]) -> Floor:
        """Of a program with a backbone, whose products outweigh the experts'."""
        precision = self.config.backbone.dtype if sizes.picture else self.config.model.precision
        moved = answer["arguments"] + answer["outputs"]
        return counted_floor(answer["flops"], answer["flops_bfloat16"], moved, on.chip, precision)

    def _times(
        self,
        least: Floor,
        answer: dict[str, Any],
        sizes: Sizes,
        on: Slice,
        images: int,
        steps: int = 0,
    ) -> Row:
        """Floor, what the compiler says of time, what bounds the program; the price of all steps.

        A TPU's compiler has a schedule; without one there is an estimate for a GPU, else the floor.
        """
        floor = dataclasses.asdict(least) | {"seconds": least.seconds, "bound": least.bound}
        row: Row = {"floor": floor, "schedule": answer.get("schedule"), "estimate": None}
        if schedule := row["schedule"]:
            seconds = schedule["seconds"]
            if schedule["kernels"]:  # whose code could not be read
                seconds += attention_floor(self.config, sizes, images, on.chip).seconds
            parts = {k: schedule[k] for k in ("compute", "memory", "exchange", "latency")}
        elif launches := answer.get("launches"):
            parts = row["estimate"] = estimate(least, launches, on.chip)
            seconds = max(parts["compute"], parts["memory"]) + parts["latency"]
        else:
            seconds, parts = least.seconds, {least.bound: least.seconds}
        row |= {"step_seconds": seconds, "bound": max(parts, key=lambda k: parts[k])}
        if steps:
            total = steps * seconds
            row |= {"steps": steps, "total_seconds": total, "chip_hours": on.chips * total / 3600}
            if on.chip.name in self.prices:
                row["price"] = row["chip_hours"] * self.prices[on.chip.name]
        return row


def estimate(least: Floor, launches: Mapping[str, int], gpu: Chip) -> dict[str, float]:
    """Seconds on a GPU by rules of thumb; nothing of it is scheduled or measured.

    Products at their peak, all operands and results through main memory, and `LAUNCH` for each
    launch.
    """
    return {
        "compute": least.compute,
        "memory": (launches["read"] + launches["written"]) / gpu.bandwidth,
        "latency": launches["launches"] * LAUNCH,
    }


def memory_needed(answer: Mapping[str, Any]) -> float:
    """Bytes of a chip's memory; an output that reuses an argument's memory costs nothing."""
    if "needed" in answer:
        return float(answer["needed"])
    outputs = answer["outputs"] - answer["aliased"]
    return float(answer["arguments"] + answer["temporaries"] + outputs + answer["code"])


def plan(
    config: ConfigDict,
    sizes: Sizes,
    slices: Sequence[Slice],
    *,
    timeout: float,
    platform: str | None = None,
    compile_one: Compile = compile_program,
    say: Callable[[str], None] = lambda _: None,
    prices: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One row for each program and slice.

    Args:
      config: the recipe.
      sizes: of its data.
      slices: to compile for.
      timeout, platform, compile_one, say, prices: see `Planner`.

    Returns:
      `problem` (the sizes) and `rows`; JSON-ready.

    Raises:
      InputError: see `compile_program`.
    """
    planner = Planner(config, timeout, platform, compile_one, say, prices or {})
    tables = [[planner.train(sizes, on) for on in slices]]
    if config.data.source == "images" or config.backbone.weights:
        tables.append([planner.extract(sizes, on) for on in slices])
    budget = MAX_EXTRA
    for rows in tables:
        for on, row in zip(slices, rows, strict=True):
            if row["fits"]:
                continue
            row["instead"] = _larger(on, slices, rows)
            changes = planner.smaller(sizes, row) if row["job"] == "train" else []
            for flag, changed, on_device in changes[:budget]:
                budget -= 1
                tried = planner.train(changed, on, on_device)
                word = "fits" if tried["fits"] else "does not"
                row["instead"].append(f"{flag} {word} ({tried['memory_needed'] / 1e9:.2f} GB)")
                if tried["fits"]:
                    break
    return {"problem": dataclasses.asdict(sizes), "rows": [row for rows in tables for row in rows]}


def _larger(on: Slice, slices: Sequence[Slice], rows: Sequence[Row]) -> list[str]:
    """The smallest larger slice of the same chips whose row fits, in a list; else none."""
    fitting = [
        (there.chips, there.name)
        for there, row in zip(slices, rows, strict=True)
        if row["fits"] and there.chip.name == on.chip.name and there.chips > on.chips
    ]
    return [f"{name} fits" for _, name in sorted(fitting)[:1]]
