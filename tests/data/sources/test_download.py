"""Downloads from a server on this machine that breaks off, changes its file and lies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.server
import json
import threading
import time
from types import SimpleNamespace

import pytest

from dedn_jax.data.sources import download as module
from dedn_jax.data.sources.download import download, sha256_of
from dedn_jax.data.sources.published_archives import ARCHIVES, Archive
from dedn_jax.errors import InputError

DATA = bytes(range(256)) * 1000
OTHER = DATA[::-1]
SHA256 = hashlib.sha256(DATA).hexdigest()
KEEP = object()


class Server:
    """Serves `data`; what it does wrong is set by its attributes.

    Attributes:
      cuts: for the next answers, after how many bytes each breaks off.
      requests: the headers of all requests, in order.
    """

    def __init__(self):
        self.data = DATA
        self.etag = '"1"'
        self.last_modified = None
        self.ranges = True
        self.if_range = True
        self.cuts = []
        self.status = []
        self.length = KEEP
        self.redirect = None
        self.on_request = None
        self.requests = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.tgz"

    def answer(self, handler):
        self.requests.append(dict(handler.headers))
        if self.redirect:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        if self.status:
            status = self.status.pop(0)
            if status != 200:
                handler.send_response(status)
                handler.send_header("Content-Length", "0")
                return handler.end_headers()
        asked = handler.headers.get("Range") if self.ranges else None
        validator = handler.headers.get("If-Range")
        if self.if_range and validator not in (None, self.etag, self.last_modified):
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        size = len(self.data)
        if start >= size:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{size}")
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in (("ETag", self.etag), ("Last-Modified", self.last_modified)):
            if value:
                handler.send_header(name, value)
        length = size - start if self.length is KEEP else self.length
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.send_header("Content-Encoding", "x-gzip")  # as some do for .tgz: not to be decoded
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else size
        handler.wfile.write(self.data[start : start + cut])
        handler.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "_BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def archive(server, **changes):
    known = {"size": len(DATA), "sha256": SHA256} | changes
    return Archive(server.url, "file.tgz", ".", **known)


def error(what, folder, **options):
    with pytest.raises(InputError) as caught:
        download(what, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listing(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


UNKNOWN = {"size": None, "sha256": None}


@pytest.mark.parametrize("known", [{}, {"sha256": None}, {"size": None}, UNKNOWN])
def test_whole(server, tmp_path, known):
    path = download(archive(server, **known), tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "file.tgz"
    assert path.read_bytes() == DATA
    assert sha256_of(path) == SHA256
    assert listing(path.parent) == ["file.tgz"]
    assert "Range" not in server.requests[0]


@pytest.mark.parametrize("known", [{}, UNKNOWN])
def test_goes_on_where_the_connection_broke(server, tmp_path, known):
    server.cuts = [100_000, 50_000]
    assert download(archive(server, **known), tmp_path).read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert [r.get("If-Range") for r in server.requests] == [None, '"1"', '"1"']
    assert listing(tmp_path) == ["file.tgz"]


def test_goes_on_in_a_later_call(server, tmp_path):
    server.cuts = [100_000] + [0] * 5
    message = error(archive(server, **UNKNOWN), tmp_path)
    assert message.startswith(f"{server.url}: the connection ended") or "100000" in message
    assert "5 times" in message
    assert "resume from the 100000 bytes in" in message
    assert listing(tmp_path) == ["file.tgz.part", "file.tgz.part.json"]
    server.requests.clear()
    assert download(archive(server, **UNKNOWN), tmp_path).read_bytes() == DATA
    assert [r.get("Range") for r in server.requests] == ["bytes=100000-"]


def test_a_whole_part_needs_no_request(server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(DATA)
    assert download(archive(server), tmp_path).read_bytes() == DATA
    assert not server.requests


def test_last_modified_where_the_etag_is_weak(server, tmp_path):
    server.etag, server.last_modified = 'W/"1"', "Wed, 01 Jan 2020 00:00:00 GMT"
    server.cuts = [1000]
    assert download(archive(server, **UNKNOWN), tmp_path).read_bytes() == DATA
    assert server.requests[1]["If-Range"] == server.last_modified


def test_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.cuts = [100_000, 20_000]
    assert download(archive(server), tmp_path).read_bytes() == DATA
    assert len(server.requests) == 3


@pytest.mark.parametrize("if_range", [True, False])
def test_file_changed_meanwhile(server, tmp_path, if_range):
    server.cuts = [1000] + [0] * 5
    error(archive(server, **UNKNOWN), tmp_path)
    server.data, server.etag, server.if_range = OTHER, '"2"', if_range
    assert download(archive(server, **UNKNOWN), tmp_path).read_bytes() == OTHER


@pytest.mark.parametrize("note", [None, "{", '{"url": 1, "validators": []}', "other url"])
def test_a_part_of_unknown_origin_is_not_gone_on_from(server, tmp_path, note):
    (tmp_path / "file.tgz.part").write_bytes(b"x" * 10)
    if note == "other url":
        note = json.dumps({"url": server.url + "2", "size": None, "validators": {"ETag": '"1"'}})
    if note is not None:
        (tmp_path / "file.tgz.part.json").write_text(note)
    assert download(archive(server, **UNKNOWN), tmp_path).read_bytes() == DATA
    assert "Range" not in server.requests[0]


def test_nothing_to_go_on_with(server, tmp_path):
    """The server's file became shorter than what is there: 416."""
    server.cuts = [1000] + [0] * 5
    error(archive(server, **UNKNOWN), tmp_path)
    server.data = DATA[:500]
    assert download(archive(server, **UNKNOWN), tmp_path).read_bytes() == DATA[:500]


def test_busy_server(server, tmp_path):
    server.status = [503, 429, 200]
    assert download(archive(server), tmp_path).read_bytes() == DATA


def test_unreachable(server, tmp_path):
    server.http.server_close()
    message = error(archive(server), tmp_path)
    assert message.startswith(server.url)
    assert "5 times" in message


def test_other_size_than_known(server, tmp_path):
    message = error(archive(server, size=5), tmp_path)
    assert f"has {len(DATA)} bytes, expected 5" in message
    assert message.startswith(server.url)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("size", [len(DATA) - 1, None])
def test_sends_more_than_allowed(server, tmp_path, size, monkeypatch):
    server.length = None
    monkeypatch.setattr(module, "_MAX_BYTES", len(DATA) - 1)
    message = error(archive(server, size=size), tmp_path)
    assert f"sends more than {len(DATA) - 1} bytes" in message
    assert listing(tmp_path) == []


def test_states_more_than_allowed(server, tmp_path):
    server.length = 2**40
    assert "over the limit" in error(archive(server, **UNKNOWN), tmp_path)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("by_caller", [True, False])
def test_wrong_hash(server, tmp_path, by_caller):
    wrong = "0" * 64
    options = {"sha256": wrong} if by_caller else {}
    message = error(archive(server, sha256=SHA256 if by_caller else wrong), tmp_path, **options)
    for part in (server.url, str(tmp_path / "file.tgz"), SHA256, wrong):
        assert part in message
    assert listing(tmp_path) == []


def test_hash_given_by_the_caller(server, tmp_path):
    download(archive(server, **UNKNOWN), tmp_path, sha256=SHA256.upper())
    assert "is not a SHA-256" in error(archive(server), tmp_path, sha256="abc")


def test_not_found(server, tmp_path):
    server.status = [404]
    message = error(archive(server), tmp_path)
    assert message.startswith(f"{server.url}: the server answers 404")
    assert len(server.requests) == 1
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("to", "expected"),
    [("/again", "redirects more than 10 times"), ("file:///etc/passwd", "No connection adapters")],
)
def test_redirects(server, tmp_path, to, expected):
    server.redirect = to
    assert expected in error(archive(server), tmp_path)
    assert listing(tmp_path) == []


def trickle(handler, head):
    """Sends `head`, then a byte at a time until nobody listens."""
    with contextlib.suppress(OSError):
        handler.wfile.write(head)
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.005)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n", "sends less than 262144 bytes in"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "sends less than 262144 bytes in"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", "no answer in 0.2 s, 5 times"),
    ],
)
def test_a_byte_at_a_time(server, tmp_path, monkeypatch, head, expected):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    server.answer = lambda handler: trickle(handler, head)
    assert expected in error(archive(server), tmp_path / "out")


def test_the_bodies_of_redirects_are_not_read(server, tmp_path):
    """They may have no end."""
    sent = []

    def answer(handler):
        if handler.path == "/next":
            return Server.answer(server, handler)
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n")
        with contextlib.suppress(OSError):
            while len(sent) < 2000:
                handler.wfile.write(bytes(2**16))
                sent.append(2**16)
        handler.close_connection = True

    server.answer = answer
    assert download(archive(server), tmp_path).read_bytes() == DATA
    assert sum(sent) < 2**24


def test_not_http(tmp_path):
    assert "ftp" in error(Archive("ftp://127.0.0.1/a", "a", "."), tmp_path)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("known", [{}, UNKNOWN])
def test_already_there(server, tmp_path, known):
    (tmp_path / "file.tgz").write_bytes(DATA)
    download(archive(server, **known), tmp_path)
    assert not server.requests


def test_another_file_there_is_left_alone(server, tmp_path):
    path = tmp_path / "file.tgz"
    path.write_bytes(OTHER)
    message = error(archive(server), tmp_path)
    assert message.startswith(f"{path}: has sha256 ")
    assert SHA256 in message
    assert "has 256000 bytes, expected 3" in error(archive(server, size=3), tmp_path)
    assert path.read_bytes() == OTHER
    path.unlink()
    path.mkdir()
    assert "not a regular file" in error(archive(server), tmp_path)


def test_no_space(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    message = error(archive(server), tmp_path)
    assert "1000 are free" in message
    assert "file.tgz" not in listing(tmp_path)


def test_disk_fills_up(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    assert "No space left on device; try again" in error(archive(server), tmp_path)
    assert "file.tgz" not in listing(tmp_path)
    monkeypatch.undo()
    assert download(archive(server), tmp_path).read_bytes() == DATA


def test_two_at_once(server, tmp_path):
    with (tmp_path / "file.tgz.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in error(archive(server), tmp_path)
    assert not server.requests


def test_table():
    assert set(ARCHIVES) == {"CUB", "SUN", "AWA2"}
    for archives in ARCHIVES.values():
        assert "xlsa17.zip" in [a.file_name for a in archives]
        for a in archives:
            assert a.url.startswith("https://")
            assert a.unpacks_to
            assert a.url.endswith(a.file_name)
            assert a.sha256 is None or len(bytes.fromhex(a.sha256)) == 32
