"""Forgetting, once a day, what is kept for a while only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Connection

from icehouse.db.audit import purge_exchanges
from icehouse.db.engine import Database
from icehouse.db.tokens import find_forgettable, forget_job_tokens, last_token_id
from icehouse.rules.audit import DAY_SECONDS, KEEP_EXCHANGES_SECONDS
from icehouse.services.downloads import Downloads
from icehouse.services.traffic import TrafficCounts

_ROWS_AT_ONCE: Final = 1_000

_log = structlog.get_logger(__name__)


class Forgetting:
    """Forgets downloads, exchanges in the audit log, and tokens of jobs that nothing names, each after its time.

    Of traffic it makes fewer rows, and forgets these much later.

    No transaction has more than some thousand rows.
    """

    def __init__(
        self,
        database: Database,
        downloads: Downloads,
        traffic: TrafficCounts,
        clock: Callable[[], int],
        *,
        download_days: int,
    ) -> None:
        """*clock* gives seconds since the epoch; *download_days*: how long downloads name tokens."""
        self._database = database
        self._downloads = downloads
        self._traffic = traffic
        self._clock = clock
        self._keep_tokens_seconds = max(KEEP_EXCHANGES_SECONDS, download_days * DAY_SECONDS)
        self._done_at: int | None = None

    async def forget_if_due(self) -> None:
        """Forget, unless this process did so in the last day."""
        now = self._clock()
        if self._done_at is not None and 0 <= now - self._done_at < DAY_SECONDS:
            return
        await self._downloads.purge()
        await self._traffic.roll_up()
        exchanges = 0
        purge = partial(purge_exchanges, before=now - KEEP_EXCHANGES_SECONDS, limit=_ROWS_AT_ONCE)
        while count := await self._database.write(purge):
            exchanges += count
        tokens = await self._forget_tokens(now - self._keep_tokens_seconds)
        self._done_at = now
        if exchanges or tokens:
            _log.info("forgot", exchanges=exchanges, tokens_of_jobs=tokens)

    async def _forget_tokens(self, before: int) -> int:
        forgotten = 0
        last = await self._database.read(last_token_id)
        for first in range(1, last + 1, _ROWS_AT_ONCE):
            page = partial(find_forgettable, first=first, last=first + _ROWS_AT_ONCE - 1, before=before)

            def work(connection: Connection, page: Callable[[Connection], list[int]] = page) -> int:
                found = page(connection)  # looked at again: something may name one by now
                forget_job_tokens(connection, found)
                return len(found)

            if await self._database.read(page):
                forgotten += await self._database.write(work)
        return forgotten
