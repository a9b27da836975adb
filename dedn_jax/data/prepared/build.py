"""Writes a set of pictures as a TensorFlow Datasets folder; TensorFlow itself is not needed.

`<out>/<name>/1.0.0/` holds one ArrayRecord split each for `trainval`, `test_seen` and
`test_unseen`, and beside them `annotations.npz` and `pictures.json`. Any reader of TensorFlow
Datasets can open it; `dedn_jax.data.prepared.reader` is the reader here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from dedn_jax.data.annotations_file import save_annotations
from dedn_jax.data.prepared.about import about
from dedn_jax.data.prepared.decodable import check_decodable, inspect_set, shared_pictures
from dedn_jax.data.prepared.existing import (
    check_replaceable,
    is_built,
    pictures_digest,
    pictures_listing,
)
from dedn_jax.data.prepared.inspection import PictureFacts
from dedn_jax.data.prepared.picture_set import PictureSet
from dedn_jax.data.prepared.reader import (
    PICTURES_FILE,
    PICTURES_FORMAT,
    SPLITS,
    VERSION,
)
from dedn_jax.data.prepared.tfds_files import picture_features
from dedn_jax.errors import InputError, one_line
from dedn_jax.files import locked_folder, write_json
from dedn_jax.folders import replace_folder, restore_replaced
from dedn_jax.paths import check_utf8, local_path
from dedn_jax.progress import note, progress
from dedn_jax.system_errors import remedy

_INCOMPLETE = "incomplete."
_LOCK = ".lock"
_SHARD_BYTES = 512 * 2**20


class Built(NamedTuple):
    """A prepared set.

    Attributes:
      folder: of its version.
      new: whether it was written now, or had been built before.
    """

    folder: Path
    new: bool


def build(
    picture_set: PictureSet,
    out: Path,
    *,
    overwrite: bool = False,
    wait: bool = False,
    facts: Sequence[PictureFacts | None] | None = None,
) -> Built:
    """Writes the set to `<out>/<name>/1.0.0`, atomically, once every picture has been decoded.

    A picture that is there under two classes, or to train on and to test with, is said.

    An interrupted build leaves no such folder. The same set gives the same bytes. Pictures that are
    in no split are left out.

    Args:
      picture_set: what to write.
      out: parent of the folders of all sets; made if missing.
      overwrite: replace an earlier build of other data, or a damaged one.
      wait: wait for another process that is building the same set, rather than raise.
      facts: of the pictures, from `inspect_set`, where they have been decoded before.

    Returns:
      The folder, and whether it was written now: a complete build of this set is left unchanged.

    Raises:
      InputError: a picture cannot be decoded; other data are there already; another process is
        building the same set; the folder cannot be written to, or the disk is full.
    """
    home = local_path(out) / picture_set.name
    check_utf8(home, "prepared sets")
    target = home / VERSION
    if not overwrite and is_built(target, picture_set):
        return Built(target, new=False)
    try:
        with _locked(home, wait):
            restore_replaced(target)
            # The process that held the lock may have built it.
            if not overwrite and is_built(target, picture_set):
                return Built(target, new=False)
            check_replaceable(target)
            facts = inspect_set(picture_set) if facts is None else facts
            check_decodable(picture_set, facts)
            for line in shared_pictures(picture_set.annotations, facts):
                note(line)
            for left_over in home.glob(f"{_INCOMPLETE}*"):  # by builds that were killed
                shutil.rmtree(left_over)
            _build(picture_set, home, target)
    except OSError as error:
        raise _cannot_write(home, error) from error
    return Built(target, new=True)


def _build(picture_set: PictureSet, home: Path, target: Path) -> None:
    _check_space(picture_set, home)
    work = home / f"{_INCOMPLETE}{os.getpid()}"
    try:
        try:
            _Builder(picture_set, work).download_and_prepare(
                download_dir=work / "downloads",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
        except RuntimeError as error:  # what array_record raises on a full disk
            raise _cannot_write(home, error) from error
        written = work / picture_set.name / VERSION
        for path in (*written.iterdir(), written):
            _sync(path)
        replace_folder(written, target)
        _sync(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The data set as tfds defines one: its features, and the examples of each split in order."""

    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded. tfds would look for a list of checksums beside this module, by a
    # package (importlib_resources) that it does not declare as a dependency.
    url_infos: ClassVar[dict] = {}

    def __init__(self, picture_set: PictureSet, data_dir: Path) -> None:
        self.name = picture_set.name
        self._picture_set = picture_set
        self._metadata = _Metadata(picture_set)
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> Any:
        text = about(self.name)
        return _Info(
            builder=self,
            description=text.description,
            citation=text.citation,
            homepage=text.homepage,
            features=picture_features(_label_names(self._picture_set.annotations.class_names)),
            metadata=self._metadata,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        splits = {name: getattr(self._picture_set.annotations, name) for name in SPLITS}
        # tfds has no empty splits.
        return {name: self._generate_examples(s) for name, s in splits.items() if len(s)}

    def _generate_examples(self, split: np.ndarray) -> Iterator[tuple[int, dict]]:
        labels, pictures = self._picture_set.annotations.labels, self._picture_set.pictures
        for row, i in enumerate(split.tolist()):
            data = pictures[i].read()
            self._metadata.record(i, data)
            yield (
                row,
                {
                    "image": data,
                    "label": int(labels[i]),
                    "index": i,
                    "file_name": pictures[i].name,
                },
            )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes the splits in the order of their examples.

        tfds sorts examples first, even if they are in order: in memory, or, for splits of 1 GB and
        more, in files that need TensorFlow. It also serialises the features of a record in an order
        that changes from run to run.
        """
        generators = self._split_generators(dl_manager)
        total = sum(len(getattr(self._picture_set.annotations, name)) for name in generators)
        with progress(total, f"writing {self.name}", "picture") as bar:
            infos = [self._write_split(name, bar, g) for name, g in generators.items()]
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _write_split(self, name: str, bar: Any, examples: Iterator[tuple[int, dict]]) -> Any:
        split = getattr(self._picture_set.annotations, name).tolist()
        sizes = [self._picture_set.pictures[i].size() for i in split]
        lengths = shard_lengths(sizes)
        features = self.info.features
        serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
        template = tfds.core.ShardedFileTemplate(
            dataset_name=self.name,
            data_dir=self.data_path,
            split=name,
            filetype_suffix="array_record",
        )
        written = 0
        for number, length in enumerate(lengths):
            path = template.sharded_filepath(shard_index=number, num_shards=len(lengths))
            # One picture a group, so that any can be read without its neighbours.
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
            try:
                for _, example in itertools.islice(examples, length):
                    record = serializer.get_tf_example(features.encode_example(example))
                    data = record.SerializeToString(deterministic=True)
                    writer.write(data)
                    written += len(data)
                    bar.update()
            finally:
                writer.close()
        return tfds.core.SplitInfo(
            name=name, shard_lengths=lengths, num_bytes=written, filename_template=template
        )

    # tfds prints how much it downloaded, which is nothing.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class _Info(tfds.core.DatasetInfo):
    """Without the look-up of a data set of the same name on a server of tfds."""

    def initialize_from_bucket(self) -> None:
        pass


class _Metadata(tfds.core.Metadata):
    """Adds our files to tfds's folder before it is renamed to its final name."""

    def __init__(self, picture_set: PictureSet) -> None:
        super().__init__()
        self._picture_set = picture_set
        self._hashes: dict[int, bytes] = {}
        self._bytes = 0

    def record(self, image: int, data: bytes) -> None:
        """Adds an encoded picture to the hashes and the total size."""
        self._hashes[image] = hashlib.sha256(data).digest()
        self._bytes += len(data)

    def save_metadata(self, data_dir: Any) -> None:
        save_annotations(Path(data_dir), self._picture_set.annotations)
        write_json(
            Path(data_dir) / PICTURES_FILE,
            {
                "format": PICTURES_FORMAT,
                "name": self._picture_set.name,
                "pictures": len(self._hashes),
                "bytes": self._bytes,
                "digest": pictures_digest(self._hashes),
                "listing": pictures_listing(self._picture_set),
            },
        )

    def load_metadata(self, data_dir: Any) -> None:
        pass  # `open_prepared` reads them


def shard_lengths(sizes: list[int]) -> list[int]:
    """Number of pictures in each record file, in order, for files of about 512 MiB."""
    lengths, held = [0], 0
    for size in sizes:
        if lengths[-1] and held + size > _SHARD_BYTES:
            lengths.append(0)
            held = 0
        lengths[-1] += 1
        held += size
    return lengths


def _label_names(names: tuple[str, ...]) -> list[str]:
    """Class names as tfds stores them, one per line: not empty, and unique."""
    result: list[str] = []
    for i, name in enumerate(names):
        label = " ".join(name.split()) or f"class {i}"
        while label in result:
            label += f" ({i})"
        result.append(label)
    return result


# --- the disk -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(home: Path, wait: bool) -> Iterator[None]:
    """Locks out other builds of the same set; the lock ends with this process."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(home, _LOCK, wait=wait))
        except BlockingIOError as error:
            raise InputError(
                f"{home}: another process is building this set; wait for it to end"
            ) from error
        yield


def _check_space(picture_set: PictureSet, home: Path) -> None:
    pictures = picture_set.pictures
    splits = (getattr(picture_set.annotations, name).tolist() for name in SPLITS)
    needed = sum(pictures[i].size() for split in splits for i in split)
    free = shutil.disk_usage(home).free
    if needed > free:
        raise InputError(
            f"{home}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; make room or "
            "choose another folder"
        )


def _cannot_write(home: Path, error: Exception) -> InputError:
    reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
    reason = reason.split(";")[0]  # array_record adds the path of a temporary file
    advice = remedy(error, "check its permissions and free space")
    return InputError(f"{home}: cannot be written: {reason}; {advice}, or choose another folder")


def _sync(path: Path) -> None:
    """Syncs to disk, so that a power failure leaves no folder that only looks complete."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
