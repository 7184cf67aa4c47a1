"""Threads for what takes the processor or waits for the disk: proving, decoding, hashing, writing."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from icehouse.rules.durations import QueueCounts

T = TypeVar("T")


class Workers:
    """A fixed number of threads, shared by all requests. More work than threads waits its turn."""

    def __init__(self, count: int | None = None) -> None:
        """Use *count* threads; if not said, two more than processors, since some wait for the disk."""
        self.counts = QueueCounts()
        """What waits for a thread, and how long all took."""
        self._pool = ThreadPoolExecutor(count or (os.cpu_count() or 1) + 2, thread_name_prefix="worker")

    async def run(self, work: Callable[[], T]) -> T:
        """Carry out *work* in a thread.

        If the caller is cancelled, work that has not begun is dropped; for the end of work that has begun is waited,
        so that the caller may then tear down what it uses.
        """
        future = self._submit(work)
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            if not future.cancel():
                await _wait_for_end(waiting)
            raise
        return waiting.result()

    async def run_always(self, work: Callable[[], T]) -> T:
        """Carry out *work* in a thread even if the caller is cancelled, be it again and again: for tearing down."""
        waiting = asyncio.wrap_future(self._submit(work))
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            await _wait_for_end(waiting)
            raise
        return waiting.result()

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        queued = time.perf_counter()

        def timed() -> T:
            began = time.perf_counter()
            self.counts.begin(began - queued)
            try:
                return work()
            finally:
                self.counts.works.add(time.perf_counter() - began)

        self.counts.enter()
        future = self._pool.submit(timed)
        future.add_done_callback(lambda done: self.counts.give_up() if done.cancelled() else None)
        return future

    def close(self) -> None:
        """Wait for what was begun; drop the rest."""
        self._pool.shutdown(cancel_futures=True)


async def _wait_for_end(waiting: asyncio.Future[T]) -> None:
    while not waiting.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([waiting])
    if not waiting.cancelled():
        waiting.exception()  # Seen: nobody is left who could be told.
