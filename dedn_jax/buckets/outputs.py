"""Files that a job writes to buckets: to a temporary folder first, and uploaded when it is done."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from dedn_jax.buckets.storage import Bucket, open_bucket
from dedn_jax.buckets.temporary import keep, temporary_folder
from dedn_jax.buckets.transfers import COPIES, refused
from dedn_jax.errors import InputError
from dedn_jax.owned import owner_of
from dedn_jax.paths import bucket_address, local_path
from dedn_jax.pulse import PULSE

_outputs: dict[Path, _Folder] = {}


class _Folder:
    """The folder of one output in a bucket, and a temporary one in its place.

    Args:
      address: of the output.

    Attributes:
      address: the same.
      local: the temporary folder.

    Raises:
      InputError: the bucket cannot be used, or the output is a part of a run or the like there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        scheme, _, rest = address.partition("://")
        bucket, _, name = rest.partition("/")
        if not name:
            raise InputError(f"{address}: a whole bucket, expected {address}/NAME")
        self._bucket: Bucket = open_bucket(scheme, bucket)
        self._prefix = name[: name.rfind("/") + 1]
        with refused(address):
            owner = owner_of(PurePosixPath("/", name), self._is_there)
        if owner:
            raise owner.refusal(address, f"{scheme}://{bucket}{owner.folder}")
        self._temporary = temporary_folder()
        self.local = self._temporary / "output"
        self.local.mkdir()
        COPIES[str(self.local / name.rpartition("/")[2])] = address

    def _is_there(self, path: PurePosixPath) -> bool:
        name = str(path).lstrip("/")
        return name in self._bucket.objects(name, 1)

    def upload(self, file: Path) -> None:
        PULSE.beat(f"writing {self.address}")
        try:
            with refused(self.address):
                self._bucket.upload(file, self._prefix + file.name)
        except InputError as error:
            keep(self._temporary)
            raise InputError(f"{error}, or copy it there by hand: it is in {self.local}") from error

    def download(self, file: Path) -> None:
        with refused(self.address):
            self._bucket.download(self._prefix + file.name, file)

    def delete(self, file: Path) -> None:
        with refused(self.address):
            self._bucket.delete(self._prefix + file.name)


def output_path(given: str | os.PathLike[str]) -> Path:
    """The path of a file to write; of one in a bucket, that of a temporary file.

    Args:
      given: a path, or `gs://BUCKET/NAME` or `s3://BUCKET/NAME` of an object.

    Raises:
      InputError: other storage, a bucket that cannot be used, or a part of a run, sweep, store or
        prepared set there.
    """
    address = bucket_address(given)
    if address is None:
        return local_path(given)
    folder = _Folder(address)
    _outputs[folder.local] = folder
    return folder.local / address.rpartition("/")[2]


def output_address(path: Path) -> str | None:
    """Where in a bucket goes what `output_path` gave this path for; None for other paths."""
    folder = _outputs.get(path.parent)
    return folder.address if folder else None


def upload_outputs() -> None:
    """Uploads what was written to paths of `output_path`, once.

    Raises:
      InputError: a bucket cannot be written to; the file stays where it is.
    """
    for local in list(_outputs):
        folder = _outputs.pop(local)
        for file in local.iterdir():
            folder.upload(file)


def send_part(path: Path) -> None:
    """Uploads a part of an output in a bucket, which another process joins; others stay."""
    if folder := _outputs.get(path.parent):
        folder.upload(path)
        path.unlink()


def fetch_part(path: Path) -> None:
    """Fetches what a process sent of an output in a bucket, and removes it there."""
    if folder := _outputs.get(path.parent):
        folder.download(path)
        folder.delete(path)
