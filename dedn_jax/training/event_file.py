"""TensorBoard's file format: the bytes of events, for whoever writes them.

tensorboardX writes in a thread of its own, which a full disk ends; whoever logs then waits for it
for ever.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from typing import Any


def event_file_name() -> str:
    """Of a new file; TensorBoard joins those in a folder in the order of their times."""
    return f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"


def first_events(purge_step: int | None) -> bytes:
    """What a file begins with.

    Args:
      purge_step: what earlier files say of this step and later ones is void; None: nothing.
    """
    version = "brain.Event:2"
    data = _event(file_version=version)
    if purge_step is not None:
        data += _event(step=purge_step, file_version=version)
        data += _event(step=purge_step, session_log={"status": 1})  # START
    return data


def scalar_events(tag: str, values: Mapping[str, float], step: int) -> bytes:
    """Numbers under `tag/<name>`."""
    named = [{"tag": f"{tag}/{name}", "simple_value": value} for name, value in values.items()]
    return _event(step=step, summary={"value": named})


def _event(**fields: Any) -> bytes:
    # Here: importing it imports torch where that is installed.
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(checks) + data + next(checks)
