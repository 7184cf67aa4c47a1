"""Forgetting, once a day, what is kept for a while only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from icehouse.db.audit import purge_exchanges
from icehouse.db.engine import Database
from icehouse.rules.audit import DAY_SECONDS, KEEP_EXCHANGES_SECONDS
from icehouse.services.downloads import Downloads

_ROWS_AT_ONCE: Final = 1_000

_log = structlog.get_logger(__name__)


class Forgetting:
    """Forgets downloads, and exchanges in the audit log, each after its time.

    No transaction has more than some thousand rows.
    """

    def __init__(self, database: Database, downloads: Downloads, clock: Callable[[], int]) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self._downloads = downloads
        self._clock = clock
        self._done_at: int | None = None

    async def forget_if_due(self) -> None:
        """Forget, unless this process did so in the last day."""
        now = self._clock()
        if self._done_at is not None and 0 <= now - self._done_at < DAY_SECONDS:
            return
        await self._downloads.purge()
        exchanges = 0
        purge = partial(purge_exchanges, before=now - KEEP_EXCHANGES_SECONDS, limit=_ROWS_AT_ONCE)
        while count := await self._database.write(purge):
            exchanges += count
        self._done_at = now
        if exchanges:
            _log.info("forgot", exchanges=exchanges)
