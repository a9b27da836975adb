"""A run or sweep that is carried on for more epochs than it was begun with.

With a constant learning rate nothing in a training depends on how long it is to last: its last
checkpoint is one of a longer training on its way.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.config import flat_fields
from dedn_jax.errors import InputError

EPOCHS = "train.epochs"


def asks_for_more(path: Path, kind: str, saved: dict[str, Any], configs: list[ConfigDict]) -> bool:
    """Whether more epochs are asked for than a run or sweep in a work directory was to last.

    Args:
      path: of the run, for messages.
      kind: what it is: "run" or "sweep".
      saved: its config.
      configs: what is given now: of the run, or of every point.

    Raises:
      InputError: more epochs would have changed it from its beginning on.
    """
    before, now = flat_fields(saved).get(EPOCHS), configs[0].train.epochs
    if not isinstance(before, int) or now <= before:  # it may be anything in others' files
        return False
    for config in configs:
        if config.optimizer.schedule != "constant":
            advice = "choose another directory"
            if kind == "run":
                advice = (
                    f"to train its parameters on, {advice} and give --config.train.init_from={path}"
                )
            raise InputError(
                f"--workdir: {path} holds a {kind} of {before} epochs, over which its learning "
                f"rate falls (config.optimizer.schedule={config.optimizer.schedule}); {advice}"
            )
    return True


def reopen(folder: Path, before: int, config: ConfigDict, *, models: bool = False) -> None:
    """Takes away what says that a run, or a point of a sweep, and its phases are finished.

    Checkpoints stay. May be repeated after a kill.

    Args:
      folder: of the run or point.
      before: epochs that it was to last; the result so far is kept under that name.
      config: what it is now.
      models: whether many are trained together, each with a last step of its own.
    """
    keep(folder, before)
    selection = config.selection
    if selection.protocol == "validation" and (models or selection.refit == "continue"):
        # It began with what was selected then; and models that had ended before the last of them
        # took no part in the later steps.
        shutil.rmtree(folder / "final", ignore_errors=True)
    for name in ("final/result.json", "validation/calibration.json", "validation/result.json"):
        (folder / name).unlink(missing_ok=True)


def keep(folder: Path, before: int, names: Iterable[str] = ("result.json",)) -> None:
    """Keeps what a training of `before` epochs ended with under names that say so."""
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(_kept(folder / name, before))


def say_carried_on(path: Path, before: int, now: int) -> None:
    """Says from where a run or sweep goes on, and where its result so far is."""
    kept = _kept(path / "result.json", before)
    print(
        f"dedn: {path}: carried on from {before} to {now} epochs"
        + (f"; its result so far is kept in {kept.name}" if kept.exists() else ""),
        file=sys.stderr,
    )


def _kept(file: Path, epochs: int) -> Path:
    return file.with_name(f"{file.stem}-{epochs}-epochs{file.suffix}")
