"""Leases: what only one process does at a time, of all that use a database."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Final

import structlog

from icehouse.db.engine import Database
from icehouse.db.leases import release_lease, renew_lease, take_lease
from icehouse.errors import Conflict, StorageError

LEASE_SECONDS: Final = 120
"""How long a lease outlives a process that is killed."""

RENEW_SECONDS: Final = 20

_log = structlog.get_logger(__name__)


class Held:
    """A lease that is held. Any thread may ask."""

    def __init__(self) -> None:
        self.is_lost = False

    def check(self) -> None:
        """Return if it is still held.

        Raises:
            Conflict: it could not be renewed in time, and may be somebody else's now.
        """
        if self.is_lost:
            raise Conflict("the lease was lost, since it could not be renewed in time; stopped")


@contextlib.contextmanager
def hold(
    database: Database, name: str, holder: str, clock: Callable[[], int], *, renew_seconds: float = RENEW_SECONDS
) -> Generator[Held]:
    """Hold a lease, renewed by a thread, as long as the context lasts. Blocks.

    Args:
        database: where the leases are.
        name: what it is about.
        holder: who holds it, for people.
        clock: gives seconds since the epoch.
        renew_seconds: how often it is renewed.

    Raises:
        Conflict: somebody else holds it; the message names them.
        StorageError: the database failed.
    """
    holder = f"{holder} ({secrets.token_hex(4)})"  # two of the same name are not the same
    now = clock()
    take = partial(take_lease, name=name, holder=holder, now=now, expires_at=now + LEASE_SECONDS)
    other = database.write_now(take)
    if other is not None:
        raise Conflict(f"{name} is under way, started by {other.rpartition(' (')[0]}; try again when that is done")
    held = Held()
    has_ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(database, name, holder, clock, held, has_ended, renew_seconds), daemon=True
    )
    renewing.start()
    try:
        yield held
    finally:
        has_ended.set()
        renewing.join()
        try:
            database.write_now(partial(release_lease, name=name, holder=holder))
        except StorageError as exc:
            _log.warning("could not give a lease back, which ends by itself", name=name, error=str(exc))


@contextlib.asynccontextmanager
async def hold_in_thread(database: Database, name: str, holder: str, clock: Callable[[], int]) -> AsyncGenerator[Held]:
    """The same for an event loop, which is not blocked."""
    with contextlib.ExitStack() as stack:
        held = await asyncio.to_thread(stack.enter_context, hold(database, name, holder, clock))
        try:
            yield held
        finally:
            await asyncio.to_thread(stack.close)


def _renew(
    database: Database,
    name: str,
    holder: str,
    clock: Callable[[], int],
    held: Held,
    has_ended: threading.Event,
    renew_seconds: float,
) -> None:
    expires_at = clock() + LEASE_SECONDS
    while not has_ended.wait(renew_seconds):
        until = clock() + LEASE_SECONDS
        try:
            is_held = database.write_now(partial(renew_lease, name=name, holder=holder, expires_at=until))
        except StorageError as exc:
            _log.warning("could not renew a lease", name=name, error=str(exc))
            is_held = clock() < expires_at
        else:
            expires_at = until
        if not is_held:
            held.is_lost = True
            return
