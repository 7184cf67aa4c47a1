"""Pushing a closure: what is missing is cut, compressed, sent, registered and published, all at the same time.

The steps are those of the design, section 5. Whatever fails or stops leaves what was published whole, and what was
sent known to the server, so that the same push again sends only the rest.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar, cast

from icehouse.api.caches import CacheView
from icehouse.api.publish import NarBody, NarResult, PathBody
from icehouse.api.server import ServerParameters
from icehouse.client.byte_budget import ByteBudget
from icehouse.client.chunk_sender import ChunkSender, Waiter
from icehouse.client.cutting import LocalNar, NarCutter
from icehouse.client.local_store import LocalStore
from icehouse.client.push_counts import PushCounts
from icehouse.client.server import Server
from icehouse.errors import Conflict, Corrupt, IcehouseError, NotFound, TooLarge
from icehouse.nix.hashes import render_sha256
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import PublicKey, Signature, fingerprint
from icehouse.nix.store_paths import HashPart, StoreDir, StorePath
from icehouse.rules.chunks import ChunkParameters
from icehouse.rules.closures import MAX_SIGNATURES
from icehouse.rules.demands import is_vouched_for, lacks_signature
from icehouse.rules.recipes import make_recipe, render_recipe

STEP_BYTES: Final = 4 * 1024 * 1024
"""What is read in one go; small NARs are read together up to this size."""

MEMORY_BYTES: Final = 80 * 1024 * 1024
"""Chunks, frames and packs that are held at once."""

WINDOW_BYTES: Final = 1024 * 1024 * 1024
"""NARs of this size together are read largest first, so that the server has little left to prove at the end; beyond
it references come first, so that a long push publishes as it goes."""

MAX_ROUNDS: Final = 4
"""How often one NAR is read and registered, if the server misses chunks of it each time."""

_REGISTERING_AT_ONCE: Final = 2
_FIRST_POLL_SECONDS: Final = 0.05
_MAX_POLL_SECONDS: Final = 2.0
_JSON_OVERHEAD_BYTES: Final = 256  # of one NAR in a request, beside its recipe in base64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push is going to do."""

    publish: list[ValidPath]
    """Paths to send, references first."""
    externals: Mapping[StorePath, tuple[ValidPath, Signature]]
    """Paths that are not sent, each with the signature of an upstream."""
    present: int
    """How many paths are in the cache already."""
    is_verifying: bool
    """Whether the server is to prove NARs that it has already."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a cache has after a push."""

    view: CacheView
    hash_parts: tuple[HashPart, ...]
    """Of the paths of the closure but those that upstreams have."""


async def push(
    server: Server,
    cache: str,
    store: LocalStore,
    paths: Sequence[StorePath],
    *,
    jobs: int | None = None,
    is_verifying: bool = False,
    counts: PushCounts,
) -> Pushed:
    """Push *paths* and all that they reach, counting in *counts* what was done.

    Args:
        server: where the cache is.
        cache: its name.
        store: where the paths are.
        paths: what to push.
        jobs: worker threads; None: one for each core.
        is_verifying: register and publish paths that are present too, so that the server proves their NARs again.
        counts: fresh ones.

    Raises:
        Unauthenticated, Denied: the token may not push; also when nothing is missing.
        Conflict: the cache is for another store directory, the local store is damaged, or the server refuses a path.
        TooLarge: a NAR is over the server's limit.
        Corrupt: the server keeps missing chunks that were sent.
        IcehouseError: as `Server`'s requests and `walk_nar`.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(asyncio.to_thread(store.read_closure, paths))
            showing = tasks.create_task(server.show_cache(cache))
            asking = tasks.create_task(server.parameters())
            # Asks nothing but whether we may push. A push that finds everything there would not notice otherwise.
            tasks.create_task(server.find_missing_chunks(cache, []))
    except BaseExceptionGroup as group:
        raise _first_of(group) from group
    closure, view, parameters = reading.result(), showing.result(), asking.result()
    if view.store_dir != store.store_dir.path:
        raise Conflict(f"cache {cache} is for the store directory {view.store_dir}, not {store.store_dir}")
    plan = await _plan(server, view, closure, store.store_dir, parameters, is_verifying=is_verifying)
    counts.paths = len(closure)
    counts.paths_present = plan.present
    counts.paths_upstream = len(plan.externals)
    counts.paths_to_push = len(plan.publish)
    try:
        if plan.publish:
            threads = jobs or len(os.sched_getaffinity(0))
            with ThreadPoolExecutor(threads, "push") as executor:
                try:
                    await _Push(server, view.name, store, parameters, plan, executor, counts).run(readers=threads)
                finally:
                    executor.shutdown(wait=False, cancel_futures=True)
    finally:
        counts.sent_bytes = server.sent_bytes
    return Pushed(view, tuple(info.store_path.hash_part for info in closure if info.store_path not in plan.externals))


async def _plan(
    server: Server,
    view: CacheView,
    closure: Sequence[ValidPath],
    store_dir: StoreDir,
    parameters: ServerParameters,
    *,
    is_verifying: bool,
) -> PushPlan:
    externals = find_externals(closure, view, store_dir)
    ours = [info for info in closure if info.store_path not in externals]
    missing: set[str] = set()
    for batch in _chunked([info.store_path.hash_part for info in ours], parameters.max_hash_parts):
        missing.update(await server.find_missing(view.name, batch))
    lacking = [info for info in ours if info.store_path.hash_part in missing]
    too_large = [info for info in lacking if info.nar_size > parameters.max_nar_bytes]
    if too_large:
        raise TooLarge(
            f"{too_large[0].store_path}: its NAR has {too_large[0].nar_size} bytes; the server takes at most "
            f"{parameters.max_nar_bytes}"
        )
    await asyncio.to_thread(_check_demands, lacking, view, store_dir)
    return PushPlan(ours if is_verifying else lacking, externals, len(ours) - len(lacking), is_verifying)


def _check_demands(lacking: Iterable[ValidPath], view: CacheView, store_dir: StoreDir) -> None:
    """Return if each path has a signature that the cache demands: else the server would refuse it, after all bytes."""
    keys = [PublicKey.parse(text) for text in view.required_keys]
    unsigned = [
        info for info in lacking if keys and not is_vouched_for(info.signatures, fingerprint(info, store_dir), keys)
    ]
    if unsigned:
        more = f" ({len(unsigned) - 1} more paths lack one)" if len(unsigned) > 1 else ""
        raise Conflict(f"{unsigned[0].store_path}: {lacks_signature(unsigned[0].signatures, keys)}{more}")


def find_externals(
    closure: Iterable[ValidPath], view: CacheView, store_dir: StoreDir
) -> dict[StorePath, tuple[ValidPath, Signature]]:
    """Those paths that carry a good signature of one of the cache's upstreams."""
    keys = {key.key_name: key for upstream in view.upstreams for key in map(PublicKey.parse, upstream.public_keys)}
    found: dict[StorePath, tuple[ValidPath, Signature]] = {}
    for info in closure:
        candidates = [signature for signature in info.signatures if signature.key_name in keys]
        signed = fingerprint(info, store_dir) if candidates else b""
        for signature in candidates:
            if keys[signature.key_name].verify(signed, signature):
                found[info.store_path] = (info, signature)
                break
    return found


class _Push:
    """One push under way: readers, the sender of chunks, the registering of NARs, and the publishing of paths."""

    def __init__(
        self,
        server: Server,
        cache: str,
        store: LocalStore,
        parameters: ServerParameters,
        plan: PushPlan,
        executor: ThreadPoolExecutor,
        counts: PushCounts,
    ) -> None:
        self._server = server
        self._cache = cache
        self._store = store
        self._parameters = parameters
        self._plan = plan
        self._executor = executor
        self._counts = counts
        self._budget = ByteBudget(max(MEMORY_BYTES, 4 * parameters.pack_bytes))
        self._chunk_parameters = ChunkParameters(
            min_bytes=parameters.chunk_min_bytes,
            average_bytes=parameters.chunk_average_bytes,
            max_bytes=parameters.chunk_max_bytes,
            normalization=parameters.chunk_normalization,
        )
        self._registering = asyncio.Semaphore(_REGISTERING_AT_ONCE)
        self._to_register: list[tuple[LocalNar, NarBody]] = []
        self._is_gathering = False
        self._stored: set[bytes] = set()
        self._stored_more = asyncio.Event()

    async def run(self, *, readers: int) -> None:
        """Push all that the plan says, reading with so many *readers* at once."""
        nars: dict[bytes, LocalNar] = {}
        for info in self._plan.publish:
            nars.setdefault(info.nar_hash, LocalNar(info, self._store.real_path(info.store_path)))
        self._counts.nar_bytes = sum(nar.info.nar_size for nar in nars.values())
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._sender = ChunkSender(
                    self._server,
                    self._cache,
                    parameters=self._parameters,
                    tasks=tasks,
                    executor=self._executor,
                    budget=self._budget,
                    counts=self._counts,
                )
                groups = _grouped(in_reading_order(nars.values()))
                for _ in range(readers):
                    self._sender.reader_started()
                for _ in range(readers):
                    tasks.create_task(self._read(groups))
                await self._publish()
        except BaseExceptionGroup as group:
            raise _first_of(group) from group

    async def _read(self, groups: Iterator[list[LocalNar]]) -> None:
        """Read groups until there are none left. Several readers share *groups*."""
        for group in groups:
            await self._read_group(group)
        # Only now: one that failed or was cancelled ends the push, and its task group takes no task for a last pack.
        self._sender.reader_stopped()

    async def _read_group(self, group: list[LocalNar]) -> None:
        loop = asyncio.get_running_loop()
        cutter = NarCutter(group, self._store.store_dir, self._chunk_parameters)
        waiters = {id(nar): Waiter() for nar in group}
        while not cutter.is_done:
            reserved = STEP_BYTES + 2 * self._parameters.chunk_max_bytes
            await self._budget.take(reserved)
            before = cutter.read_bytes
            stretches = await loop.run_in_executor(self._executor, cutter.read_some, STEP_BYTES)
            self._counts.read_bytes += cutter.read_bytes - before
            for stretch in stretches:
                waiter = waiters[id(stretch.nar)]
                reserved -= self._sender.add(stretch.chunks, waiter)
                if stretch.is_last:
                    waiter.complete()
                    self._tasks.create_task(self._register_when_numbered(stretch.nar, waiter))
            self._budget.give_back(reserved)

    async def _register_when_numbered(self, nar: LocalNar, waiter: Waiter) -> None:
        await waiter.wait()
        recipe = render_recipe(make_recipe(self._sender.numbers_of(nar.identities), nar.store_hashes))
        body = NarBody(nar_hash=nar.nar_hash, nar_size=nar.info.nar_size, recipe=recipe)
        self._to_register.append((nar, body))
        if not self._is_gathering:
            self._is_gathering = True
            self._tasks.create_task(self._register())

    async def _register(self) -> None:
        """Register what has gathered; while requests are under way, more gathers."""
        while self._to_register:
            await self._registering.acquire()
            batch = self._take_batch()
            self._tasks.create_task(self._register_batch(batch))
        self._is_gathering = False

    def _take_batch(self) -> list[tuple[LocalNar, NarBody]]:
        room = self._parameters.max_recipe_bytes
        count = 0
        for _, body in self._to_register[: self._parameters.max_nars]:
            room -= len(body.recipe) * 4 // 3 + _JSON_OVERHEAD_BYTES
            if room < 0 and count:
                break
            count += 1
        batch, self._to_register = self._to_register[:count], self._to_register[count:]
        return batch

    async def _register_batch(self, batch: list[tuple[LocalNar, NarBody]]) -> None:
        try:
            bodies = [body for _, body in batch]
            results = await self._server.register_nars(self._cache, bodies, is_verifying=self._plan.is_verifying)
        finally:
            self._registering.release()
        for (nar, _), result in zip(batch, results, strict=True):
            if result.state == "pending":
                self._tasks.create_task(self._poll(nar))
            else:
                self._take_result(nar, result)

    async def _poll(self, nar: LocalNar) -> None:
        wait_seconds = _FIRST_POLL_SECONDS
        while True:
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 1.5, _MAX_POLL_SECONDS)
            try:
                result = await self._server.get_nar(self._cache, nar.nar_hash)
            except NotFound:  # the server was started anew, and knows nothing of what was pending
                result = NarResult(nar_hash=nar.nar_hash, state="missing-chunks")
            if result.state != "pending":
                self._take_result(nar, result)
                return

    def _take_result(self, nar: LocalNar, result: NarResult) -> None:
        match result.state:
            case "stored":
                self._stored.add(nar.info.nar_hash)
                self._stored_more.set()
            case "missing-chunks":
                if nar.rounds >= MAX_ROUNDS:
                    raise Corrupt(
                        f"{nar.info.store_path}: the server still misses chunks of its NAR after they were sent "
                        f"{nar.rounds} times; its log should say why"
                    )
                size = len(nar.info.nar_hash)
                self._sender.forget(result.missing[at : at + size] for at in range(0, len(result.missing), size))
                self._sender.reader_started()
                self._tasks.create_task(self._read(iter([[nar]])))
            case "refused" | "pending":
                raise Conflict(
                    f"{nar.info.store_path}: the server refuses its NAR: {result.reason}; if the hash differs, files "
                    "were changed after they were built, and `nix-store --verify-path` says so too"
                )

    async def _publish(self) -> None:
        """Publish paths as their NARs and references come to be there, references first or in the same request."""
        waiting: list[ValidPath] = self._plan.publish
        awaited = {info.store_path for info in waiting}
        sent_externals: set[StorePath] = set()
        while waiting:
            batch = self._publishable(waiting, awaited)
            if not batch:
                await self._stored_more.wait()
                self._stored_more.clear()
                continue
            chosen = {info.store_path for info in batch}
            referred = {reference for info in batch for reference in info.references}
            externals = [
                _external_body(*self._plan.externals[path])
                for path in sorted(referred & self._plan.externals.keys() - sent_externals)
            ]
            answer = await self._server.publish_paths(self._cache, [_path_body(info) for info in batch], externals)
            if answer.refused:
                raise Conflict(
                    "the server refuses "
                    + "; ".join(f"{refused.store_path}: {refused.reason}" for refused in answer.refused[:10])
                )
            sent_externals |= referred & self._plan.externals.keys()
            awaited -= chosen
            waiting = [info for info in waiting if info.store_path not in chosen]
            self._counts.paths_pushed += len(batch)

    def _publishable(self, waiting: Sequence[ValidPath], awaited: set[StorePath]) -> list[ValidPath]:
        """From *waiting*, references first, those whose NAR is stored and whose references are there or come along."""
        chosen: dict[StorePath, ValidPath] = {}
        for info in waiting:
            if info.nar_hash in self._stored and all(
                reference not in awaited or reference in chosen or reference == info.store_path
                for reference in info.references
            ):
                chosen[info.store_path] = info
                if len(chosen) == self._parameters.max_paths:
                    break
        return list(chosen.values())


def _path_body(info: ValidPath) -> PathBody:
    return PathBody(
        store_path=info.store_path.base_name,
        nar_hash=render_sha256(info.nar_hash),
        nar_size=info.nar_size,
        references=[reference.base_name for reference in info.references],
        deriver=None if info.deriver is None else info.deriver.base_name,
        ca=None if info.ca is None else info.ca.render(),
        signatures=[signature.render() for signature in info.signatures[:MAX_SIGNATURES]],
    )


def _external_body(info: ValidPath, signature: Signature) -> PathBody:
    return PathBody(
        store_path=info.store_path.base_name,
        nar_hash=render_sha256(info.nar_hash),
        nar_size=info.nar_size,
        references=[reference.base_name for reference in info.references],
        signatures=[signature.render()],
    )


def in_reading_order(nars: Iterable[LocalNar]) -> Iterator[LocalNar]:
    """The NARs window by window, largest first in each."""
    window: list[LocalNar] = []
    size = 0
    for nar in nars:
        if window and size + nar.info.nar_size > WINDOW_BYTES:
            yield from sorted(window, key=_size_of, reverse=True)
            window, size = [], 0
        window.append(nar)
        size += nar.info.nar_size
    yield from sorted(window, key=_size_of, reverse=True)


def _size_of(nar: LocalNar) -> int:
    return nar.info.nar_size


def _grouped(nars: Iterable[LocalNar]) -> Iterator[list[LocalNar]]:
    """Neighbours that are read together: up to `STEP_BYTES`, or one large NAR."""
    group: list[LocalNar] = []
    size = 0
    for nar in nars:
        if group and size + nar.info.nar_size > STEP_BYTES:
            yield group
            group, size = [], 0
        group.append(nar)
        size += nar.info.nar_size
    if group:
        yield group


def _chunked(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell of: one of ours, if there is one among those that came together."""
    members: Sequence[BaseException] = group.exceptions
    leaves = [
        _first_of(cast("BaseExceptionGroup[BaseException]", member))
        if isinstance(member, BaseExceptionGroup)
        else member
        for member in members
    ]
    ours = [leaf for leaf in leaves if isinstance(leaf, IcehouseError)]
    return (ours or leaves)[0]
