"""Checkpoints through Orbax: training state, and the selection so far."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from dedn_jax.errors import InputError
from dedn_jax.json_values import OBJECT, Kind
from dedn_jax.training.step import TrainState


class Snapshot(NamedTuple):
    """All a phase needs to go on as if it had never stopped.

    Attributes:
      state: training state.
      selected: parameters of the best evaluation so far.
      position: JSON-ready: what was selected, and whatever else the state does not tell.
    """

    state: TrainState
    selected: nnx.State
    position: dict[str, Any]


def _copy(tree: Any) -> Any:
    # Saving goes on in the background while the next step reuses (donates) the state's memory.
    return jax.tree.map(jnp.copy, tree)


class Checkpoints:
    """The last few snapshots of one training phase.

    Args:
      directory: of this phase's checkpoints; created when missing.
      keep: how many of the newest to keep.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Starts writing; a step that is already there is left alone."""
        if step in self._manager.all_steps():
            return
        with _writing(self._directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_copy(snapshot.state)),
                    selected=ocp.args.StandardSave(_copy(snapshot.selected)),
                    position=ocp.args.JsonSave(copy.deepcopy(snapshot.position)),
                ),
            )

    def restore_latest(self, like: Snapshot, position: Kind = OBJECT) -> Snapshot | None:
        """The newest snapshot, shaped like `like`; None when there is none.

        Args:
          like: a snapshot of the same structure, shapes and dtypes.
          position: what is relied on in the snapshot's.

        Raises:
          InputError: it cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            found: Any = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like.state),
                    selected=ocp.args.StandardRestore(like.selected),
                    position=ocp.args.JsonRestore(),
                ),
            )
            position.check(found.position, "position")
        except Exception as error:  # Orbax raises many kinds for a damaged directory
            raise InputError(
                f"{self._directory / str(step)}: cannot be restored "
                f"({type(error).__name__}: {_first_line(error)}); remove that folder to resume "
                "from the checkpoint before it"
            ) from error
        return Snapshot(found.state, found.selected, found.position)

    def close(self) -> None:
        """Waits for what is still being written.

        Raises:
          InputError: it cannot be written.
        """
        try:
            with _writing(self._directory):
                self._manager.wait_until_finished()
        finally:
            self._manager.close()


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError:  # a barrier without a process that has ended, for one
        raise
    except Exception as error:  # Orbax and TensorStore have many kinds for a full disk
        # TensorStore names its files first, and says what the system said last.
        reason = getattr(error, "strerror", None) or str(error).strip().rsplit(": ", 1)[-1]
        raise InputError(
            f"{directory}: cannot be written ({type(error).__name__}: "
            f"{' '.join(reason.split())[:200]}); free some space and give the same command: it "
            "resumes from the last complete checkpoint"
        ) from error


def save_params(directory: Path, params: nnx.State) -> None:
    """Writes the selected parameters of a phase to `directory`, whole or not at all."""
    if directory.exists():  # a run that died between this and its result file writes it again
        shutil.rmtree(directory)
    with _writing(directory), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.resolve(), params)


def load_params(directory: Path, like: nnx.State) -> nnx.State:
    """Reads the parameters that `save_params` wrote.

    Args:
      directory: what `save_params` was given.
      like: a state of the expected structure, shapes and dtypes.

    Raises:
      InputError: nothing there, or parameters of another shape.
    """
    if not directory.is_dir():
        raise InputError(
            f"{directory}: no trained model here; finish `dedn train` first, or remove "
            f"{directory.parent} if it was finished"
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(directory.resolve(), like)
    except Exception as error:  # Orbax raises many kinds for a damaged directory
        raise InputError(
            f"{directory}: cannot be restored ({type(error).__name__}: {_first_line(error)}); "
            "was it trained with this config and data set?"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
