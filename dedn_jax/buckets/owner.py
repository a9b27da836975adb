"""Who writes to a folder of a bucket: one process at a time, by conditional writes alone.

Buckets have no locks. An owner creates the object `.owner/N`, which succeeds for one process only,
and rewrites it as a sign of life. Who finds it unchanged for `STALE` seconds, or knows that its
process is gone, takes over by creating `.owner/N+1`: the highest number owns the folder, so that a
process that wakes up after it was given up for dead sees that it is no longer the owner.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

from dedn_jax.buckets.storage import Bucket
from dedn_jax.errors import InputError

RENEW = 10.0  # seconds between two signs of life
STALE = 60.0  # seconds without one, after which an owner counts as dead
_FOLDER = ".owner/"
_NAME = re.compile(r"\d{8}")
_MAX_OWNERS = 10_000  # of which all but the last are removed by the next


class Owner:
    """This process as the owner of a folder of a bucket; see the module.

    Args:
      bucket: the bucket.
      prefix: of the folder's objects, "" or ending in a slash.
      address: of the folder, for messages.

    Raises:
      InputError: another process owns it and is alive.
    """

    def __init__(self, bucket: Bucket, prefix: str, address: str) -> None:
        self._bucket, self._folder, self._address = bucket, prefix + _FOLDER, address
        self._about = {"token": secrets.token_hex(8), "host": _host(), "pid": os.getpid()}
        self._beats = 0
        while True:
            last = self._last()
            if last:
                self._check_free(last)
            # Whoever comes second finds the first here, and looks again.
            self._number = last + 1
            if bucket.create(self._name(self._number), self._content()):
                break
        for number in self._numbers():
            if number < self._number:
                bucket.delete(self._name(number))

    def renew(self) -> bool:
        """Gives a sign of life; whether this process is still the owner."""
        if not self.owns():
            return False
        self._beats += 1
        self._bucket.write(self._name(self._number), self._content())
        return True

    def owns(self) -> bool:
        """Whether this process is still the owner."""
        return self._last() == self._number

    def release(self) -> None:
        """Leaves the folder to the next."""
        if self.owns():
            self._bucket.write(self._name(self._number), self._content(released=True))

    def _name(self, number: int) -> str:
        return f"{self._folder}{number:08d}"

    def _content(self, *, released: bool = False) -> bytes:
        return json.dumps({**self._about, "beats": self._beats, "released": released}).encode()

    def _numbers(self) -> list[int]:
        found = self._bucket.objects(self._folder, _MAX_OWNERS)
        names = (name[len(self._folder) :] for name in found)
        return [int(name) for name in names if _NAME.fullmatch(name)]

    def _last(self) -> int:
        return max(self._numbers(), default=0)

    def _check_free(self, number: int) -> None:
        """Returns once the owner `number` has released the folder or is dead.

        Raises:
          InputError: it is alive.
        """
        content = self._read(number)
        if content is None or content.get("released") is True or _is_gone(content):
            return
        who = f"process {content.get('pid')!s:.20} on {str(content.get('host')).split()[0]:.80}"
        print(
            f"{self._address}: {who} writes here, or has died; waiting {STALE:.0f} s for a sign "
            "of life from it",
            file=sys.stderr,
        )
        end = time.monotonic() + STALE
        while time.monotonic() < end:
            time.sleep(min(RENEW, STALE) / 4)
            now = self._read(number)
            if now is None or now.get("released") is True:
                return
            if now != content:
                raise InputError(
                    f"--workdir: another process, {who}, trains in {self._address}; wait for it, "
                    "or choose another directory"
                )

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            content = json.loads(self._bucket.read(self._name(number))[:4096])
        except (FileNotFoundError, ValueError, RecursionError):
            return None  # the next owner has removed it, or nobody wrote it
        return content if isinstance(content, dict) else None


@functools.cache
def _host() -> str:
    """This machine and its set of process numbers, until it is started again."""
    known = [socket.gethostname() or "?"]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            path = Path(file)
            known.append(os.readlink(path) if path.is_symlink() else path.read_text().strip())
        except OSError:
            known.append(secrets.token_hex(8))  # not Linux: another machine for all we know
    return " ".join(known)


def _is_gone(content: dict[str, Any]) -> bool:
    """Whether the process that wrote this ran here and has ended."""
    pid = content.get("pid")
    if content.get("host") != _host() or type(pid) is not int or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OverflowError, OSError):
        return False
    return False
