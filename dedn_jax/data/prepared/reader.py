"""Reads prepared sets: encoded pictures by image index, and the annotations beside them."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from dedn_jax.buckets.inputs import input_path
from dedn_jax.data.annotations import Annotations
from dedn_jax.data.annotations_file import load_annotations
from dedn_jax.data.prepared.tfds_files import Shard, picture_features, read_shards
from dedn_jax.errors import InputError, one_line
from dedn_jax.files import read_json
from dedn_jax.json_values import OBJECT

VERSION = "1.0.0"  # of the sets that this version builds; names their folder
PICTURES_FILE = "pictures.json"
SET_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # it names folders
PICTURES_FORMAT = 1
SPLITS = ("trainval", "test_seen", "test_unseen")
# The process that first opened a record file. array_record starts threads then, which a process
# forked later lacks: it would crash there, though not every time.
_opened_in: int | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared set.

    Attributes:
      path: the folder of its version.
      name: of the set.
      annotations: of all images.
      digest: SHA-256 over all pictures, hexadecimal.
      pictures: the encoded pictures.
    """

    path: Path
    name: str
    annotations: Annotations
    digest: str
    pictures: EncodedPictures


def open_prepared(path: str | os.PathLike[str]) -> Prepared:
    """Opens what `dedn data build` wrote.

    Args:
      path: `<out>/<name>/<version>`, or `<out>/<name>` for its highest version.

    Raises:
      InputError: no such folder, or files in it are missing, damaged, or do not fit together.
    """
    folder = _version_folder(input_path(path))
    annotations = load_annotations(folder)
    note = read_json(folder / PICTURES_FILE, OBJECT, "build the set again")
    if note.get("format") != PICTURES_FORMAT:
        raise InputError(
            f"{folder / PICTURES_FILE}: format is {note.get('format')!r}, expected "
            f"{PICTURES_FORMAT}; build the set again with this version"
        )
    name, digest = note.get("name"), note.get("digest")
    if not isinstance(name, str) or not isinstance(digest, str) or len(digest) != 64:
        raise InputError(
            f"{folder / PICTURES_FILE}: name or digest is missing or invalid; build the set again"
        )
    if not SET_NAME.fullmatch(name):
        raise InputError(
            f"{folder / PICTURES_FILE}: {name[:64]!r} is not a valid name; build the set again"
        )
    return Prepared(folder, name, annotations, digest, EncodedPictures(folder, name, annotations))


class _Reader:
    """An open record file; threads take turns."""

    def __init__(self, shard: Shard) -> None:
        # Here: not everyone who imports this module reads pictures.
        from array_record.python.array_record_module import ArrayRecordReader

        global _opened_in
        if _opened_in not in (None, os.getpid()):
            raise _forked_too_late()
        _opened_in = os.getpid()
        # A picture at a time needs no threads of the library's.
        self._reader = ArrayRecordReader(
            shard.file,
            options="readahead_buffer_size:0,max_parallelism:0",
            file_reader_buffer_size=32768,
        )
        self._lock = threading.Lock()
        if self._reader.num_records() != shard.records:
            raise ValueError(f"{self._reader.num_records()} records, expected {shard.records}")

    def read(self, row: int) -> bytes:
        with self._lock:
            self._reader.seek(row)
            return self._reader.read()


class EncodedPictures:
    """Encoded pictures of a prepared set, by image index.

    `pictures[i]` is the content of the picture's file and the file's name. Safe to pickle and to
    share between threads: each process opens the files for itself, when it first reads from them. A
    process forked after that cannot read; one forked before, or spawned, can.
    """

    def __init__(self, folder: Path, name: str, annotations: Annotations) -> None:
        """Locates each picture.

        Args:
          folder: of a version.
          name: of the set.
          annotations: of the same folder.

        Raises:
          InputError: the folder's files are missing, damaged, or do not fit the annotations.
        """
        self._classes = annotations.num_classes
        images = len(annotations.labels)
        self._shards: list[Shard] = []
        self._shard = np.full(images, -1, np.int32)  # of each image, like _row
        self._row = np.zeros(images, np.int32)
        of_splits = read_shards(folder, name)
        for split_name in SPLITS:
            split, shards = getattr(annotations, split_name), of_splits.get(split_name, [])
            _check_shards(folder, shards, split_name, len(split))
            start = 0
            for shard in shards:
                own = split[start : start + shard.records]
                self._shard[own] = len(self._shards)
                self._row[own] = np.arange(len(own))
                self._shards.append(shard)
                start += shard.records
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[int, _Reader] = {}
        self._features: Any = None
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_readers", "_features", "_process")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        """The encoded picture and its file's name.

        Raises:
          InputError: its record cannot be read, or holds another image.
          ForkedError: this process was forked from one that had read pictures.
          IndexError: no such image, or one in no split, whose picture is not stored.
        """
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        number = int(self._shard[index])
        if number < 0:
            raise IndexError(f"image {index} is in no split; its picture is not stored")
        try:
            reader, features, decoders = self._open(number)
            record = features.deserialize_example_np(
                reader.read(int(self._row[index])), decoders=decoders
            )
            found, data, name = int(record["index"]), record["image"], record["file_name"]
        except (MemoryError, InputError, ForkedError):
            raise
        except Exception as error:  # array_record and protobuf have many ways to say it
            raise InputError(
                f"{self._shards[number].file}: the picture of image {index} cannot be read "
                f"({one_line(error)}); build the set again"
            ) from error
        if found != index:
            raise InputError(
                f"{self._shards[number].file}: holds image {found} in place of image {index}; "
                "build the set again"
            )
        return bytes(data), bytes(name).decode()

    def _open(self, number: int) -> tuple[_Reader, Any, Any]:
        """The reader of a record file, and the features and decoders that parse its records."""
        if self._process != os.getpid() and not self._readers:  # forked
            self._reset()
        if self._process != os.getpid():
            raise _forked_too_late()
        reader, features = self._readers.get(number), self._features
        if reader is None or features is None:
            with self._lock:
                if self._features is None:
                    import tensorflow_datasets as tfds

                    decoders = {"image": tfds.decode.SkipDecoding()}
                    self._features = (picture_features(self._classes), decoders)
                if number not in self._readers:
                    self._readers[number] = _Reader(self._shards[number])
                reader, features = self._readers[number], self._features
        return reader, *features


class ForkedError(RuntimeError):
    """Reading pictures in a process forked from one that had read some already."""


def _forked_too_late() -> ForkedError:
    return ForkedError(
        "this process was forked from one that had read pictures; start it by 'spawn', or fork "
        "before the first picture is read"
    )


def _version_folder(path: Path) -> Path:
    """The folder itself, or the highest version in it."""
    if (path / PICTURES_FILE).exists():
        return path
    if not path.is_dir():
        kind = "is a file, expected a folder" if path.exists() else "no such folder"
        raise InputError(f"{path}: {kind}; give one that `dedn data build` wrote")
    versions = {}
    for child in path.iterdir():
        parts = child.name.split(".")
        if len(parts) == 3 and all(p.isascii() and p.isdigit() for p in parts) and child.is_dir():
            versions[tuple(map(int, parts))] = child
    if versions:
        return versions[max(versions)]
    if (path / "dataset_info.json").exists():
        raise InputError(
            f"{path / PICTURES_FILE}: no such file; the folder is damaged, or was written by "
            "another program: build the set with `dedn data build`"
        )
    raise InputError(
        f"{path}: not a prepared set (no version folder such as 1.0.0); give a folder that `dedn "
        "data build` wrote"
    )


def _check_shards(folder: Path, shards: list[Shard], split: str, images: int) -> None:
    """Raises InputError unless the record files of a split are there, for so many images."""
    records = sum(shard.records for shard in shards)
    if records != images:
        raise InputError(
            f"{folder}: split {split} has {records} pictures, annotations.npz has {images}; "
            "build the set again"
        )
    for shard in shards:
        if not os.path.isfile(shard.file):
            raise InputError(f"{shard.file}: no such file; build the set again")
