"""Work that goes on only when it is told to, so that a test decides who comes next: one access to the store at a time.

A work waits before each transaction, and before each look at or deletion of a blob. Between two of its steps the test
does what it likes, or has other works make steps of theirs. Whatever an order of steps leads to, the same order leads
to it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import ContextVar, copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection

from icehouse.db.engine import Database
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobInfo, BlobKey
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.memory import MemoryBlobStore

T = TypeVar("T")

_QUIET_ROUNDS: Final = 12  # of the event loop without anything to do: more than the longest chain of callbacks


class Work(Protocol):
    """What is under way."""

    name: str
    """For people."""

    @property
    def is_done(self) -> bool:
        """Whether it came to its end."""
        ...

    def step(self) -> None:
        """Let it do what it waits for, and come to where it waits again. One that waits for another stays there."""
        ...

    def stop(self) -> None:
        """End it, as when its client goes away or its process is told to end."""
        ...


class Stopped(BaseException):
    """Ends a work in a thread."""


_now_at: ContextVar[TaskWork | ThreadWork | None] = ContextVar("_now_at", default=None)


class _CountingLoop(asyncio.SelectorEventLoop):
    """Counts what threads do for it in `asyncio.to_thread`."""

    count: Callable[[int], None]

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # noqa: ANN401  as it is
        self.count(1)
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self.count(-1))
        return future


class Loop:
    """An event loop, and a count of what threads do for it."""

    def __init__(self) -> None:
        self._loop = _CountingLoop()
        self._loop.count = self._count
        self._busy = 0
        self._idle = asyncio.Event()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry *work* out to its end, without waiting anywhere."""
        return self._loop.run_until_complete(work)

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work)

    def settle(self) -> None:
        """Go on until everything waits for a step, or for what waits for one."""
        self._loop.run_until_complete(self._settle())

    async def _settle(self) -> None:
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            if self._busy:
                quiet = 0
                self._idle.clear()
                await self._idle.wait()
            await asyncio.sleep(0)
            quiet += 1

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """A thread is at work."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self._busy += more
        if not self._busy:
            self._idle.set()

    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class TaskWork:
    """A work of the event loop."""

    def __init__(self, loop: Loop, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin it; it waits before its first access."""
        self.name = name
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_free = False
        self._task = copy_context().run(self._begin, work)
        loop.settle()

    @property
    def is_done(self) -> bool:
        """See `Work.is_done`. What it raised is raised here."""
        if not self._task.done():
            return False
        if not self._task.cancelled():
            self._task.result()
        return True

    def step(self) -> None:
        """See `Work.step`."""
        self._let_go()
        self._loop.settle()

    def stop(self) -> None:
        """See `Work.stop`. What the server does for it in tasks of its own goes on to the end."""
        self._task.cancel()
        self._is_free = True
        while self._waiting:
            self._let_go()
            self._loop.settle()
        self._loop.settle()

    async def arrive(self) -> None:
        """Wait for a step."""
        if not self._is_free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        _now_at.set(self)
        return self._loop.create_task(work)

    def _let_go(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class ThreadWork:
    """A work of a thread, as of another process."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        """Begin it; it waits before its first access."""
        self.name = name
        self.at = ""
        """What it does with its next step: the name of a function."""
        self._work = work
        self._turn = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._has_ended = False
        self._is_stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), daemon=True)
        self._thread.start()
        self._arrived.acquire()

    @property
    def is_done(self) -> bool:
        """See `Work.is_done`. What it raised is raised here."""
        if self._has_ended and self._error is not None and not isinstance(self._error, Stopped):
            raise self._error
        return self._has_ended

    def step(self) -> None:
        """See `Work.step`."""
        if not self._has_ended:
            self._turn.release()
            self._arrived.acquire()

    def stop(self) -> None:
        """See `Work.stop`."""
        self._is_stopped = True
        while not self._has_ended:
            self.step()
        self._thread.join()

    def arrive(self, at: str) -> None:
        """Wait for a step."""
        self.at = at
        self._arrived.release()
        self._turn.acquire()
        if self._is_stopped:
            raise Stopped

    def _run(self) -> None:
        _now_at.set(self)
        try:
            self._work()
        except BaseException as exc:  # noqa: BLE001  whoever steps it gets it
            self._error = exc
        finally:
            self._has_ended = True
            self._arrived.release()


def _wait_before(what: object) -> None:
    work = _now_at.get()
    if isinstance(work, ThreadWork):
        work.arrive(getattr(what, "__name__", ""))


class SteppedDatabase(Database):
    """Works wait before each transaction."""

    loop: Loop

    async def read(self, work: Callable[[Connection], T]) -> T:
        at = _now_at.get()
        if isinstance(at, TaskWork):
            await at.arrive()
        with self.loop.busy():
            return await super().read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        at = _now_at.get()
        if isinstance(at, TaskWork):
            await at.arrive()
        with self.loop.busy():
            return await super().write(work)

    def write_now(self, work: Callable[[Connection], T]) -> T:
        _wait_before(getattr(work, "func", work))
        return super().write_now(work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        _wait_before(getattr(work, "func", work))
        return super().read_now(work)


class SteppedWorkers(Workers):
    """Threads that the loop knows of."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(2)
        self._loop = loop

    async def run(self, work: Callable[[], T]) -> T:
        with self._loop.busy():
            return await super().run(work)

    async def run_always(self, work: Callable[[], T]) -> T:
        with self._loop.busy():
            return await super().run_always(work)


class SteppedMemoryBlobs(MemoryBlobStore):
    """Works in threads wait before they look at a blob or delete it."""

    def describe(self, key: BlobKey) -> BlobInfo:
        _wait_before(self.describe)
        return super().describe(key)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        _wait_before(self.delete_unchanged)
        return super().delete_unchanged(info)


class SteppedLocalBlobs(LocalBlobStore):
    """The same over files, which are as old as *clock* says."""

    def __init__(self, folder: Path, *, clock: Callable[[], int]) -> None:
        super().__init__(folder)
        self._clock = clock

    def publish(self, path: Path, key: BlobKey) -> None:
        os.utime(path, (self._clock(), self._clock()))
        super().publish(path, key)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        for info in super().list(prefix):
            yield replace(info, modified_at=self._clock()) if info.is_unfinished else info

    def describe(self, key: BlobKey) -> BlobInfo:
        _wait_before(self.describe)
        return super().describe(key)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        _wait_before(self.delete_unchanged)
        return super().delete_unchanged(info)
