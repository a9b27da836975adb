"""Connections of the server: how many there are, and how long one may say nothing.

uvicorn waits without end for the header of a request, and refuses everybody when there are many
connections, whoever holds them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from dedn_jax.serve.gate import Message, Receive, Send, refuse


class Connection(H11Protocol):
    """A connection of uvicorn's that ends where no request comes.

    One too many is not ended at once: who asks is told why, as JSON, and then it ends.

    Attributes:
      most: connections that are served at a time.
      most_each: of them, those of one address; loopback is excepted, where a proxy or a tunnel
        stands for many.
      patience: seconds for the header of a request.
      hurry: the same for one too many.
    """

    most, most_each = 100, 50
    patience, hurry = 10.0, 1.0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._late: asyncio.TimerHandle | None = None
        self.served = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.served = self._has_a_place()
        if not self.served:
            self.app = _too_many
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._cease()

    def _has_a_place(self) -> bool:
        others = [c for c in self.connections if c is not self and c.served]
        address = self.client[0] if self.client else ""
        same = [c for c in others if c.client and c.client[0] == address]
        return len(others) < self.most and (_is_loopback(address) or len(same) < self.most_each)

    def _watch(self) -> None:
        """Sets the deadline while a header is awaited; more of it does not put it off."""
        if self.conn.their_state is not h11.IDLE:
            self._cease()
        elif self._late is None:
            seconds = self.patience if self.served else self.hurry
            self._late = self.loop.call_later(seconds, self._end)

    def _cease(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        # Abruptly, for one whose answer is read by nobody as well.
        self._late = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # no address at all
        return False


async def _too_many(scope: Message, receive: Receive, send: Send) -> None:
    await refuse(send, 503, "too many connections; try again in a while")
