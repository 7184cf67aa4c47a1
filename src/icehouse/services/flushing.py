"""Writing now and then what is counted in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from icehouse.errors import IcehouseError

FLUSH_SECONDS: Final = 30.0

_log = structlog.get_logger()


async def flush_regularly(flush: Callable[[], Awaitable[None]], *, interval_seconds: float = FLUSH_SECONDS) -> None:
    """Call *flush* every so often until cancelled, and once more then. Its failures are logged; it is called again."""
    try:
        while True:
            await asyncio.sleep(interval_seconds)
            await _try(flush)
    finally:
        await _try(flush)


async def _try(flush: Callable[[], Awaitable[None]]) -> None:
    try:
        await flush()
    except IcehouseError as exc:
        _log.warning("could not write what was counted", error=str(exc))
