"""`dedn serve`."""

# Modules are imported when their job runs: `dedn --help` need not wait for JAX.

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from dedn_jax.cli.arguments import add_attributes, run_candidates, workdir_flag
from dedn_jax.errors import InputError

_DESCRIPTION = """\
Serves a page to try a finished run on: drop a picture, see its classes, the attributes that speak
for them and where both experts look, and design new classes, which need no training.

Needs the extra [serve]. The page is for this machine alone, unless --host says otherwise; it has
no password. Pictures stay in memory, and nothing is fetched from the network. Ctrl-C ends it.

Backbone and transform are given as for `dedn predict`."""


def add_serve(jobs: Any) -> None:
    """Adds `dedn serve` to the jobs."""
    serve = jobs.add_parser(
        "serve",
        help="a page to try a run on: classes, attributes, attention, new classes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--workdir", required=True, type=workdir_flag, help="directory of the run")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    serve.add_argument(
        "--port", type=int, default=7860, help="port; 0: any that is free (default: 7860)"
    )
    serve.add_argument(
        "--max-upload-mb", type=float, default=20, help="largest picture (default: 20)"
    )
    add_attributes(serve)
    serve.set_defaults(run=_serve, overrides=True)


def _serve(args: argparse.Namespace, overrides: list[str]) -> None:
    if not 0 <= args.port < 1 << 16:
        raise InputError(f"--port={args.port}, expected 0 to 65535")
    if not 0.001 <= args.max_upload_mb <= 1000:
        raise InputError(f"--max-upload-mb={args.max_upload_mb:g}, expected 0.001 to 1000")
    if importlib.util.find_spec("gradio") is None:
        raise InputError("Gradio is not installed; install it with: pip install 'dedn-jax[serve]'")
    from dedn_jax.inference.run import open_run
    from dedn_jax.serve.server import serve

    run = open_run(args.workdir, overrides)
    serve(run, run_candidates(args, run), args.host, args.port, int(args.max_upload_mb * 1e6))
