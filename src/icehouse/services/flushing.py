"""Writing now and then what is counted in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from icehouse.errors import IcehouseError

FLUSH_SECONDS: Final = 30.0

_STEPS: Final = 5_000
"""Of settling, before others have their turn: some 10 ms."""

Settle = Callable[[int], bool]
"""Notes what was counted elsewhere, in so many steps at most; says whether there may be more of it."""

_log = structlog.get_logger()


async def flush_regularly(flush: Callable[[], Awaitable[None]], *, interval_seconds: float = FLUSH_SECONDS) -> None:
    """Call *flush* every so often until cancelled, and once more then. Its failures are logged; it is called again."""
    try:
        while True:
            await asyncio.sleep(interval_seconds)
            await _try(flush)
    finally:
        await _try(flush)


async def settle_all(settle: Iterable[Settle]) -> None:
    """Have everything noted that was counted elsewhere."""
    for each in settle:
        while each(_STEPS):  # noqa: ASYNC110  nothing is waited for: each call does its part
            await asyncio.sleep(0)


async def _try(flush: Callable[[], Awaitable[None]]) -> None:
    try:
        await flush()
    except IcehouseError as exc:
        _log.warning("could not write what was counted", error=str(exc))
