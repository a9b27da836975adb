"""Objects of a bucket, through the client libraries of Google and Amazon."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dedn_jax.errors import InputError, one_line

_PACKAGES = {"gs": "google.cloud.storage", "s3": "boto3"}
# Numbers of HTTP, as the exceptions of both libraries carry them.
_ABSENT, _EXISTS = 404, (409, 412)


class Bucket(Protocol):
    """The objects of one bucket. Every method raises OSError where the bucket cannot be used."""

    def objects(self, prefix: str, limit: int) -> dict[str, tuple[int, str]]:
        """Size and version of objects whose names begin with `prefix`; of about `limit` at most."""
        ...

    def read(self, name: str) -> bytes:
        """An object's content; FileNotFoundError where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes an object as a whole."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object unless there is one of that name; whether it was written."""
        ...

    def upload(self, file: Path, name: str) -> None:
        """Writes a file's content as an object."""
        ...

    def download(self, name: str, file: Path) -> None:
        """Writes an object's content to a file."""
        ...

    def delete(self, name: str) -> None:
        """Removes an object; one that is not there is no error."""
        ...


def open_bucket(scheme: str, bucket: str) -> Bucket:
    """A bucket; nothing is asked of it yet.

    Args:
      scheme: "gs" or "s3".
      bucket: its name.

    Raises:
      InputError: the client library is not installed, or there are no credentials for it.
    """
    where = f"{scheme}://{bucket}"
    package = _PACKAGES[scheme]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{where}: needs {package}, which is not installed; run: pip install 'dedn-jax[bucket]'"
        ) from error
    try:
        return _Google(bucket) if scheme == "gs" else _Amazon(bucket)
    except Exception as error:  # of many kinds: no credentials, a damaged file of them
        raise InputError(
            f"{where}: {one_line(error)}; see to the credentials of this machine or user"
        ) from error


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns the errors of a client library into those of the operating system."""
    try:
        yield
    except OSError as error:
        if error.filename:  # a local file
            raise
        raise OSError(errno.EIO, f"cannot be reached ({one_line(error)})", where) from error
    except Exception as error:  # of many kinds, in both libraries
        number = _number(error)
        if number == _ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such object or bucket", where) from error
        if number in (401, 403):
            raise PermissionError(errno.EACCES, f"refused ({one_line(error)})", where) from error
        text = f"cannot be used ({type(error).__name__}: {one_line(error)})"
        raise OSError(errno.EIO, text, where) from error


def _number(error: Exception) -> int:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # of boto3
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = getattr(error, "code", 0)
    return int(code) if isinstance(code, int) else 0


class _Google:
    def __init__(self, bucket: str) -> None:
        from google.cloud import storage

        self._client = storage.Client()
        self._bucket = self._client.bucket(bucket)

    def _call(self, name: str, call: Callable[[Any], Any]) -> Any:
        with _told(f"gs://{self._bucket.name}/{name}"):
            return call(self._bucket.blob(name))

    def objects(self, prefix: str, limit: int) -> dict[str, tuple[int, str]]:
        with _told(f"gs://{self._bucket.name}/{prefix}"):
            found = self._client.list_blobs(self._bucket, prefix=prefix, max_results=limit)
            return {b.name: (int(b.size or 0), str(b.generation)) for b in found}

    def read(self, name: str) -> bytes:
        return self._call(name, lambda blob: blob.download_as_bytes())

    def write(self, name: str, data: bytes) -> None:
        self._call(name, lambda blob: blob.upload_from_string(data))

    def create(self, name: str, data: bytes) -> bool:
        def create(blob: Any) -> bool:
            try:
                blob.upload_from_string(data, if_generation_match=0)
            except Exception as error:
                if _number(error) in _EXISTS:
                    return False
                raise
            return True

        return self._call(name, create)

    def upload(self, file: Path, name: str) -> None:
        self._call(name, lambda blob: blob.upload_from_filename(str(file)))

    def download(self, name: str, file: Path) -> None:
        self._call(name, lambda blob: blob.download_to_filename(str(file)))

    def delete(self, name: str) -> None:
        def delete(blob: Any) -> None:
            try:
                blob.delete()
            except Exception as error:
                if _number(error) != _ABSENT:
                    raise

        self._call(name, delete)


class _Amazon:
    def __init__(self, bucket: str) -> None:
        import boto3

        self._client: Any = boto3.client("s3")
        self._bucket = bucket

    def _told(self, name: str) -> Any:
        return _told(f"s3://{self._bucket}/{name}")

    def objects(self, prefix: str, limit: int) -> dict[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = {}
        with self._told(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                entries = page.get("Contents", ())
                found |= {entry["Key"]: (entry["Size"], entry["ETag"]) for entry in entries}
                if len(found) >= limit:
                    break
        return found

    def read(self, name: str) -> bytes:
        with self._told(name):
            return self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        with self._told(name):
            self._client.put_object(Bucket=self._bucket, Key=name, Body=data)

    def create(self, name: str, data: bytes) -> bool:
        with self._told(name):
            try:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*")
            except Exception as error:
                if _number(error) in _EXISTS:
                    return False
                raise
            return True

    def upload(self, file: Path, name: str) -> None:
        with self._told(name):
            self._client.upload_file(str(file), self._bucket, name)

    def download(self, name: str, file: Path) -> None:
        with self._told(name):
            self._client.download_file(self._bucket, name, str(file))

    def delete(self, name: str) -> None:
        with self._told(name):
            self._client.delete_object(Bucket=self._bucket, Key=name)
