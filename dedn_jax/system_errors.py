"""What to do about errors of the operating system."""

from __future__ import annotations

import errno
import os

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow the machine more open files (sysctl fs.file-max)",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see to its permissions"),
    errno.EROFS: "have its file system mounted for writing too",
    **dict.fromkeys(
        (errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT),
        "see whether its disk and its mount are well",
    ),
}


def remedy(error: BaseException, otherwise: str = "") -> str:
    """What to do, as the end of a message: it follows from what the system said.

    Args:
      error: of the system, or of a library that passes on what the system said.
      otherwise: for what is not known here.
    """
    code = error.errno if isinstance(error, OSError) else None
    if code is None:
        text = str(error)
        code = next((known for known in _REMEDIES if os.strerror(known) in text), 0)
    return _REMEDIES.get(code, otherwise)
