"""Checkpoints through Orbax: training state, and the selection so far.

Process 0 writes, and every process reads all of it by itself: processes need not see one folder,
nor wait for each other while files are written or read.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from tqdm import tqdm

from dedn_jax.errors import InputError, tells_of_lost_process
from dedn_jax.files import read_json, write_json
from dedn_jax.json_values import OBJECT, Kind
from dedn_jax.parallel.agreement import check_agreement
from dedn_jax.parallel.mesh import on_main_host, put_on_all
from dedn_jax.parallel.processes import barrier, is_main, max_over_processes
from dedn_jax.system_errors import remedy
from dedn_jax.training.step import TrainState

_CHECKSUM = "crc32"
_CHECKSUM_FILE = "checksum.json"
_CHANGED = "its values have changed since they were written"


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


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax within this process."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
    )


class Checkpoints:
    """The last few snapshots of one training phase.

    Args:
      directory: of this phase's checkpoints; created when missing.
      keep: how many of the newest to keep.
      check_there: called before a snapshot is written and once all are; raises InputError where
        they would not come, or have not come, to that directory.
    """

    def __init__(self, directory: Path, keep: int, check_there: Callable[[], None]) -> None:
        self._directory, self._check_there = directory, check_there
        directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=False,
                cleanup_tmp_directories=is_main(),
                read_only=not is_main(),
                multiprocessing_options=_alone(),
            ),
        )
        self._steps = set(self._manager.all_steps())

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Starts writing, in process 0; a step that is already there is left alone.

        Several processes have to ask together: arrays may lie on devices of all.

        Raises:
          InputError: it cannot be written, or the directory is not there any more.
        """
        self._check_there()
        if step in self._steps:
            return
        self._steps.add(step)
        # A copy: writing goes on while the next step reuses (donates) the state's memory.
        copied = on_main_host((snapshot.state, snapshot.selected))
        if copied is None:
            return
        state, selected = copied
        position = copy.deepcopy(snapshot.position)
        position[_CHECKSUM] = _checksum_of(Snapshot(state, selected, position))
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    selected=ocp.args.StandardSave(selected),
                    position=ocp.args.JsonSave(position),
                ),
            )

    def restore_latest(self, like: Snapshot, position: Kind = OBJECT) -> Snapshot | None:
        """The newest snapshot that can be read, shaped like `like`; None when there is none.

        Newer ones that cannot be read are named in a line each, and removed once an older one has
        been restored: they are written again when training comes to their steps.

        Args:
          like: a snapshot of the same structure, shapes and dtypes.
          position: what is relied on in the snapshot's.

        Raises:
          InputError: there are some, and none can be read; or processes see different ones.
        """
        steps = sorted(self._steps, reverse=True)
        check_agreement(f"the checkpoints of {self._directory.parent.name}", {"steps": steps})
        damaged: list[tuple[int, str]] = []
        found: Snapshot | None = None
        for step in steps:
            found, reason = self._restored(step, like, position)
            # Processes go on from the same step; reading takes some of them longer.
            barrier("a checkpoint is read")
            if not max_over_processes(int(found is None)):
                break
            found = None
            damaged.append((step, reason or "another process cannot read it"))
        if damaged and found is None:
            step, reason = damaged[0]
            raise InputError(
                f"{self._directory / str(step)}: cannot be restored ({reason})"
                f"{', nor can any before it' if len(damaged) > 1 else ''}; was it trained with "
                f"this version, config and data set? If so, remove {self._directory} to train the "
                "phase from its start"
            )
        self._steps -= {step for step, _ in damaged}
        for step, reason in damaged if is_main() else ():
            with self._writing():
                self._manager.delete(step)
            tqdm.write(
                f"dedn: {self._directory / str(step)}: damaged ({reason}); going on from the "
                "checkpoint before it",
                file=sys.stderr,
            )
        return found

    def _restored(self, step: int, like: Snapshot, position: Kind) -> tuple[Snapshot | None, str]:
        """The snapshot of a step, or why it cannot be read."""
        try:
            found: Any = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_on_host_as(like.state)),
                    selected=ocp.args.StandardRestore(_on_host_as(like.selected)),
                    position=ocp.args.JsonRestore(),
                ),
            )
            position.check(found.position, "position")
            saved = found.position.pop(_CHECKSUM, None)
            snapshot = Snapshot(found.state, found.selected, found.position)
            # Older versions kept no sum.
            if saved is not None and saved != _checksum_of(snapshot):
                raise ValueError(_CHANGED)
            state, selected = _placed((found.state, found.selected), (like.state, like.selected))
        except Exception as error:  # Orbax raises many kinds for a damaged directory
            if _is_of_the_runtime(error):
                raise
            return None, _reason(error)
        return Snapshot(state, selected, found.position), ""

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _writing(self._directory):
                yield
        except InputError:
            self._check_there()  # which is why, if it raises
            raise

    def close(self) -> None:
        """Waits for what is still being written.

        Raises:
          InputError: it cannot be written, or has not come to the directory.
        """
        try:
            with self._writing():
                self._manager.wait_until_finished()
            self._check_there()
        except BaseException:
            with suppress(Exception):  # says the same again
                self._manager.close()
            raise
        self._manager.close()


def _is_of_the_runtime(error: Exception) -> bool:
    """Whether it tells of a device or another process, and not of the files."""
    lost = jax.process_count() > 1 and tells_of_lost_process(error)
    return lost or isinstance(error, jax.errors.JaxRuntimeError)


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore have many kinds for a full disk
        if _is_of_the_runtime(error):
            raise
        # TensorStore names its files first, then says what the system said, and adds details.
        said = re.split(r" \[(?:os_error|tensorstore_spec|source locations)", str(error).strip())[0]
        reason = getattr(error, "strerror", None) or " ".join(said.rsplit(": ", 1)[-1].split())
        raise InputError(
            f"{directory}: cannot be written ({type(error).__name__}: {reason[:200]}); "
            f"{remedy(error, 'see to its permissions and free space')}, and give the same command: "
            "it resumes from the last complete checkpoint"
        ) from error


def save_params(directory: Path, params: nnx.State) -> None:
    """Writes the selected parameters of a phase, in process 0, whole or not at all."""
    copied = on_main_host(params)
    if copied is None:
        return
    # A run that died between this and its result file writes it again, as one that is carried on.
    if directory.exists():
        shutil.rmtree(directory)
    with _writing(directory):
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            checkpointer.save(directory.resolve(), copied)
        write_json(directory / _CHECKSUM_FILE, {_CHECKSUM: checksum(copied)})


def load_params(directory: Path, like: nnx.State) -> nnx.State:
    """Reads the parameters that `save_params` wrote.

    Args:
      directory: what `save_params` was given.
      like: a state of the expected structure, shapes and dtypes.

    Raises:
      InputError: nothing there, damaged, or parameters of another shape.
    """
    phase = directory.parent
    if not directory.is_dir():
        raise InputError(
            f"{directory}: no trained model here; finish `dedn train` first, or remove {phase} if "
            "it was finished"
        )
    saved = directory / _CHECKSUM_FILE
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            found = checkpointer.restore(directory.resolve(), _on_host_as(like))
        # Older versions kept no sum.
        if saved.exists() and read_json(saved).get(_CHECKSUM) != checksum(found):
            raise ValueError(_CHANGED)
        params: nnx.State = _placed(found, like)
    except Exception as error:  # Orbax raises many kinds for a damaged directory
        raise InputError(
            f"{directory}: cannot be restored ({_reason(error)}); was it trained with this config "
            f"and data set? If so, remove {phase.parent / 'result.json'} and "
            f"{phase / 'result.json'}, and give its `dedn train` command again: it takes them from "
            "the last checkpoint"
        ) from error
    return params


def saved_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that `save_params` wrote, by their path in the state.

    Raises:
      InputError: nothing there, or damaged.
    """
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            found: Any = checkpointer.metadata(directory.resolve())
        tree = getattr(found, "item_metadata", found).tree
        return {
            ".".join(str(step.key) for step in path[:-1]): tuple(leaf.shape)
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
    except Exception as error:  # as when restoring
        raise InputError(
            f"{directory}: holds no parameters that can be read ({_reason(error)})"
        ) from error


def _on_host_as(like: Any) -> Any:
    """What has Orbax read arrays of these dtypes to the host, wherever they were written from."""
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like)


def _placed(values: Any, like: Any) -> Any:
    """Arrays from the host on the devices of others, from what this process has of both alone.

    Raises:
      ValueError: other shapes.
    """

    def place(path: Any, x: np.ndarray, like: Any) -> Any:
        if x.shape != like.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name} has shape {x.shape}, expected {like.shape}")
        return put_on_all(x, like.sharding) if isinstance(like, jax.Array) else x

    return jax.tree.map_with_path(place, values, like)


def checksum(tree: Any) -> int:
    """CRC-32 of all values of a tree of arrays: those in Orbax's files have none of their own."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, found)
    return found


def _checksum_of(snapshot: Snapshot) -> int:
    text = json.dumps(snapshot.position, sort_keys=True)
    return zlib.crc32(text.encode(), checksum((snapshot.state, snapshot.selected)))


def _reason(error: Exception) -> str:
    """What kind of error it is, and the first line of what it says."""
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {line}"
