"""A run that is carried on for more epochs than it was begun with.

With a constant learning rate nothing in a training depends on how long it is to last: its last
checkpoint is one of a longer training on its way.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.errors import InputError

EPOCHS = "train.epochs"


def asks_for_more(path: Path, saved: dict[str, Any], config: ConfigDict) -> bool:
    """Whether a config asks for more epochs than the run in a work directory was to last.

    Args:
      path: of the run, for messages.
      saved: its config.
      config: what is given now.

    Raises:
      InputError: more epochs would have changed the run from its beginning on.
    """
    before = saved.get("train", {}).get("epochs", config.train.epochs)
    if config.train.epochs <= before:
        return False
    if config.optimizer.schedule != "constant":
        raise InputError(
            f"--workdir: {path} holds a run of {before} epochs, over which its learning rate falls "
            f"(config.optimizer.schedule={config.optimizer.schedule}); to train its parameters on, "
            f"choose another directory and give --config.train.init_from={path}"
        )
    return True


def reopen(path: Path, before: int, config: ConfigDict) -> None:
    """Takes away what says that a run and its phases are finished; checkpoints stay.

    May be repeated after a kill. The result so far is kept under another name.
    """
    result, kept = path / "result.json", path / f"result-{before}-epochs.json"
    if result.exists():
        result.rename(kept)
    if config.selection.protocol == "validation" and config.selection.refit == "continue":
        shutil.rmtree(path / "final", ignore_errors=True)  # it began with what was selected then
    for name in ("final/result.json", "validation/calibration.json", "validation/result.json"):
        (path / name).unlink(missing_ok=True)
    print(
        f"dedn: {path}: carried on from {before} to {config.train.epochs} epochs"
        + (f"; its result so far is kept in {kept.name}" if kept.exists() else ""),
        file=sys.stderr,
    )
