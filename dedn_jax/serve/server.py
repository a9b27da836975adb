"""Serves the page of a run until it is stopped."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from dedn_jax.errors import InputError
from dedn_jax.inference.candidates import Candidates
from dedn_jax.inference.run import Run
from dedn_jax.serve.connections import Connection
from dedn_jax.serve.drop import PICTURE_PATH
from dedn_jax.serve.events import Events
from dedn_jax.serve.failures import Failures
from dedn_jax.serve.gate import Gate
from dedn_jax.serve.page import Page, mounted
from dedn_jax.serve.studio import Studio
from dedn_jax.training.interrupt import Interrupted, StopOnSignals

_LEAVE = 1  # seconds that open connections are given
_OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)  # what else fails, the address does
_AT_ONCE = 2  # pictures: decoding a large one takes hundreds of megabytes


def serve(run: Run, candidates: Candidates, host: str, port: int, max_bytes: int) -> None:
    """Serves the page of a run; returns by an exception alone.

    Args:
      run: a finished run.
      candidates: its classes.
      host: address to listen on.
      port: of it; 0: any that is free.
      max_bytes: of a picture.

    Raises:
      InputError: the port is taken, or the run cannot be served; see `Studio`.
      Interrupted: by SIGTERM or Ctrl-C.
    """
    listening = _listen(host, port)
    with listening:
        studio = Studio(run, candidates)
        studio.warm_up()
        loopback = ipaddress.ip_address(listening.getsockname()[0]).is_loopback
        app = application(studio, max_bytes=max_bytes, loopback=loopback)
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="critical",
            server_header=False,
            http=Connection,
            timeout_graceful_shutdown=_LEAVE,
            ws="none",
        )
        _say(run, host, listening.getsockname()[1], loopback)
        with StopOnSignals() as stop:  # which the server ends by, and passes on
            uvicorn.Server(config).run(sockets=[listening])
    raise Interrupted(stop.signal_number, "stopped")


def application(studio: Studio, *, max_bytes: int, loopback: bool) -> Gate:
    """The whole application, behind its gate."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    places, failures = asyncio.Semaphore(_AT_ONCE), Failures()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": failures.noted(error)}, 500)

    @app.post(PICTURE_PATH)
    async def look_at(request: Request) -> JSONResponse:
        encoded = await request.body()
        try:
            async with places:
                token = await run_in_threadpool(studio.look, encoded)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse({"token": token})

    page = Page(studio, max_bytes, failures)
    mounted(page, app)
    check = Events(page.blocks).refusal
    return Gate(app, max_bytes=max_bytes, loopback=loopback, check=check)


def _listen(host: str, port: int) -> socket.socket:
    no_address = f"--host={host}: no address of this machine"
    give = "give one, such as 127.0.0.1"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise InputError(f"{no_address} ({error}); {give}") from error
    try:
        listening = socket.socket(family, kind, protocol)
    except OSError as error:  # of a kind that this machine does not have
        raise InputError(f"{no_address} ({error.strerror}); {give}") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno not in _OF_THE_PORT:
            raise InputError(f"{no_address} ({error.strerror}); {give}") from error
        raise InputError(
            f"--port={port}: cannot be used on {host} ({error.strerror}); choose another with "
            "--port, or 0 for any that is free"
        ) from error
    return listening


def _say(run: Run, host: str, port: int, loopback: bool) -> None:
    if not loopback:
        print(
            f"dedn: --host={host}: everyone who reaches this machine can use the page; there is no "
            "password",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    print(f"{run.workdir.path} on http://{shown}:{port}/ (Ctrl-C ends it)", flush=True)
