"""Streams that stay open for as long as somebody looks: how many there may be, and when they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Generator
from typing import Final

from icehouse.errors import RateLimited

MAX_STREAMS: Final = 64
"""Of one process."""

MAX_STREAMS_OF_SESSION: Final = 4
"""Windows of one browser."""

_RETRY_SECONDS: Final = 30


class LiveStreams:
    """Counts open streams, and ends them when the server stops. Belongs to one event loop."""

    def __init__(self, *, limit: int = MAX_STREAMS, of_one_session: int = MAX_STREAMS_OF_SESSION) -> None:
        self._limit = limit
        self._of_one_session = of_one_session
        self._by_session: Counter[int] = Counter()
        self._end = asyncio.Event()

    def check_room(self, session_id: int) -> None:
        """Refuse a further stream if there are enough.

        Raises:
            RateLimited: there are, of this session or of all.
        """
        if self._by_session.total() >= self._limit or self._by_session[session_id] >= self._of_one_session:
            raise RateLimited(
                "as many pages as may be are kept up to date for you, or for all; close one, or reload this one",
                retry_after_seconds=_RETRY_SECONDS,
            )

    @contextlib.contextmanager
    def open(self, session_id: int) -> Generator[None]:
        """Count a stream until the end of the block.

        Raises:
            RateLimited: as `check_room`.
        """
        self.check_room(session_id)
        self._by_session[session_id] += 1
        try:
            yield
        finally:
            self._by_session[session_id] -= 1
            if not self._by_session[session_id]:
                del self._by_session[session_id]

    async def wait(self, seconds: float) -> bool:
        """Wait that long; false, at once, when streams are to end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._end.wait(), seconds)
        return not self._end.is_set()

    def end_all(self) -> None:
        """Have all streams end: the server stops."""
        self._end.set()
