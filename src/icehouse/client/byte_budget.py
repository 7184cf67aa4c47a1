"""A bound on the bytes that a pipeline holds in memory."""

import asyncio
from collections import deque
from typing import Final


class ByteBudget:
    """Room for a number of bytes. Tasks of one event loop take it, first come, first served, and give it back."""

    def __init__(self, limit_bytes: int) -> None:
        """Start with all of *limit_bytes* free."""
        self.limit_bytes: Final = limit_bytes
        self._used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """What is taken."""
        return self._used_bytes

    async def take(self, size: int) -> None:
        """Take room for *size* bytes, when there is some. More than the whole budget is given when nothing is taken."""
        if not self._waiting and self._has_room(size):
            self._used_bytes += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """Free room; a negative *size* takes some at once, for what turned out larger than was thought."""
        self._used_bytes -= size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._has_room(wanted):
                    break
                self._used_bytes += wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _has_room(self, size: int) -> bool:
        return self._used_bytes + size <= self.limit_bytes or self._used_bytes <= 0
