"""Unpacking: archives as published, and hostile ones, which must leave nothing behind."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import re
import stat
import struct
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from dedn_jax.data.sources import archive_members
from dedn_jax.data.sources import archives as module
from dedn_jax.data.sources.archives import Unpacked, unpack, unpacked
from dedn_jax.errors import InputError

FILES = {"A/one.txt": b"1" * 3000, "A/b/two.txt": b"", "names.txt": b"x\ny\n"}


def tar_bytes(members):
    """Members: (name, data), (name, type, link) or TarInfo."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as out:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                out.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.mode = 0o6777
            if len(member) == 3:
                info.type, info.linkname = member[1:]
                out.addfile(info)
            else:
                info.size = len(member[1])
                out.addfile(info, io.BytesIO(member[1]))
    return stream.getvalue()


def zip_bytes(members):
    """Members: (name or ZipInfo, data)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members:
            out.writestr(name, data)
    return stream.getvalue()


def packed(kind, members):
    if kind == "zip":
        return zip_bytes(members)
    data = tar_bytes(members)
    return gzip.compress(data, 1) if kind == "tgz" else data


def write(tmp_path, data, name="archive.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def tree(folder):
    """All files and folders but the notes."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if ".unpack" not in p.name)


def refused(tmp_path, data, **limits):
    path = write(tmp_path, data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        unpack(path, tmp_path / "new" / "root", **limits)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "root").mkdir(exist_ok=True)  # a folder that was there stays as it is
    with pytest.raises(InputError):
        unpack(path, tmp_path / "root", **limits)
    assert list((tmp_path / "root").iterdir()) == []
    return message


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_unpack(tmp_path, kind):
    path = write(tmp_path, packed(kind, FILES.items()))
    root = tmp_path / "data" / "CUB"
    assert unpack(path, root, sha256="00") == ["A", "names.txt"]
    assert tree(root) == ["A", "A/b", "A/b/two.txt", "A/one.txt", "names.txt"]
    for name, data in FILES.items():
        assert (root / name).read_bytes() == data
        assert not stat.S_IMODE((root / name).stat().st_mode) & 0o7111
    assert unpacked(root, path.name) == Unpacked(["A", "names.txt"], "00")
    (root / "A/one.txt").write_text("changed by the user")
    assert unpack(path, root) == ["A", "names.txt"]
    assert (root / "A/one.txt").read_text() == "changed by the user"


def test_folders_and_dots(tmp_path):
    members = [("./", tarfile.DIRTYPE, ""), ("./a", tarfile.DIRTYPE, ""), ("./a/b", b"1")]
    members.append(("a/", tarfile.DIRTYPE, ""))
    root = tmp_path / "root"
    assert unpack(write(tmp_path, tar_bytes(members)), root) == ["a"]
    assert tree(root) == ["a", "a/b"]
    assert unpack(write(tmp_path, zip_bytes([("e/f/", b"")]), "b.zip"), root) == ["e"]
    assert (root / "e/f").is_dir()


def test_two_archives_into_one_folder(tmp_path):
    one = write(tmp_path, zip_bytes([("images/a", b"1")]), "one.zip")
    two = write(tmp_path, zip_bytes([("names/a", b"1")]), "two.zip")
    clash = write(tmp_path, zip_bytes([("more", b"2"), ("images/a", b"2")]), "clash.zip")
    root = tmp_path / "root"
    unpack(one, root)
    unpack(two, root)
    before = sorted(root.rglob("*"))
    with pytest.raises(InputError, match=r"root/images: exists already, and .*clash\.zip"):
        unpack(clash, root)
    assert sorted(root.rglob("*")) == before
    assert (root / "images/a").read_bytes() == b"1"


def test_another_archive_of_the_same_name(tmp_path):
    unpack(write(tmp_path, zip_bytes([("a", b"1")])), tmp_path / "root")
    path = write(tmp_path, zip_bytes([("a", b"12345")]))
    with pytest.raises(InputError, match=r"was unpacked from an archive of 10\d bytes"):
        unpack(path, tmp_path / "root")


def test_after_a_kill(tmp_path):
    """Killed between the moves: the note is there, one entry is, and the temporary folder."""
    path = write(tmp_path, zip_bytes([("a/x", b"1"), ("b/x", b"2")]))
    root = tmp_path / "root"
    unpack(path, root)
    temporary = root / ".unpacking-archive.bin"
    temporary.mkdir()
    (root / "b").rename(temporary / "b")
    assert unpacked(root, path.name) is None
    assert unpack(path, root) == ["a", "b"]
    assert tree(root) == ["a", "a/x", "b", "b/x"]
    assert not temporary.exists()


def test_move_fails(tmp_path, monkeypatch):
    path = write(tmp_path, zip_bytes([("a/x", b"1"), ("b/x", b"2")]))
    rename = os.rename

    def fail_on_b(a, b):
        if str(b).endswith("root/b"):
            raise OSError(5, "Input/output error")
        rename(a, b)

    monkeypatch.setattr(module.os, "rename", fail_on_b)
    with pytest.raises(InputError, match="Input/output error"):
        unpack(path, tmp_path / "root")
    assert not (tmp_path / "root").exists()


BAD_NAMES = {
    "../out": "leaves its folder",
    "a/../../out": "leaves its folder",
    "/etc/out": "is absolute",
    "C:/out": "is absolute",
    "c:out": "is absolute",
    "a\\..\\out": "backslash",
    "a\nb": "control characters",
    ".unpacked-x.json": "starts with the reserved .unpack",
}


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(tmp_path, kind, name):
    message = refused(tmp_path, packed(kind, [("good", b"1"), (name, b"2")]))
    assert BAD_NAMES[name] in message
    assert repr(name) in message


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a/x", "a/x"), "occurs twice"),
        (("a/x", "A/y"), "differs only in case from 'a'"),
        (("a/é", "a/e\u0301"), "differs only in case"),
        (("a", "a/x"), "lies below a file"),
        (("a/x", "a"), "occurs twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_clashes(tmp_path, kind, names, expected):
    assert expected in refused(tmp_path, packed(kind, [(name, b"1") for name in names]))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("l", tarfile.SYMTYPE, "../out")], "outside the destination|does not exist"),
        ([("l", tarfile.SYMTYPE, "/etc")], "link to an absolute path|outside of the archive"),
        (
            [("l", tarfile.SYMTYPE, "/etc"), ("l/passwd", b"")],
            "link to an absolute path|below a link",
        ),
        ([("a/l", tarfile.SYMTYPE, "b"), ("a/b/c", b""), ("a/l/d", b"")], "lies below a link"),
        ([("l", tarfile.SYMTYPE, "nowhere")], "which does not exist"),
        ([("l", tarfile.SYMTYPE, "m"), ("m", tarfile.SYMTYPE, "l")], "which does not exist"),
        ([("a/l", tarfile.SYMTYPE, "."), ("a/b", b"")], "outside of the archive"),
        (
            # By its own words m stays inside; l leads elsewhere than it seems to.
            [
                ("x/y/z/f", b""),
                ("x/y/z/l", tarfile.SYMTYPE, "../../../d"),
                ("d/f", b""),
                ("m", tarfile.SYMTYPE, "x/y/z/l/../../.."),
            ],
            "outside the destination|outside of the archive",
        ),
        (
            # The same, but l comes after m, when tarfile has looked where m leads.
            [
                ("x/y/z/f", b""),
                ("m", tarfile.SYMTYPE, "x/y/z/l/../../.."),
                ("x/y/z/l", tarfile.SYMTYPE, "../../../d"),
                ("d/f", b""),
            ],
            "outside of the archive",
        ),
        ([("l", tarfile.LNKTYPE, "../archive.bin")], "not a file before it"),
        ([("l", tarfile.LNKTYPE, "/etc/passwd")], "not a file before it"),
        ([("l", tarfile.LNKTYPE, "nowhere")], "not a file before it"),
        ([("f", b""), ("s", tarfile.SYMTYPE, "f"), ("l", tarfile.LNKTYPE, "s")], "not a file"),
        ([("p", tarfile.FIFOTYPE, "")], "neither a file"),
        ([("p", tarfile.CHRTYPE, "")], "neither a file"),
        ([("p", tarfile.BLKTYPE, "")], "neither a file"),
    ],
)
def test_links_and_devices(tmp_path, members, expected):
    # Of the releases of Python 3.11 some have other words, or leave it to ours.
    assert re.search(expected, refused(tmp_path, tar_bytes(members)))


def test_links_inside_are_kept(tmp_path):
    members = [
        ("a/f", b"data"),
        ("a/hard", tarfile.LNKTYPE, "a/f"),
        ("b/soft", tarfile.SYMTYPE, "../a/f"),
        ("dir", tarfile.SYMTYPE, "a"),
    ]
    root = tmp_path / "root"
    assert unpack(write(tmp_path, tar_bytes(members)), root) == ["a", "b", "dir"]
    assert (root / "a/hard").read_bytes() == b"data"
    assert (root / "b/soft").read_bytes() == b"data"
    assert (root / "dir/f").read_bytes() == b"data"


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_zip(tmp_path, mode):
    info = zipfile.ZipInfo("l")
    info.external_attr = (mode | 0o777) << 16
    assert "neither a file nor a folder" in refused(tmp_path, zip_bytes([(info, "../../out")]))


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_too_large(tmp_path, kind):
    data = packed(kind, [("a", b"1" * 600), ("b", b"1" * 600)])
    assert "more than 1000 bytes, the limit" in refused(tmp_path, data, limit_bytes=1000)


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_bomb(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archive_members, "_RATIO_FREE", 1000)
    data = packed(kind, [("a", bytes(2**20))])
    assert "200 times its size" in refused(tmp_path, data)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_files(tmp_path, kind):
    data = packed(kind, [(f"d/{i}", b"") for i in range(20)])
    assert "more than 20 files" in refused(tmp_path, data, limit_files=20)
    unpack(write(tmp_path, data), tmp_path / "root", limit_files=21)


@pytest.mark.parametrize("stated", [10, 5000])
def test_zip_that_states_another_size(tmp_path, stated):
    data = zip_bytes([("a", bytes(range(256)) * 16)])
    size = struct.pack("<I", 4096)
    assert data.count(size) == 2
    message = refused(tmp_path, data.replace(size, struct.pack("<I", stated)))
    assert "damaged" in message or "its header says" in message


def test_tar_that_states_a_large_size(tmp_path):
    info = tarfile.TarInfo("a")
    info.size = 2**50
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert "unpacks to more than" in refused(tmp_path, gzip.compress(header + bytes(1024)))


def test_tar_of_negative_size(tmp_path):
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    checksum = sum(header[:148]) + 256 + sum(header[156:])
    header[148:156] = b"%06o\x00 " % checksum
    assert "has a size of -1 bytes" in refused(tmp_path, bytes(header) + bytes(1024))


def test_long_headers(tmp_path):
    """A name of 100 MB, and 2000 headers before one member: tarfile would hold and recurse."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10**8
    huge = info.tobuf(tarfile.GNU_FORMAT)
    assert "a header of" in refused(tmp_path, huge + bytes(1024))
    info.size = 1
    chain = (info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 2000
    assert "damaged" in refused(tmp_path, gzip.compress(chain + bytes(1024)))


def test_encrypted_zip(tmp_path):
    data = bytearray(zip_bytes([("a", b"1")]))
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + at] |= 1
    assert "member 'a' is encrypted" in refused(tmp_path, bytes(data))


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_cut_short(tmp_path, kind):
    data = packed(kind, [(f"f{i}", os.urandom(700)) for i in range(4)])
    size = len(data) if kind != "tar" else 4 * (512 + 1024)  # without the end's zeros
    # Whole headers, whole members, the middle of either, the last byte.
    cuts = [600, 1024, 1536, 2048, size // 2, size - 5, size - 1, *([size] * (kind == "tar"))]
    for cut in cuts:
        assert "damaged" in refused(tmp_path, data[:cut])


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_damaged(tmp_path, kind):
    data = bytearray(packed(kind, [("f0", os.urandom(700)), ("f1", os.urandom(700))]))
    at = 1536 + 20 if kind == "tar" else 400  # tar: in the second header; it keeps no other sums
    data[at] ^= 0xFF
    assert "damaged" in refused(tmp_path, bytes(data))


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"PK\x03\x04", b"\x1f\x8b"])
def test_no_archive(tmp_path, data):
    assert "download it again" in refused(tmp_path, data)


def test_empty(tmp_path):
    assert "holds no files" in refused(tmp_path, zip_bytes([]))
    assert "holds no files" in refused(tmp_path, tar_bytes([("./", tarfile.DIRTYPE, "")]))


def test_no_such_archive(tmp_path):
    for path, expected in ((tmp_path / "none.zip", "no such archive"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=expected):
            unpack(path, tmp_path / "root")


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_no_space(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=2000))
    assert "more than 2000 bytes, all that is free" in refused(
        tmp_path, packed(kind, FILES.items())
    )


def test_disk_fills_up(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    data = packed("tgz", FILES.items())
    monkeypatch.setattr(archive_members.tarfile, "copyfileobj", full)
    assert "No space left" in refused(tmp_path, data)


def test_two_at_once(tmp_path):
    path = write(tmp_path, zip_bytes([("a", b"1")]))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            unpack(path, tmp_path / "root")


@pytest.mark.parametrize("note", ["{", "[]", '{"bytes": 1, "entries": ["../a"]}'])
def test_damaged_note(tmp_path, note):
    path = write(tmp_path, zip_bytes([("a", b"1")]))
    (tmp_path / ".unpacked-archive.bin.json").write_text(note)
    with pytest.raises(InputError, match=r"\.unpacked-archive\.bin\.json: "):
        unpack(path, tmp_path)


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
@pytest.mark.parametrize("name", ["x" * 50_000, "a/" * 25_000 + "x"])
def test_names_without_end(tmp_path, kind, name):
    message = refused(tmp_path, packed(kind, [("A/one.txt", b"1"), (name, b"2")]))
    assert "has a name of 500" in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (8, b"\1\0", "is encrypted"),
        (10, b"\x63\0", "is compressed by method 99"),
        (10, b"\x0c\0", "is compressed by method 12"),
        (24, b"\xfe\xff\xff\xff", "unpacks to more than"),
    ],
)
def test_what_a_zip_says_of_a_member(tmp_path, offset, value, expected):
    data = bytearray(zip_bytes([("A/one.txt", b"1" * 3000)]))
    at = data.index(b"PK\1\2") + offset
    data[at : at + len(value)] = value
    assert expected in refused(tmp_path, bytes(data))


def test_a_member_of_four_terabytes(tmp_path):
    data = zip_bytes([("A/one.txt", b"1")])
    directory, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    extra = struct.pack("<HHQ", 1, 8, 2**42)  # the sizes of zip64
    record = bytearray(data[directory:end])
    record[24:28] = b"\xff" * 4
    record[30:32] = struct.pack("<H", len(extra))
    record += extra
    tail = bytearray(data[end:])
    tail[12:16] = struct.pack("<I", len(record))
    assert "unpacks to more than" in refused(tmp_path, data[:directory] + record + tail)
