"""Checks the chunks of HDF5 data sets from untrusted files before h5py unpacks them.

libhdf5 unpacks a chunk whatever it unpacks to, and takes of it what it expects: a chunk of 4 MB
can take 4 GB of memory, and nothing is reported.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import h5py

from dedn_jax.errors import InputError
from dedn_jax.progress import progress

# Memory that a chunk may take without being looked at. Chunks of h5py's own choice are so small
# that deflate cannot reach it: most files are unpacked only once.
_FREE_BYTES = 2**28
_LARGE_CHUNK_BYTES = 2**26  # chunks may be larger only where the data set is
_MOST_CHUNKS = 2**17  # libhdf5 takes some 4 kB for each that a reading touches, stored or not
_DEFLATE_RATIO = 1032  # that no stored chunk can exceed; of lzf, 88
_LZF_BYTES = 12 * 2**20  # of a stored chunk, which can take 1 GB of memory
_CHECKSUM_BYTES = 64  # more than any checksum that is packed with the values
_LZF = 32000
# By their numbers; the others write as many bytes as the file tells them to.
_KNOWN = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, _LZF}
_REPACK = "store it again with gzip (`h5repack -f GZIP=4`)"


def check_chunks(dataset: h5py.Dataset, where: str, at_once: int | None = None) -> None:
    """Checks that no chunk unpacks to more than its size, and their number, before values are read.

    Chunks that could are unpacked here, as far as their size.

    Args:
      dataset: stored in any way.
      where: what an error message begins with.
      at_once: bytes of values that are read at once; None: all.

    Raises:
      InputError: a chunk is too large, there are too many, or packed by a filter that is not known.
      OSError, RuntimeError: the file is damaged.
    """
    if dataset.chunks is None:
        return
    size = _chunk_bytes(dataset, where, at_once)
    filters = _filters(dataset, where)
    packing = [number for number in filters if number in (h5py.h5z.FILTER_DEFLATE, _LZF)]
    if not packing:
        return
    left_out = 1 << filters.index(packing[0])  # set in the mask of a chunk stored as it is
    lzf = packing[0] == _LZF
    harmless = _LZF_BYTES if lzf else (_FREE_BYTES + size) // _DEFLATE_RATIO
    suspects: list[Any] = []

    def look(chunk: Any) -> None:
        """Gathers the chunks that are packed and can take much memory."""
        if not chunk.filter_mask & left_out and chunk.size > harmless:
            suspects.append((chunk.chunk_offset, chunk.size))

    dataset.id.chunk_iter(look)
    if lzf and suspects:  # not unpacked here, for want of lzf outside of libhdf5
        offset, stored = suspects[0]
        raise InputError(
            f"{where}: the chunk at {offset} has {stored} bytes of lzf, expected at most "
            f"{_LZF_BYTES}; {_REPACK}"
        )
    with progress(len(suspects), "checking chunks", "chunk", delay=2) as bar:
        for offset, stored in suspects:
            if _unpacks_to_more(dataset, offset, stored, size):
                raise InputError(
                    f"{where}: the chunk at {offset} unpacks to more than its {size} bytes; get "
                    "the file again from its source"
                )
            bar.update(1)


def _chunk_bytes(dataset: h5py.Dataset, where: str, at_once: int | None) -> int:
    """The size of a chunk, unpacked, where it and the number of chunks are in bounds."""
    itemsize = max(dataset.dtype.itemsize, dataset.id.get_type().get_size())
    size, whole = math.prod(dataset.chunks) * itemsize, dataset.size * itemsize
    count = math.prod(-(-n // m) for n, m in zip(dataset.shape, dataset.chunks, strict=True))
    if whole > (at_once or whole):
        count = count * at_once // whole
    if count > _MOST_CHUNKS:
        raise InputError(
            f"{where} has chunks of shape {dataset.chunks}, of which {count} are read at once, "
            f"expected at most {_MOST_CHUNKS}; store it again with larger ones"
        )
    if size > max(_LARGE_CHUNK_BYTES, whole):
        raise InputError(
            f"{where} has chunks of shape {dataset.chunks}, larger than itself; {_REPACK}"
        )
    return size


def _filters(dataset: h5py.Dataset, where: str) -> list[int]:
    """The numbers of the filters in the order in which values are packed."""
    plan = dataset.id.get_create_plist()
    found = [plan.get_filter(i) for i in range(plan.get_nfilters())]
    for number, _, _, name in found:
        if number not in _KNOWN:
            label = name[:64].decode("ascii", "replace")
            raise InputError(
                f"{where} is compressed by the filter {label!r} (number {number}), expected gzip, "
                f"lzf or none; {_REPACK}"
            )
    numbers = [number for number, *_ in found]
    behind = [n for n in numbers if n != h5py.h5z.FILTER_FLETCHER32]
    # What is packed is packed once, and last but for checksums: otherwise it cannot be looked at.
    if len(numbers) > len(set(numbers)) or {h5py.h5z.FILTER_DEFLATE, _LZF} & set(behind[:-1]):
        raise InputError(f"{where} is compressed more than once; {_REPACK}")
    return numbers


def _unpacks_to_more(dataset: h5py.Dataset, offset: Any, stored: int, size: int) -> bool:
    """Whether a chunk of deflate holds more than its size; damaged ones are left to h5py."""
    if stored > size + size // 64 + 1024:  # more than deflate makes of what it cannot pack
        return True
    _, packed = dataset.id.read_direct_chunk(offset)
    most = size + _CHECKSUM_BYTES
    try:
        return len(zlib.decompressobj().decompress(packed, most + 1)) > most
    except zlib.error:
        return False
