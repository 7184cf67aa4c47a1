"""Pushing what a store gets, while it gets it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from icehouse.client.local_store import LocalStore
from icehouse.client.push import Pushed
from icehouse.client.push_plan import PushSettings
from icehouse.client.push_queue import PushQueue, Refusal, Totals
from icehouse.client.queue_pusher import QueuePusher
from icehouse.client.server import Server
from icehouse.client.store_watcher import StoreWatcher
from icehouse.errors import IcehouseError
from icehouse.nix.store_paths import StorePath

_CACHE: Final = ""
"""The queue's only one."""
_NAMED: Final = 1000


@dataclass(frozen=True, slots=True)
class PushReport:
    """What became of the paths that a store got."""

    totals: Totals
    waiting: list[StorePath]
    """Those that were not pushed, `_NAMED` at most."""
    refusals: list[Refusal]
    """Those that the cache will not take."""
    trouble: IcehouseError | None
    """Why the waiting ones were not pushed."""


class StorePush:
    """Watches from the moment that it is made, and pushes while `run` runs. What waits is kept in memory."""

    def __init__(
        self,
        store: LocalStore,
        connect: Callable[[], AbstractAsyncContextManager[tuple[Server, str]]],
        *,
        settings: PushSettings,
        pushed: Callable[[Pushed], None],
    ) -> None:
        """Take the arguments of `QueuePusher`."""
        self._queue = PushQueue()
        self._pusher = QueuePusher(self._queue, _CACHE, connect, store, settings=settings, pushed=pushed)
        self._watcher = StoreWatcher(store, self._add)

    def close(self) -> None:
        """Watch no more, and forget what waits."""
        self._watcher.close()
        self._queue.close()

    async def run(self, until: asyncio.Event, seconds: float) -> None:
        """Push what the store gets until *until* is set; then the rest, as far as that goes within *seconds*.

        Raises:
            Unavailable: the store is no more.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watcher.run())
                pushing = tasks.create_task(self._pusher.run())
                await until.wait()
                watching.cancel()
                await asyncio.wait([watching])
                await self._watcher.finish()
                await self._pusher.drain(seconds)
                pushing.cancel()
        except* IcehouseError as group:
            raise group.exceptions[0] from group

    def report(self) -> PushReport:
        """What became of all paths so far."""
        return PushReport(
            self._queue.totals(_CACHE),
            self._queue.waiting(_CACHE, _NAMED),
            self._queue.refusals(_CACHE, _NAMED),
            self._pusher.trouble or self._watcher.trouble,
        )

    def _add(self, paths: Sequence[StorePath]) -> None:
        self._queue.add([_CACHE], paths)
        self._pusher.wake()
