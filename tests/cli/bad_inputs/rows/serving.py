"""What `dedn serve` is given; what needs Gradio is in tests/serve/test_server.py."""

from __future__ import annotations

from tests.cli.bad_inputs.world import Bad, World


def serve(world: World, *flags: str) -> list[str]:
    world.run()
    return ["serve", f"--workdir={world.root}/run", *flags]


SERVING = [
    Bad(
        "a page without Gradio",
        serve,
        "Gradio",
        "is not installed",
        "install it with: pip install 'dedn-jax[serve]'",
    ),
    Bad(
        "no such port",
        lambda w: serve(w, "--port=70000"),
        "--port",
        "70000",
        "expected 0 to 65535",
    ),
    Bad(
        "uploads of no size",
        lambda w: serve(w, "--max-upload-mb=0"),
        "--max-upload-mb",
        "0",
        "expected 0.001 to 1000",
    ),
]
