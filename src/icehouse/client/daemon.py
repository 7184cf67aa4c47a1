"""The daemon: takes what was built from the hook's spool and from its socket, keeps it, and pushes it to caches.

What is taken is committed to the queue before its spool file is removed, or its sender answered. So a daemon that is
killed at any moment takes some of it again, and never loses any.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Final

import msgspec

from icehouse.client.daemon_messages import MAX_LINE_BYTES, CacheStatus, DaemonAnswer, DaemonRequest
from icehouse.client.daemon_places import DaemonPlaces
from icehouse.client.inotify import FolderWatch
from icehouse.client.local_store import LocalStore
from icehouse.client.push import Pushed
from icehouse.client.push_plan import PushSettings
from icehouse.client.push_queue import PushQueue
from icehouse.client.queue_pusher import QueuePusher, wait_for
from icehouse.client.server import Server
from icehouse.client.spool import Spool, SpoolFile
from icehouse.errors import Conflict, Denied, IcehouseError, InvalidFormat, NotFound, Unavailable
from icehouse.nix.store_paths import StorePath

_FILES_AT_ONCE: Final = 1000
_LOOK_SECONDS: Final = 60.0
"""The spool is looked into so often even if nothing is heard of it."""
_TROUBLE_SECONDS: Final = 5.0
_LAST_ANSWER_SECONDS: Final = 1.0
_SHOWN_REFUSALS: Final = 10

Connect = Callable[[], AbstractAsyncContextManager[tuple[Server, str]]]


class Daemon:
    """One daemon of a folder, for one store. Made and used in one thread."""

    def __init__(
        self,
        places: DaemonPlaces,
        store: LocalStore,
        caches: Mapping[str, Connect],
        *,
        settings: PushSettings,
        spools: Sequence[Spool],
        pushed: Callable[[Pushed], None],
    ) -> None:
        """Open the queue.

        Args:
            places: its files; nobody else may use them meanwhile, see `locked`.
            store: where the paths are.
            caches: where they go, by the names that the queue has for them.
            settings: how to push.
            spools: where the hook tells of builds.
            pushed: is told of each push that is done.
        """
        self._places = places
        self._store = store
        self._spools = spools
        self._queue = PushQueue(places.queue)
        self._pushers = {
            cache: QueuePusher(self._queue, cache, connect, store, settings=settings, pushed=pushed)
            for cache, connect in caches.items()
        }
        self._spool_trouble: IcehouseError | None = None
        self._stopped = asyncio.Event()
        self._timeout_seconds: int | None = None
        self._has_drained = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    def stop(self, timeout_seconds: int | None = None) -> None:
        """Let `run` end once all is pushed that can be in that time."""
        self._timeout_seconds = timeout_seconds if self._timeout_seconds is None else self._timeout_seconds
        self._stopped.set()

    async def run(self, *, timeout_seconds: int, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        """Take and push until `stop`; then for *timeout_seconds* at most.

        *ready* is called once everything is listened to, and *stopping* when the end begins.

        Raises:
            Denied, Unavailable: the socket cannot be made.
        """
        async with AsyncExitStack() as stack:
            server = await self._listen()
            stack.callback(self._places.socket.unlink, missing_ok=True)
            stack.callback(server.close)
            tasks = [asyncio.create_task(pusher.run()) for pusher in self._pushers.values()]
            tasks += [asyncio.create_task(self._take(spool)) for spool in self._spools]
            stack.push_async_callback(_end, tasks)
            ready()
            stopped = asyncio.create_task(self._stopped.wait())
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if stopped not in done:
                stopped.cancel()
                await done.pop()  # raises what is wrong with the program
            stopping()
            with contextlib.suppress(IcehouseError):
                for spool in self._spools:
                    await self._take_all(spool)
            seconds = timeout_seconds if self._timeout_seconds is None else self._timeout_seconds
            await asyncio.gather(*(pusher.drain(seconds) for pusher in self._pushers.values()))
            self._has_drained.set()
            if self._serving:  # who asked for the end gets the answer
                await asyncio.wait(self._serving, timeout=_LAST_ANSWER_SECONDS)

    def close(self) -> None:
        """Close the queue."""
        self._queue.close()

    def answer(self) -> DaemonAnswer:
        """How it stands."""
        return DaemonAnswer(
            store_dir=self._store.store_dir.path,
            caches=[self._status(cache, pusher) for cache, pusher in self._pushers.items()],
            spools=[str(spool.folder) for spool in self._spools],
            trouble=None if self._spool_trouble is None else str(self._spool_trouble),
            is_stopping=self._stopped.is_set(),
        )

    def _status(self, cache: str, pusher: QueuePusher) -> CacheStatus:
        totals = self._queue.totals(cache)
        refusals = self._queue.refusals(cache, _SHOWN_REFUSALS)
        return CacheStatus(
            cache=cache,
            waiting=totals.waiting,
            pushed=totals.done,
            refused=totals.refused,
            gone=totals.gone,
            trouble=None if pusher.trouble is None else str(pusher.trouble),
            refusals=[refusal.reason for refusal in refusals],
        )

    def _add(self, caches: Sequence[str], paths: Sequence[StorePath]) -> None:
        self._queue.add(caches, paths)
        for cache in caches:
            self._pushers[cache].wake()

    async def _take(self, spool: Spool) -> None:
        """Take what is in a spool, and what comes, for ever."""
        while True:
            try:
                with FolderWatch(spool.new) as watch:
                    while True:
                        await self._take_all(spool)
                        await _happened(watch, _LOOK_SECONDS)
            except IcehouseError as error:  # the disk is full, or the folder is being made anew
                self._spool_trouble = error
                await asyncio.sleep(_TROUBLE_SECONDS)

    async def _take_all(self, spool: Spool) -> None:
        while files := spool.read(self._store.store_dir, _FILES_AT_ONCE):
            if paths := [path for file in files for path in await self._outputs_of(file)]:
                self._add(list(self._pushers), paths)
            removed = sum(spool.remove(file) for file in files)
            if removed < len(files):
                break  # what cannot be removed is not read for ever
        self._spool_trouble = None

    async def _outputs_of(self, file: SpoolFile) -> Sequence[StorePath]:
        if file.outputs or file.derivation is None:
            return file.outputs
        try:
            return await asyncio.to_thread(self._store.find_outputs, file.derivation)
        except (NotFound, InvalidFormat):  # it was deleted meanwhile
            return ()

    async def _listen(self) -> asyncio.Server:
        socket = self._places.socket
        try:
            socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            socket.unlink(missing_ok=True)  # of a daemon that was killed: we have the lock
            before = os.umask(0o177)
            try:
                return await asyncio.start_unix_server(self._serve, socket, limit=MAX_LINE_BYTES)
            finally:
                os.umask(before)
        except PermissionError as exc:
            raise Denied(f"{socket} cannot be made: {exc.strerror}") from exc
        except OSError as exc:
            raise Unavailable(f"{socket} cannot be made: {exc.strerror or exc}") from exc

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            try:
                answer = await self._carry_out(msgspec.json.decode(line, type=DaemonRequest))
            except (IcehouseError, msgspec.DecodeError) as error:
                answer = DaemonAnswer(error=str(error))
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            pass  # it went away, or sent more than a line of what we read
        finally:
            writer.close()

    async def _carry_out(self, request: DaemonRequest) -> DaemonAnswer:
        match request.verb:
            case "push":
                caches = list(self._pushers) if request.cache is None else [request.cache]
                if request.cache is not None and request.cache not in self._pushers:
                    raise NotFound(f"this daemon pushes to {', '.join(self._pushers)}, not to {request.cache}")
                if self._stopped.is_set():
                    raise Conflict("this daemon is stopping")
                self._add(caches, [StorePath.parse(name) for name in request.paths])
            case "stop":
                self.stop(request.timeout_seconds)
                await self._has_drained.wait()
            case "status":
                pass
        return self.answer()


@contextmanager
def locked(places: DaemonPlaces) -> Generator[None]:
    """Keep other daemons out of a folder, which is made if it is not there, while the body runs.

    Raises:
        Conflict: another daemon runs there.
        Denied, Unavailable: the folder cannot be used.
    """
    try:
        places.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as exc:
        raise Denied(f"{places.folder} cannot be used: {exc.strerror}") from exc
    except OSError as exc:
        raise Unavailable(f"{places.folder} cannot be used: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise Conflict(f"a daemon runs already in {places.folder}; see `icehouse daemon status`") from exc
    finally:
        os.close(descriptor)


async def _happened(watch: FolderWatch, seconds: float) -> None:
    """Return once something happened in a folder, or after *seconds*."""
    loop = asyncio.get_running_loop()
    something = asyncio.Event()
    loop.add_reader(watch.fileno(), something.set)
    try:
        await wait_for(something, seconds)
    finally:
        loop.remove_reader(watch.fileno())
    watch.read()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
