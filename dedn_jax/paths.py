"""Paths as people give them: `~`, `file://`, and the addresses of storage that is not mounted."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

from dedn_jax.errors import InputError

# With one slash it is what `pathlib` makes of the other; a letter alone is a drive.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)
# How a bucket is mounted, and how what is in it is copied.
_BUCKETS = {
    "gs": ("gcsfuse {bucket} FOLDER", "gcloud storage cp --recursive {address} FOLDER"),
    "s3": ("mount-s3 {bucket} FOLDER", "aws s3 cp --recursive {address} FOLDER"),
}
_WEB = ("http", "https", "ftp")


def bucket_address(given: str | os.PathLike[str]) -> str | None:
    """The address of a folder or object in a bucket, `gs://BUCKET/NAME` or `s3://...`.

    Args:
      given: as the user gave it, or what `pathlib` made of that.

    Returns:
      The address without slashes at its end; None for anything else.

    Raises:
      InputError: an address without a bucket.
    """
    match = _ADDRESS.match(os.fspath(given))
    if not match or match["scheme"].lower() not in _BUCKETS:
        return None
    parts = [part for part in match["rest"].split("/") if part]
    if not parts or {".", ".."} & set(parts):
        raise InputError(f"{os.fspath(given)}: expected {match['scheme'].lower()}://BUCKET/NAME")
    return f"{match['scheme'].lower()}://{'/'.join(parts)}"


def local_path(given: str | os.PathLike[str]) -> Path:
    """The path of a file or folder on this machine or mounted on it.

    Args:
      given: as the user gave it, with `~` for a home, or a `file:` address. A folder whose name
        ends in a colon is given by its absolute path.

    Raises:
      InputError: an empty text, the address of other storage (`gs://`, `s3://`, `https://`), or no
        such home.
    """
    text = os.fspath(given)
    if not text:  # `pathlib` takes it for the current folder
        raise InputError("an empty path; give the name of a file or folder, . for the current one")
    if not (match := _ADDRESS.match(text)):
        return _expanded(Path(given))
    scheme, rest = match["scheme"].lower(), match["rest"]
    if scheme != "file":
        raise InputError(_refusal(scheme, rest))
    host = text.split(":", 1)[1].startswith("//") and not text.split(":", 1)[1].startswith("///")
    if host:
        name, _, rest = rest.partition("/")
        if name != "localhost":
            raise InputError(f"{text}: a file of another machine, {name}; expected file:///PATH")
    return Path("/", urllib.parse.unquote(rest))


def check_utf8(path: Path, writers: str) -> None:
    """Checks a name that libraries in C++ are given, which take no other.

    Args:
      path: of a folder to write to.
      writers: what cannot be written there otherwise.

    Raises:
      InputError: it is not UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{os.fspath(path)!a}: a name that is not UTF-8, where {writers} cannot be written; "
            "choose another"
        ) from error


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}; give the whole path") from error


def _refusal(scheme: str, rest: str) -> str:
    address = f"{scheme}://{rest}"
    needed = f"{address}: only a path on this machine, or mounted on it, works here; "
    if scheme in _BUCKETS:
        bucket, _, name = rest.partition("/")
        mount, copy = (c.format(bucket=bucket, address=address) for c in _BUCKETS[scheme])
        return f"{needed}mount the bucket ({mount}) and give FOLDER/{name}, or copy it ({copy})"
    if scheme in _WEB:
        return f"{needed}download it and give the file"
    return f"{needed}mount that storage and give a path there, or copy it"
