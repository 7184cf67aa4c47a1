"""Pushing a closure: what is missing is cut, compressed, sent, registered and published, all at the same time.

The steps are those of the design, section 5. Whatever fails or stops leaves what was published whole, and what was
sent known to the server, so that the same push again sends only the rest.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from icehouse.api.caches import CacheView
from icehouse.api.publish import NarBody, NarResult, PathBody
from icehouse.client.byte_budget import ByteBudget
from icehouse.client.chunk_sender import ChunkSender, Waiter
from icehouse.client.cutting import (
    LocalNar,
    NarCutter,
    NarSource,
    distinct_nars,
    grouped,
    in_reading_order,
    worker_threads,
)
from icehouse.client.local_store import LocalStore
from icehouse.client.push_counts import PushCounts
from icehouse.client.push_memory import HeldSizes, plan_memory
from icehouse.client.push_plan import PushPlan, PushSettings, chunk_parameters, first_of, plan_push
from icehouse.client.server import Server
from icehouse.errors import Conflict, Corrupt, NotFound
from icehouse.nix.hashes import render_sha256
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.rules.closures import MAX_SIGNATURES
from icehouse.rules.recipes import make_recipe, render_recipe

MAX_ROUNDS: Final = 4
"""How often one NAR is read and registered, if the server misses chunks of it each time."""

_REGISTERING_AT_ONCE: Final = 2
_FIRST_POLL_SECONDS: Final = 0.05
_MAX_POLL_SECONDS: Final = 2.0
_JSON_OVERHEAD_BYTES: Final = 256  # of one NAR in a request, beside its recipe in base64


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a cache has after a push."""

    view: CacheView
    paths: tuple[ValidPath, ...]
    """Of the closure; without those that upstreams have, and those that were left out."""
    excluded: tuple[ValidPath, ...]
    dependents: tuple[ValidPath, ...]

    @property
    def hash_parts(self) -> tuple[HashPart, ...]:
        """Those of the paths."""
        return tuple(info.store_path.hash_part for info in self.paths)


async def push(
    server: Server,
    cache: str,
    store: LocalStore,
    paths: Sequence[StorePath],
    *,
    settings: PushSettings | None = None,
    counts: PushCounts,
    closure: Awaitable[list[ValidPath]] | None = None,
) -> Pushed:
    """Push *paths* and all that they reach, counting in *counts* what was done.

    Args:
        server: where the cache is.
        cache: its name.
        store: where the paths are.
        paths: what to push.
        settings: how.
        counts: fresh ones.
        closure: as `plan_push` takes it.

    Raises:
        Unauthenticated, Denied: the token may not push; also when nothing is missing.
        Conflict: the cache is for another store directory, the local store is damaged, or the server refuses a path.
        TooLarge: a NAR is over the server's limit.
        Corrupt: the server keeps missing chunks that were sent.
        IcehouseError: as `Server`'s requests and `walk_nar`.
    """
    settings = settings or PushSettings()
    plan = await plan_push(server, cache, store, paths, settings=settings, counts=counts, closure=closure)
    await send(server, store, plan, settings=settings, counts=counts)
    left_out = {info.store_path for info in (*plan.excluded, *plan.dependents)}
    there = (info for info in plan.closure if info.store_path not in plan.externals)
    return Pushed(
        plan.view, tuple(info for info in there if info.store_path not in left_out), plan.excluded, plan.dependents
    )


async def send(
    server: Server, source: NarSource, plan: PushPlan, *, settings: PushSettings, counts: PushCounts
) -> None:
    """Send and publish what *plan* says. The errors are those of `push`."""
    try:
        if plan.publish:
            sizes = plan_memory(
                settings.memory_bytes, settings.threads, plan.parameters, bytes_per_second=server.bytes_per_second
            )
            with worker_threads(sizes.threads) as executor:
                await _Push(server, source, plan, executor, sizes, counts).run()
    finally:
        counts.sent_bytes = server.sent_bytes


class _Push:
    """One push under way: readers, the sender of chunks, the registering of NARs, and the publishing of paths."""

    def __init__(
        self,
        server: Server,
        source: NarSource,
        plan: PushPlan,
        executor: ThreadPoolExecutor,
        sizes: HeldSizes,
        counts: PushCounts,
    ) -> None:
        self._server = server
        self._cache = plan.view.name
        self._source = source
        self._plan = plan
        self._executor = executor
        self._counts = counts
        self._readers = sizes.threads
        self._parameters = msgspec.structs.replace(plan.parameters, pack_bytes=sizes.pack_bytes)
        self._step_bytes = sizes.step_bytes
        self._budget = ByteBudget(sizes.budget_bytes)
        self._chunk_parameters = chunk_parameters(plan.parameters)
        self._registering = asyncio.Semaphore(_REGISTERING_AT_ONCE)
        self._to_register: list[tuple[LocalNar, NarBody]] = []
        self._is_gathering = False
        self._stored: set[bytes] = set()
        self._stored_more = asyncio.Event()

    async def run(self) -> None:
        """Push all that the plan says."""
        nars = distinct_nars(self._plan.publish, self._source)
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
                groups = grouped(in_reading_order(nars))
                for _ in range(self._readers):
                    self._sender.reader_started()
                for _ in range(self._readers):
                    tasks.create_task(self._read(groups))
                await self._publish()
        except BaseExceptionGroup as group:
            raise first_of(group) from group

    async def _read(self, groups: Iterator[list[LocalNar]]) -> None:
        """Read groups until there are none left. Several readers share *groups*."""
        for group in groups:
            await self._read_group(group)
        # Only now: one that failed or was cancelled ends the push, and its task group takes no task for a last pack.
        self._sender.reader_stopped()

    async def _read_group(self, group: list[LocalNar]) -> None:
        loop = asyncio.get_running_loop()
        cutter = NarCutter(group, self._source.store_dir, self._chunk_parameters)
        waiters = {id(nar): Waiter() for nar in group}
        while not cutter.is_done:
            reserved = self._step_bytes + 2 * self._parameters.chunk_max_bytes
            await self._budget.take(reserved)
            before = cutter.read_bytes
            stretches = await loop.run_in_executor(self._executor, cutter.read_some, self._step_bytes)
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
            for path in chosen:
                del self._counts.waiting[path]

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
