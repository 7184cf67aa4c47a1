"""Pushing what waits in a queue to one cache: batch by batch, through outages, and past what is bad."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from icehouse.client.local_store import LocalStore
from icehouse.client.push import Pushed, push
from icehouse.client.push_counts import PushCounts
from icehouse.client.push_plan import PushSettings
from icehouse.client.push_queue import PushQueue
from icehouse.client.server import Server
from icehouse.errors import Conflict, IcehouseError, OverQuota, RateLimited, Unavailable
from icehouse.nix.store_paths import StorePath

BATCH_PATHS: Final = 200
_FIRST_WAIT_SECONDS: Final = 1.0
_MAX_WAIT_SECONDS: Final = 60.0
_LAST_TRIES: Final = 3
"""When there is an end to wait for. Each is several requests where a server is slow to come."""
_PASSING: Final = (Unavailable, RateLimited, OverQuota)


class QueuePusher:
    """Pushes to one cache. `run` goes on until it is cancelled; `wake` tells it that the queue got more."""

    def __init__(
        self,
        queue: PushQueue,
        cache: str,
        connect: Callable[[], AbstractAsyncContextManager[tuple[Server, str]]],
        store: LocalStore,
        *,
        settings: PushSettings,
        pushed: Callable[[Pushed], None],
    ) -> None:
        """Make one that does nothing yet.

        Args:
            queue: where the paths wait.
            cache: the cache's name in the queue.
            connect: gives the server, and the cache's name there; asked for anew after each outage, since the user may
                have logged in meanwhile.
            store: where the paths are.
            settings: how to push.
            pushed: is told of each push that is done.
        """
        self._queue = queue
        self._cache = cache
        self._connect = connect
        self._store = store
        self._settings = settings
        self._pushed = pushed
        self._woken = asyncio.Event()
        self._hurried = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._failed = asyncio.Event()
        self._failures = 0
        self.trouble: IcehouseError | None = None
        """Why nothing can be pushed at present."""

    def wake(self) -> None:
        """Look into the queue."""
        self._is_idle.clear()
        self._woken.set()

    async def run(self) -> None:
        """Push whatever waits, for ever."""
        while True:
            self._woken.clear()
            try:
                await self._push_all()
            except IcehouseError as error:
                self.trouble = error
                self._failures += 1
                self._failed.set()
                seconds = min(_FIRST_WAIT_SECONDS * 2 ** (self._failures - 1), _MAX_WAIT_SECONDS)
                await wait_for(self._hurried, seconds)
                self._hurried.clear()
            else:
                self._is_idle.set()
                await self._woken.wait()

    async def drain(self, seconds: float) -> None:
        """Return once nothing waits, or nothing more is likely to be pushed within *seconds*. Needs `run` beside it."""
        self._failures = 0
        self._failed.clear()
        self.wake()
        self._hurried.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(_LAST_TRIES):
                    await _either(self._is_idle, self._failed)
                    if self._is_idle.is_set() or not isinstance(self.trouble, _PASSING):
                        return
                    self._failed.clear()

    async def _push_all(self) -> None:
        if not self._queue.first(self._cache, 1):
            return
        async with self._connect() as (server, name):
            while paths := self._queue.first(self._cache, BATCH_PATHS):
                await self._push(server, name, paths)
                self._failures = 0
                self.trouble = None

    async def _push(self, server: Server, name: str, paths: list[StorePath]) -> None:
        """Push *paths*, or find out which of them cannot be."""
        valid = {info.store_path for info in await asyncio.to_thread(self._store.find_valid, paths)}
        if absent := [path for path in paths if path not in valid]:
            self._queue.gone(self._cache, absent)
        here = [path for path in paths if path in valid]
        if not here:
            return
        try:
            # A task of its own: before Python 3.13 a failing task group leaves its task half cancelled (gh-116720).
            pushed = await asyncio.create_task(
                push(server, name, self._store, here, settings=self._settings, counts=PushCounts())
            )
        except IcehouseError as error:
            await self._check_cache(server, name)
            if len(here) > 1:
                self._queue.put_off(self._cache, here)
            elif isinstance(error, _PASSING):
                self._queue.put_off(self._cache, here)
                raise
            else:
                self._queue.refused(self._cache, here[0], str(error))
        else:
            self._queue.done(self._cache, here)
            self._pushed(pushed)

    async def _check_cache(self, server: Server, name: str) -> None:
        """Return if the cache takes pushes at all, so that a failure is up to the paths."""
        view = await server.show_cache(name)
        await server.find_missing_chunks(name, [])
        if view.store_dir != self._store.store_dir.path:
            raise Conflict(f"cache {name} is for the store directory {view.store_dir}, not {self._store.store_dir}")


async def wait_for(event: asyncio.Event, seconds: float | None) -> None:
    """Return once *event* is set, or after *seconds*."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _either(*events: asyncio.Event) -> None:
    """Return once one of *events* is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
