"""How many uploads a process takes at once, of everybody and with one token."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator
from typing import Final

from icehouse.errors import RateLimited

RETRY_SECONDS: Final = 1


class UploadSlots:
    """Counts uploads that are open. Belongs to one event loop.

    One token gets only some of the slots, so that nobody who sends slowly, or opens very many, keeps all others out.
    """

    def __init__(self, limit: int, *, of_one_token: int) -> None:
        self._limit = limit
        self._of_one_token = of_one_token
        self._taken = 0
        self._by_token: Counter[int | None] = Counter()

    @property
    def taken(self) -> int:
        """How many uploads are open."""
        return self._taken

    @contextlib.contextmanager
    def take(self, token_id: int | None, *, factor: int = 1) -> Generator[None]:
        """Hold one slot. *factor* multiplies the limits, for those whom it costs more to be refused.

        Raises:
            RateLimited: all are taken. Waiting in line would hold a connection that brings nothing forward.
        """
        if self._taken >= self._limit * factor:
            raise RateLimited(
                f"{self._taken} uploads are open, as many as this server takes at once",
                retry_after_seconds=RETRY_SECONDS,
            )
        if self._by_token[token_id] >= self._of_one_token * factor:
            raise RateLimited(
                f"{self._by_token[token_id]} uploads with this token are open, as many as this server takes at once",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._taken += 1
        self._by_token[token_id] += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._by_token[token_id] -= 1
            if not self._by_token[token_id]:
                del self._by_token[token_id]
