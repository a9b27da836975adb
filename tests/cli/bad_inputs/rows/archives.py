"""Archives and downloads."""

from __future__ import annotations

from tests.cli.bad_inputs.making import zipped
from tests.cli.bad_inputs.world import Bad

# It is whole: what to do with it is up to whoever asked for it.
_DOWNLOADED = ("mine/downloads", "mine/downloads/file.zip")
ARCHIVES = [
    Bad(
        "archive that leaves its folder",
        lambda w: w.archive(zipped("../../evil.txt")),
        "file.zip",
        "'../../evil.txt' leaves its folder by '..'",
        "remove it and get the publisher's archive",
        left=_DOWNLOADED,
    ),
    Bad(
        "archive of another hash",
        lambda w: w.archive(zipped("a.txt"), sha256="0" * 64),
        "file.zip",
        "expected 0000",
        "removed, try again",
    ),
    Bad(
        "download of a set that is not served",
        lambda w: w.build("AWA1", "--download"),
        "--download",
        "does not apply to AWA1, only to CUB, SUN, AWA2",
        "leave it out",
    ),
    Bad(
        "hash without a file",
        lambda w: [*w.archive(b""), f"--sha256={'0' * 64}"],
        "--sha256",
        "expected a file name, =",
        "64 hexadecimal digits",
    ),
    Bad(
        "hash of no archive",
        lambda w: [*w.archive(b""), f"--sha256=x.zip={'0' * 64}"],
        "AWA2",
        "unknown archive 'x.zip'",
        "its archives: file.zip",
    ),
    Bad(
        "hash without a download",
        lambda w: w.build("CUB", f"--sha256=x.zip={'0' * 64}"),
        "--sha256",
        "only applies to downloaded archives",
        "add --download, or leave it out",
    ),
    Bad(
        "archive of another hash than asked",
        lambda w: [*w.archive(zipped("a.txt")), f"--sha256=file.zip={'1' * 64}"],
        "file.zip",
        "expected 1111",
        "removed, try again",
    ),
    Bad(
        "download without word vectors",
        lambda w: w.build("CUB", "--download"),
        "w2v/CUB_attribute.pkl",
        "no such file",
        "make some with `dedn data wordvectors`",
    ),
    Bad(
        "archive that is a web page",
        lambda w: w.archive(b"<html>sign in</html>"),
        "file.zip",
        "not a zip, tar or gzipped tar",
        "remove it and download it again",
        left=_DOWNLOADED,
    ),
]
