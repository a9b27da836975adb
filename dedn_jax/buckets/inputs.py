"""Data in buckets: fetched once into the user's cache folder, and read there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from dedn_jax.buckets.storage import Bucket, open_bucket
from dedn_jax.buckets.transfers import COPIES, in_parallel, refused
from dedn_jax.errors import InputError
from dedn_jax.files import locked_folder, write_json
from dedn_jax.paths import bucket_address, local_path
from dedn_jax.pulse import PULSE
from dedn_jax.user_cache import user_cache_dir

_MAX_OBJECTS = 1_000_000
_VERSIONS = "versions.json"


def input_path(given: str | os.PathLike[str]) -> Path:
    """The path of a file or folder to read; of one in a bucket that of a local copy.

    The copy stays in the user's cache folder. What has another version in the bucket, or is not
    there any more, is fetched again or removed at the next call.

    Args:
      given: a path, or `gs://BUCKET/NAME` or `s3://BUCKET/NAME` of an object, or of a folder.

    Raises:
      InputError: nothing of that name, no room, or a bucket that cannot be used.
    """
    address = bucket_address(given)
    if address is None:
        return local_path(given)
    cache = user_cache_dir()
    if cache is None:
        raise InputError(f"{address}: no home to keep a copy in; set XDG_CACHE_HOME to a folder")
    scheme, _, rest = address.partition("://")
    bucket_name, _, name = rest.partition("/")
    if not name:
        raise InputError(f"{address}: a whole bucket, expected {address}/NAME")
    folder = cache / "buckets" / hashlib.sha256(address.encode()).hexdigest()[:32]
    with refused(address), locked_folder(folder, ".lock", wait=True):
        bucket = open_bucket(scheme, bucket_name)
        _fetch(bucket, name, folder, address)
    copy = folder / name.rpartition("/")[2]
    COPIES[str(copy)] = address
    return copy


def _fetch(bucket: Bucket, name: str, folder: Path, address: str) -> None:
    """Brings the copy of an object, or of a folder's objects, up to date."""
    last = name.rpartition("/")[2]
    found = bucket.objects(name, _MAX_OBJECTS)
    objects = {
        last + full[len(name) :]: (full, *about)
        for full, about in found.items()
        if full == name or full.startswith(f"{name}/")
    }
    objects = {local: about for local, about in objects.items() if not local.endswith("/")}
    if not objects:
        raise InputError(f"{address}: no such object or folder in the bucket")
    if bad := [n for n in objects if {"", ".", ".."} & set(n.split("/"))]:
        raise InputError(f"{address}: an object of the name {bad[0]!r}, which no file can have")
    versions = _read_versions(folder)
    for local in versions.keys() - objects.keys():
        (folder / local).unlink(missing_ok=True)
    wanted = [n for n, (_, _, version) in objects.items() if versions.get(n) != version]
    needed, free = sum(objects[n][1] for n in wanted), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{address}: {needed} bytes, but {folder} has room for {free}; set XDG_CACHE_HOME to a "
            "folder with more"
        )
    # Names that are fetched are not yet there, should this process be killed.
    kept = {n: version for n, version in versions.items() if n in objects and n not in wanted}
    write_json(folder / _VERSIONS, kept)

    def fetch(local: str) -> None:
        PULSE.beat(f"fetching {address}")
        file = folder / local
        file.parent.mkdir(parents=True, exist_ok=True)
        bucket.download(objects[local][0], file)

    in_parallel(fetch, wanted)
    write_json(folder / _VERSIONS, {n: version for n, (_, _, version) in objects.items()})


def _read_versions(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / _VERSIONS).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
