"""Work directories in buckets: a local copy, which one process keeps the bucket up to date with.

Everything reads and writes the local copy, as if it were the work directory. The bucket has the
same files under the same names. What a crash leaves there is whole: a file that says that others
are complete is written after them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dedn_jax.buckets.owner import RENEW, Owner
from dedn_jax.buckets.storage import open_bucket
from dedn_jax.buckets.temporary import keep, temporary_folder
from dedn_jax.buckets.transfers import COPIES, in_parallel, refused
from dedn_jax.errors import InputError, one_line
from dedn_jax.paths import bucket_address, check_utf8, local_path
from dedn_jax.pulse import PULSE

LOOK = 2.0  # seconds between two looks for files to upload
_LOGS_EVERY = 30.0  # seconds between two uploads of a log, which grows all the time
_MAX_OBJECTS = 100_000  # under a work directory; a long sweep has some thousands
_TRIES, _PAUSE = 2, 10.0  # of the last upload, and seconds between two
_CHECKPOINTS = "checkpoints"
# Orbax writes it into every folder; here it is the last to come and the first to go.
_COMPLETE = "_CHECKPOINT_METADATA"
# Files that say that others are there; the first of them there is of a run or sweep.
_MARKERS = {"config.json", "sweep.json", "calibration.json", "result.json"}
_FINISHED = "result.json"
# What a run or sweep writes before all else, in this order; without it a folder holds neither.
_BEGUN = ("sweep.json", "dataset.json", "config.json")
# What is written there, and not read by a command.
_NOT_READ = {"tensorboard", "report"}
# What no other process needs: locks, and files and folders that are still being written.
_TEMPORARY = re.compile(r"\.lock|\.owner|\..+\.[0-9a-f]{16}|.*\.orbax-checkpoint-tmp.*")
_LOG = re.compile(r"(.*/)?(metrics\.jsonl|tensorboard/.*)")
_mirrors: dict[str, Mirror] = {}


class Mirror:
    """A local copy of a folder of a bucket.

    Args:
      address: `gs://BUCKET/NAME` or `s3://BUCKET/NAME`.

    Attributes:
      folder: the local copy; temporary.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        scheme, _, rest = address.partition("://")
        bucket, _, name = rest.partition("/")
        self._prefix = f"{name}/" if name else ""
        self._bucket = open_bucket(scheme, bucket)
        self._temporary = temporary_folder()
        self.folder = self._temporary / (name or bucket).rpartition("/")[2]
        COPIES[str(self.folder)] = address
        # Of files that the bucket has as well: size and time of the local one, the version of an
        # object that was fetched, and when a file was sent.
        self._same: dict[str, tuple[int, int]] = {}
        self._versions: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._lock = threading.Lock()
        self._is_owned = self._is_ending = False

    def pull(self, *, checkpoints: bool = False) -> None:
        """Fetches what the local copy lacks, or has in another version; not while it is owned.

        Args:
          checkpoints: also those that a training goes on from.

        Raises:
          InputError: the bucket cannot be read, or there is no room.
        """
        if self._is_owned:
            return
        with self._lock, refused(self.address):
            objects = self._bucket.objects(self._prefix, _MAX_OBJECTS)
            if len(objects) >= _MAX_OBJECTS:
                raise InputError(
                    f"{self.address}: {_MAX_OBJECTS} objects or more, expected those of a work "
                    "directory; choose another"
                )
            objects = {name[len(self._prefix) :]: found for name, found in objects.items()}
            self.folder.mkdir(parents=True, exist_ok=True)
            if objects.keys().isdisjoint(_BEGUN):
                self._note_others(objects)
                return
            wanted = {
                name: found
                for name, found in objects.items()
                if _is_of_run(name, objects, checkpoints) and self._versions.get(name) != found[1]
            }
            needed, free = sum(size for size, _ in wanted.values()), self._free()
            if needed > free:
                raise InputError(
                    f"{self.address}: {needed} bytes, but {self.folder} has room for {free}; set "
                    "TMPDIR to a folder with more"
                )
            in_parallel(lambda name: self._fetch(name, wanted[name][1]), wanted)
            for name in self._same.keys() - objects.keys():
                self._forget(name)

    def _forget(self, name: str) -> None:
        """Removes a file that the bucket has no more, and the folders that it leaves empty."""
        file = self.folder / name
        file.unlink(missing_ok=True)
        for folder in file.parents:
            if folder == self.folder:
                break
            with suppress(OSError):
                folder.rmdir()
        del self._same[name]
        self._versions.pop(name, None)

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _note_others(self, names: Iterable[str]) -> None:
        """Makes an empty file for what is no part of a run: it is seen, and left alone."""
        for top in {name.partition("/")[0] for name in names}:
            if top and top not in (".", "..") and not _TEMPORARY.fullmatch(top):
                file = self.folder / top
                file.touch()
                self._note(top)

    def _note(self, name: str) -> None:
        found = (self.folder / name).stat()
        self._same[name] = (found.st_size, found.st_mtime_ns)

    def _fetch(self, name: str, version: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        PULSE.beat(f"fetching {self.address}")
        self._bucket.download(self._prefix + name, file)
        self._note(name)
        self._versions[name] = version

    def push(self, *, logs: bool = True) -> None:
        """Brings the bucket up to date with the local copy.

        Args:
          logs: also those that were sent a moment ago.

        Raises:
          OSError: the bucket cannot be written to.
        """
        with self._lock:
            there = dict(self._files())
            changed = [name for name, state in there.items() if self._same.get(name) != state]
            # With a checkpoint come the metrics of the steps before it: they are not taken again.
            if not logs and len(_ranks(changed)) < 2:
                recent = time.monotonic() - _LOGS_EVERY
                changed = [
                    name
                    for name in changed
                    if not _LOG.fullmatch(name) or self._sent.get(name, 0) < recent
                ]
            gone = False
            begun = [name for name in _BEGUN if name in there and name not in self._same]
            others = _ranks(name for name in changed if name not in begun)
            for of_rank in [*([name] for name in begun), *others]:
                # A folder that was removed meanwhile is not to be called complete.
                if gone:
                    return
                sent = in_parallel(lambda name: self._send(name, there[name]), of_rank)
                gone = not all(sent)
            for of_rank in reversed(_ranks(self._same.keys() - there.keys())):
                in_parallel(self._remove, of_rank)

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names of the local files, and size and time of each."""
        stack = [self.folder]
        while stack:
            folder = stack.pop()
            with suppress(FileNotFoundError):  # removed meanwhile
                for path in folder.iterdir():
                    if _TEMPORARY.fullmatch(path.name) or path.is_symlink():
                        continue
                    if path.is_dir():
                        stack.append(path)
                        continue
                    with suppress(FileNotFoundError):
                        found = path.stat()
                        name = path.relative_to(self.folder).as_posix()
                        yield name, (found.st_size, found.st_mtime_ns)

    def _send(self, name: str, state: tuple[int, int]) -> bool:
        """Uploads a file; false where it is no longer there."""
        file = self.folder / name
        if self._is_ending:  # while training goes on, that is what a watchdog has to see
            PULSE.beat(f"writing {self.address}")
        try:
            if state[0] < 2**23:
                # Read at once: a log may grow while it is sent.
                self._bucket.write(self._prefix + name, file.read_bytes())
            else:
                self._bucket.upload(file, self._prefix + name)
        except FileNotFoundError:
            if file.exists():  # what is not there is the bucket
                raise
            return False
        self._same[name], self._sent[name] = state, time.monotonic()
        self._versions.pop(name, None)
        return True

    def _remove(self, name: str) -> None:
        self._bucket.delete(self._prefix + name)
        del self._same[name]

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Owns the folder in the bucket, which follows the local copy while the block runs.

        Raises:
          InputError: another process owns it, has taken it over meanwhile, or the bucket cannot be
            used.
        """
        with refused(self.address):
            owner = Owner(self._bucket, self._prefix, self.address)
        try:
            self.pull(checkpoints=True)
            self._is_owned, self._is_ending = True, False
            with _Follower(self, owner):
                yield
        finally:
            self._is_owned = False
            with suppress(OSError):
                owner.release()

    def finish(self, owner: Owner) -> None:
        """Brings the bucket up to date for the last time, in several tries.

        Raises:
          InputError: it cannot be written to, and the local copy stays; or another process has
            taken it over.
        """
        self._is_ending = True
        for left in reversed(range(_TRIES)):
            try:
                if not owner.renew():
                    raise InputError(
                        f"--workdir: another process has taken over {self.address}, which had no "
                        "sign of life from this one; see to that one"
                    )
                self.push()
                return
            except OSError as error:
                if not left:
                    keep(self._temporary)
                    raise InputError(
                        f"{self.address}: cannot be written to ({error.strerror}); the last of it "
                        f"is in {self._temporary}, to be copied there by hand"
                    ) from error
                time.sleep(_PAUSE)


class _Follower:
    """A thread that uploads what is new and gives signs of life; entered as a context."""

    def __init__(self, mirror: Mirror, owner: Owner) -> None:
        self._mirror, self._owner = mirror, owner
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="bucket", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._mirror.finish(self._owner)

    def _follow(self) -> None:
        renewed, failing = time.monotonic(), False
        while not self._end.wait(LOOK):
            try:
                if time.monotonic() - renewed > RENEW:
                    renewed = time.monotonic()
                    if not self._owner.renew():
                        # As Ctrl-C, a signal, which ends what waits as well: the training ends,
                        # and says why when this context does. Where nothing handles it, it would
                        # end the process without a word: then the context says so at its end.
                        if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
                            os.kill(os.getpid(), signal.SIGINT)
                        return
                self._mirror.push(logs=False)
                failing = False
            except Exception as error:  # tried again, as long as the training lasts
                if not failing:
                    reason = getattr(error, "strerror", None) or one_line(error)
                    print(f"{self._mirror.address}: {reason}; trying again", file=sys.stderr)
                failing = True


def workdir_path(given: str | os.PathLike[str]) -> Path:
    """The folder of a work directory; of one in a bucket the local copy, as it is there now.

    Args:
      given: a path, or `gs://BUCKET/NAME` or `s3://BUCKET/NAME`.

    Raises:
      InputError: the bucket cannot be used, other storage, or a name that is not UTF-8.
    """
    address = bucket_address(given)
    if address is None:
        path = local_path(given)
        check_utf8(path, "checkpoints")
        if mirror := mirror_at(path):
            mirror.pull()
        return path
    if address not in _mirrors:
        _mirrors[address] = Mirror(address)
    _mirrors[address].pull()
    return _mirrors[address].folder


def mirror_at(folder: Path) -> Mirror | None:
    """The bucket's folder that `workdir_path` gave this local copy of; None for other folders."""
    return next((mirror for mirror in _mirrors.values() if mirror.folder == folder), None)


def publish(written: Path) -> None:
    """Uploads what was added to the local copy of a work directory by another job than training.

    Args:
      written: a file or folder; elsewhere, nothing is done.

    Raises:
      InputError: the bucket cannot be written to.
    """
    for mirror in _mirrors.values():
        if mirror.folder in written.parents:
            with refused(mirror.address):
                mirror.push()


def _is_of_run(name: str, names: Collection[str], checkpoints: bool) -> bool:
    """Whether to fetch an object; checkpoints only as a whole."""
    parts = name.split("/")
    if _NOT_READ & set(parts) or any(p in ("", ".", "..") for p in parts):
        return False
    if any(_TEMPORARY.fullmatch(part) for part in parts):
        return False
    if _CHECKPOINTS not in parts:
        return True
    step = parts[: parts.index(_CHECKPOINTS) + 2]
    return checkpoints and "/".join([*step, _COMPLETE]) in names


def _ranks(names: Iterable[str]) -> list[list[str]]:
    """Names in the order in which they are to appear in the bucket; those of one list together."""

    def rank(name: str) -> tuple[int, int]:
        last = name.rpartition("/")[2]
        if last in _MARKERS:
            return 2 + (last == _FINISHED), -name.count("/")
        return int(last == _COMPLETE), 0

    ranks: dict[tuple[int, int], list[str]] = {}
    for name in sorted(names):
        ranks.setdefault(rank(name), []).append(name)
    return [ranks[key] for key in sorted(ranks)]
