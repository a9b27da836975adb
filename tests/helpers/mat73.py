"""MATLAB files of version 7.3, laid out as MATLAB's `save -v7.3` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

CLASSES = {"f8": "double", "f4": "single", "u1": "uint8", "u2": "uint16", "i4": "int32"}


def save_mat73(path: Path, **variables: Any) -> Path:
    """Arrays of numbers, texts, and object arrays of texts (cell arrays)."""
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_group("#refs#")
        for name, value in variables.items():
            if isinstance(value, str):
                _text(file, name, value)
            elif value.dtype == object:
                refs = np.empty(value.T.shape, h5py.ref_dtype)
                for place, text in np.ndenumerate(value.T):
                    refs[place] = _text(cells, str(len(cells)), text).ref
                _named(file.create_dataset(name, data=refs, dtype=h5py.ref_dtype), "cell")
            else:
                _numbers(file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def _numbers(file: h5py.File, name: str, value: np.ndarray) -> None:
    kind = CLASSES[value.dtype.str[1:]]
    if value.size:
        # MATLAB compresses what is large.
        options = {"chunks": True, "compression": "gzip"} if value.size > 100 else {}
        _named(file.create_dataset(name, data=value.T, **options), kind)
    else:
        _empty(file, name, value.shape, kind)


def _text(group: h5py.Group, name: str, text: str) -> h5py.Dataset:
    if not text:
        return _empty(group, name, (0, 0), "char")
    units = np.frombuffer(text.encode("utf-16-le"), "<u2")[:, None]
    dataset = _named(group.create_dataset(name, data=units), "char")
    dataset.attrs["MATLAB_int_decode"] = np.int32(2)
    return dataset


def _empty(group: h5py.Group, name: str, shape: tuple[int, ...], kind: str) -> h5py.Dataset:
    dataset = _named(group.create_dataset(name, data=np.array(shape, np.uint64)), kind)
    dataset.attrs["MATLAB_empty"] = np.uint8(1)
    return dataset


def _named(dataset: h5py.Dataset, kind: str) -> h5py.Dataset:
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    return dataset
