"""What all rows may read."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from tests.cli.bad_inputs.making import weight_shapes
from tests.cli.bad_inputs.world import Shared
from tests.made_up import prepared_folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    jax.devices()  # so that what a machine's drivers have to say is said before
    root = tmp_path_factory.mktemp("shared")
    prepared = prepared_folder(root, pictures=3)
    shapes = weight_shapes("mobilenet_v1")
    np.savez_compressed(
        root / "weights.npz", **{name: np.full(s, 0.5, np.float32) for name, s in shapes.items()}
    )
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = served[self.path.removeprefix("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Shared(root / "mine", prepared, root / "weights.npz", url, served)
        server.shutdown()
