"""What is said of a run besides its numbers: data set, config, versions."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from dedn_jax.training.environment import started, versions
from dedn_jax.training.logs import read_lines
from dedn_jax.training.run import TrainingRun
from dedn_jax.training.workdir import Workdir

_VERSION = re.compile(r"\d+(\.\d+)*")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of one run.

    Attributes:
      run: what the run is called: the name of its work directory.
      dataset: what its data set is called.
      summary: sizes, steps and seed, in a sentence.
      config: the resolved config.
      fingerprint: sizes and hashes of the data.
      versions: of this package, Python and the libraries.
    """

    run: str
    dataset: str
    summary: str
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    versions: dict[str, str]


def facts_of(run: TrainingRun) -> Facts:
    """The facts of a finished run."""
    data, result = run.dataset, run.result
    summary = (
        f"{len(data.labels)} images, {len(data.seen_classes)} seen and "
        f"{len(data.unseen_classes)} unseen classes, {data.num_attributes} attributes in "
        f"{len(run.groups.names)} group{'s' if len(run.groups.names) > 1 else ''} "
        f"({', '.join(run.groups.names)}); {result['steps']} steps, seed {result['seed']}."
        + _speed(run.workdir)
    )
    return Facts(
        run=run.workdir.path.resolve().name,
        dataset=(
            data.source
            if data.given
            else dataset_name(run.config.data.format, run.config.data.path)
        ),
        summary=summary,
        config=run.config.to_dict(),
        fingerprint=run.workdir.recorded_dataset() or {},
        versions=versions(),
    )


def _speed(workdir: Workdir) -> str:
    """How fast the last steps were, and how much of the time went into steps; of old runs ""."""
    lines = read_lines(workdir.metrics_file, timing=True)
    last: dict[str, Any] = next((line for line in reversed(lines) if "goodput" in line), {})
    rate, goodput = (last.get(name) for name in ("steps_per_second", "goodput"))
    if not isinstance(rate, float) or not isinstance(goodput, float):
        return ""
    times = max(1, len(started(workdir.path)))
    return (
        f" {rate:.3g} steps a second; {goodput:.0%} of the time since the first of {times} "
        f"start{'s' if times > 1 else ''} went into steps."
    )


def dataset_name(data_format: str, data_path: str) -> str:
    """What to call the data set of `config.data`: never the path of a cache.

    >>> dataset_name("prepared", "prepared/cub/1.0.0")
    'cub'
    """
    if data_format == "demo":
        return "the demo set of drawn creatures"
    path = Path(data_path or "arrays")
    if _VERSION.fullmatch(path.name) and path.parent.name:  # of a prepared set
        path = path.parent
    return path.stem if path.suffix in (".hdf5", ".h5") else path.name
