"""What the events of the page may say, and how many may wait: checked before Gradio has them.

Gradio keeps an event until it was handled and the answer until somebody reads it, for as many
sessions as anybody makes up; what it cannot understand it answers with a bare 500.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from typing import Any, NamedTuple

MAX_EVENT = 20_000  # bytes; the page's own take less than 1000, and a pasted name may be long
MAX_SESSIONS = 200
MAX_QUEUED = 64  # events of all sessions that wait for their turn
_MAX_UNREAD = 32  # events of a session whose answers nobody read
_MAX_UNREAD_IN_ALL = 256  # an answer has the picture in it, which takes tenths of a megabyte
_MAX_MESSAGES = 1000  # of a session: Gradio also says when an event waits and when it begins
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refusal(NamedTuple):
    """A status of HTTP, and why."""

    status: int
    why: str


class Events:
    """Events of the page on their way to Gradio.

    Args:
      blocks: the page.
    """

    def __init__(self, blocks: Any) -> None:
        self._blocks = blocks
        self._sessions: OrderedDict[str, None] = OrderedDict()  # lately used last

    async def refusal(self, body: bytes) -> Refusal | None:
        """Why an event is refused; None where it is not."""
        try:
            event = json.loads(body, parse_float=_finite, parse_constant=_finite)
            json.dumps(event, ensure_ascii=False).encode()  # fails on half a character
        except (ValueError, RecursionError):
            return Refusal(400, "the event is not JSON of finite numbers; reload the page")
        wrong = self._wrong(event)
        if wrong:
            return Refusal(400, f"{wrong}; reload the page")
        if self._is_behind(event["session_hash"]):
            return Refusal(429, "too many events whose answers were not read; reload the page")
        await self._count(event["session_hash"])
        return None

    def _wrong(self, event: Any) -> str:
        """What the page would not say; empty where there is nothing."""
        if not isinstance(event, dict):
            return "the event is no object"
        session, number = event.get("session_hash"), event.get("fn_index")
        if not isinstance(session, str) or not _SESSION.fullmatch(session):
            return "session_hash is not 1 to 64 letters and digits"
        if type(number) is not int or number not in self._blocks.fns:
            return "fn_index is none of the page's"
        data = event.get("data", [None] * len(self._blocks.fns[number].inputs))
        if not isinstance(data, list) or not all(map(_is_plain, data)):
            return "data is no list of texts, numbers, and lists of them"
        if len(data) < len(self._blocks.fns[number].inputs):
            return "data is too short"
        for key in ("event_id", "oauth_token"):
            if not isinstance(event.get(key), str | None):
                return f"{key} is no text"
        if not isinstance(event.get("trigger_id"), int | None):
            return "trigger_id is no integer"
        return ""

    def _is_behind(self, session: str) -> bool:
        queue = self._blocks._queue
        messages = queue.pending_messages_per_session.get(session)
        many = messages is not None and messages.qsize() >= _MAX_MESSAGES
        return many or self._unread(session) >= _MAX_UNREAD

    def _unread(self, session: str) -> int:
        return len(self._blocks._queue.pending_event_ids_session.get(session, ()))

    async def _count(self, session: str) -> None:
        """Notes that a session was used; the answers of those that were not for long are dropped.

        So a session that nobody comes back for takes no place for ever.
        """
        self._sessions[session] = None
        self._sessions.move_to_end(session)
        while len(self._sessions) > 1 and (
            len(self._sessions) > MAX_SESSIONS
            or sum(map(self._unread, self._sessions)) >= _MAX_UNREAD_IN_ALL
        ):
            oldest, _ = self._sessions.popitem(last=False)
            queue = self._blocks._queue
            await queue.clean_events(session_hash=oldest)  # nothing may answer it any more
            queue.pending_messages_per_session.pop(oldest, None)
            queue.pending_event_ids_session.pop(oldest, None)


def _is_plain(value: object) -> bool:
    """Whether it is what the page's components hold; Gradio takes objects for files."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, str | int | float | None) for v in values)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
