"""Registering NARs: each is put together once from its recipe, and kept if it gives its hash."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from blake3 import blake3
from sqlalchemy import Connection

from icehouse.api.publish import NarBody, NarResult, NarsAnswer, NarsRequest
from icehouse.db.caches import CacheRow
from icehouse.db.chunks import ChunkRow, are_all_sound, lift_condemnation, load_chunks, quarantine
from icehouse.db.debug_files import put_debug_files
from icehouse.db.engine import Database
from icehouse.db.nars import NarRow, find_nars, find_recipe, put_nar, touch_nar
from icehouse.errors import Corrupt, IcehouseError, InvalidFormat, NotFound, RateLimited, TooLarge, Unavailable
from icehouse.nix.debug_info import DebugInfoSign, find_build_ids
from icehouse.nix.hashes import parse_sha256, render_sha256
from icehouse.rules.chunks import max_chunks
from icehouse.rules.frames import Frame, decode_frame, fill_in_hashes, prove_frame
from icehouse.rules.recipes import Recipe, Run, parse_recipe, render_recipe
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore
from icehouse.storage.nar_contents import NarContents, read_structure
from icehouse.storage.nars import pack_key, places_of

MAX_NARS: Final = 1000
"""NARs of one request."""

MAX_CHUNKS: Final = 1024 * 1024
"""Chunks that the recipes of one request may name, repeated ones counted: a few bytes name a million."""

MAX_WAITING_NARS: Final = 4 * MAX_NARS
"""NARs of all requests together that were not put together yet."""

DEFAULT_MAX_NAR_BYTES: Final = 64 * 1024**3

LONG_NAR_BYTES: Final = 256 * 1024 * 1024
"""From here on, a NAR takes a second or more, and its client asks again instead of waiting."""

_READ_BYTES: Final = 2 * 1024 * 1024  # frames that are read from a pack at a time while a NAR is put together
_KEEP_RESULT_SECONDS: Final = 600  # of a long NAR, for the client to ask
_NARS_AT_ONCE: Final = 4
_RETRY_SECONDS: Final = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Order:
    """A NAR to register, with all that its checks and its assembly need."""

    domain_id: int
    nar_hash: bytes
    nar_size: int
    recipe: Recipe
    request: bytes
    """A digest of all that was asked: two orders with the same one have the same result."""
    chunks: Mapping[int, ChunkRow]
    """At least those that the recipe names and the domain has."""
    present: NarRow | None
    """The NAR as it is stored already, with this very recipe."""
    is_verification: bool


@dataclass(frozen=True, slots=True)
class _Keep:
    """A NAR whose hash was checked. The row has no id yet."""

    row: NarRow
    recipe: Recipe
    chunks: Mapping[int, ChunkRow]
    build_ids: Sequence[bytes]
    """Of the debug files in it."""


class _DamagedError(IcehouseError):
    """Frames that were proved once fail now."""

    def __init__(self, rows: Sequence[ChunkRow]) -> None:
        super().__init__(f"{len(rows)} stored chunks are damaged")
        self.rows = rows


class NarRegistry:
    """The NARs of all domains."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        recent: RecentChunks,
        clock: Callable[[], int],
        *,
        max_nar_bytes: int = DEFAULT_MAX_NAR_BYTES,
        long_nar_bytes: int = LONG_NAR_BYTES,
    ) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._recent = recent
        self._clock = clock
        self._max_nar_bytes = max_nar_bytes
        self._long_nar_bytes = long_nar_bytes
        self._at_once = asyncio.Semaphore(_NARS_AT_ONCE)
        # By domain and NAR hash, then by request: one client's wrong recipe must not become another one's result.
        self._tasks: dict[tuple[int, bytes], dict[bytes, asyncio.Task[NarResult]]] = {}
        self.waiting_count = 0
        """NARs that were not put together yet. Read by whoever wants to know how busy the server is."""
        self._keeping = asyncio.Lock()
        self._to_keep: list[tuple[_Keep, asyncio.Future[list[bytes]]]] = []

    async def register_nars(self, cache: CacheRow, request: NarsRequest) -> NarsAnswer:
        """Check recipes, put each NAR together once, and keep those that give their hash.

        A long NAR is answered as pending and goes on; `get_nar` tells its end.

        Raises:
            InvalidFormat: a hash or a recipe is broken.
            TooLarge: too many NARs or chunks, or a NAR that is too large.
            RateLimited: too many NARs wait for their turn.
        """
        if len(request.nars) > MAX_NARS:
            raise TooLarge(f"{len(request.nars)} NARs; at most {MAX_NARS} fit one request")
        if not request.nars:
            return NarsAnswer([])
        if self.waiting_count + len(request.nars) > MAX_WAITING_NARS:
            raise RateLimited(
                f"{self.waiting_count} NARs wait to be put together; {MAX_WAITING_NARS} may, with yours",
                retry_after_seconds=_RETRY_SECONDS,
            )
        parsed = await self._workers.run(partial(self._parse, request))
        orders = await self._database.read(
            partial(_load_orders, domain_id=cache.domain_id, parsed=parsed, is_verification=request.verify)
        )
        tasks = [self._begin(order) for order in orders]
        short = [task for task, order in zip(tasks, orders, strict=True) if order.nar_size < self._long_nar_bytes]
        if short:
            await asyncio.wait(short)
        if any(task.cancelled() for task in tasks):
            raise Unavailable("the server stops")
        return NarsAnswer(
            [
                task.result() if task.done() else NarResult(nar_hash=render_sha256(order.nar_hash), state="pending")
                for task, order in zip(tasks, orders, strict=True)
            ]
        )

    async def register_one(self, cache: CacheRow, nar: NarBody) -> NarResult:
        """As `register_nars` for one NAR, and wait for its end however long it is.

        Raises:
            InvalidFormat: its hash or its recipe is broken.
            TooLarge: the NAR or its recipe is too large.
        """
        (parsed,) = await self._workers.run(partial(self._parse, NarsRequest([nar])))
        (order,) = await self._database.read(
            partial(_load_orders, domain_id=cache.domain_id, parsed=[parsed], is_verification=False)
        )
        task = self._begin(order)
        await asyncio.wait([task])
        if task.cancelled():
            raise Unavailable("the server stops")
        return task.result()

    async def get_nar(self, cache: CacheRow, nar_hash: bytes) -> NarResult:
        """What became of a NAR that was pending, or whether the domain has it.

        Raises:
            NotFound: it is neither stored nor pending; register it (again).
        """
        tasks = [*self._tasks.get((cache.domain_id, nar_hash), {}).values()]
        if any(not task.done() for task in tasks):
            return NarResult(nar_hash=render_sha256(nar_hash), state="pending")
        found = await self._database.read(partial(find_nars, domain_id=cache.domain_id, nar_hashes=[nar_hash]))
        ended = [task for task in tasks if not task.cancelled()]
        if ended and ended[-1].exception() is None and ended[-1].result().state == "missing-chunks":
            return ended[-1].result()  # also for a NAR that is stored: some of it was found damaged
        if nar_hash in found:
            return _stored(found[nar_hash])
        if ended:
            return ended[-1].result()
        raise NotFound(f"NAR {render_sha256(nar_hash)} is not stored here")

    async def close(self) -> None:
        """Stop what is pending; clients register it again."""
        tasks = [task for of_nar in self._tasks.values() for task in of_nar.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _parse(self, request: NarsRequest) -> list[tuple[bytes, NarBody, Recipe]]:
        parsed: list[tuple[bytes, NarBody, Recipe]] = []
        for body in request.nars:
            if not 0 < body.nar_size <= self._max_nar_bytes:
                raise TooLarge(f"NAR {body.nar_hash} of {body.nar_size} bytes; 1 to {self._max_nar_bytes} are accepted")
            recipe = parse_recipe(body.recipe, max_chunks=max_chunks(body.nar_size))
            parsed.append((parse_sha256(body.nar_hash), body, recipe))
        chunk_count = sum(recipe.chunk_count for _, _, recipe in parsed)
        if len(parsed) > 1 and chunk_count > MAX_CHUNKS:
            raise TooLarge(f"recipes with {chunk_count} chunks; those of one request may have {MAX_CHUNKS} together")
        return parsed

    def _begin(self, order: _Order) -> asyncio.Task[NarResult]:
        tasks = self._tasks.setdefault((order.domain_id, order.nar_hash), {})
        running = tasks.pop(order.request, None)
        if running is not None and not running.done():
            tasks[order.request] = running
            return running  # the same request, sent twice: one of them does the work
        task = tasks[order.request] = asyncio.create_task(self._register(order))
        self.waiting_count += 1
        task.add_done_callback(partial(self._note_end, order))
        return task

    def _note_end(self, order: _Order, task: asyncio.Task[NarResult]) -> None:
        self.waiting_count -= 1
        is_long = order.nar_size >= self._long_nar_bytes
        if not task.cancelled() and (exc := task.exception()) is not None and is_long:
            _log.error("a NAR could not be put together", nar=render_sha256(order.nar_hash), exc_info=exc)
        if is_long:
            asyncio.get_running_loop().call_later(_KEEP_RESULT_SECONDS, self._forget, order, task)
        else:
            self._forget(order, task)

    def _forget(self, order: _Order, task: asyncio.Task[NarResult]) -> None:
        key = (order.domain_id, order.nar_hash)
        tasks = self._tasks.get(key, {})
        if tasks.get(order.request) is task:
            del tasks[order.request]
            if not tasks:
                del self._tasks[key]

    async def _register(self, order: _Order) -> NarResult:
        text = render_sha256(order.nar_hash)
        try:
            async with self._at_once:
                missing = await self._workers.run(partial(_check_counts, order))
                if missing:
                    return NarResult(nar_hash=text, state="missing-chunks", missing=b"".join(missing))
                if (
                    order.present is not None
                    and not order.is_verification
                    and _fits(order, order.present)
                    and await self._database.write(partial(touch_nar, nar_id=order.present.id, now=self._clock()))
                ):
                    return _stored(order.present)
                assembly = await self._workers.run(partial(_Assembly, order, self._blobs, self._recent))
        except _DamagedError as exc:
            _log.error("stored chunks are damaged", nar=text, chunks=[row.identity.hex() for row in exc.rows])
            await self._database.write(partial(quarantine, rows=exc.rows, now=self._clock()))
            return NarResult(nar_hash=text, state="missing-chunks", missing=b"".join(row.identity for row in exc.rows))
        except InvalidFormat as exc:
            return NarResult(nar_hash=text, state="refused", reason=str(exc))
        row = NarRow(0, order.domain_id, order.nar_hash, order.nar_size, assembly.file_hash, assembly.file_size)
        gone = await self._keep(_Keep(row, order.recipe, order.chunks, assembly.build_ids))
        if gone:
            return NarResult(nar_hash=text, state="missing-chunks", missing=b"".join(gone))
        return _stored(row)

    async def _keep(self, nar: _Keep) -> list[bytes]:
        """Make rows of a NAR, or say which of its chunks went away meanwhile.

        NARs that come while another transaction runs share one.
        """
        done: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._to_keep.append((nar, done))
        async with self._keeping:
            batch, self._to_keep = self._to_keep, []
            if batch:
                nars = [waiting for waiting, _ in batch]
                try:
                    kept = await self._database.write(partial(_keep_all, nars=nars, now=self._clock()))
                except BaseException as exc:
                    for _, waiting in batch:
                        waiting.set_exception(exc if isinstance(exc, Exception) else Unavailable("the server stops"))
                    if not isinstance(exc, Exception):
                        raise
                else:
                    for (_, waiting), gone in zip(batch, kept, strict=True):
                        waiting.set_result(gone)
        return await done


class _Assembly:
    """Puts a NAR together once, in a worker thread: reads, decodes, hashes. Memory: one read and one chunk."""

    def __init__(self, order: _Order, blobs: BlobStore, recent: RecentChunks) -> None:
        """Do it all.

        Raises:
            InvalidFormat: the recipe does not give the hash, and every frame is sound.
            _DamagedError: frames are damaged.
        """
        self._order = order
        self._blobs = blobs
        self._recent = recent
        file_hasher = hashlib.sha256()
        nar_hasher = hashlib.sha256()
        sign = DebugInfoSign()
        self.file_size = 0
        damaged: list[ChunkRow] = []
        patch_start = 0
        hashes, patches = order.recipe.hashes, order.recipe.patches
        for row, data in self._read_frames(damaged):
            places = places_of(row)
            count = len(places.positions)
            filled = [hashes[index] for index in patches[patch_start : patch_start + count]]
            patch_start += count
            try:
                raw = self._decode(row, data)
            except InvalidFormat:
                damaged.append(row)
                continue
            piece = fill_in_hashes(raw, places.positions, filled)
            nar_hasher.update(piece)
            sign.look(piece)
            file_hasher.update(fill_in_hashes(data, places.patch_offsets, filled))
            self.file_size += len(data)
        if damaged or nar_hasher.digest() != order.nar_hash:
            # All that is damaged, so that the client needs to send once.
            unsound = [row for row, data in self._read_frames(damaged) if not _is_sound(row, data)]
            damaged.extend(unsound)
            if not damaged:
                raise InvalidFormat(
                    f"the recipe gives the NAR hash {render_sha256(nar_hasher.digest())},"
                    f" not {render_sha256(order.nar_hash)}"
                )
        if damaged:
            raise _DamagedError(list({row.number: row for row in damaged}.values()))
        self.file_hash = file_hasher.digest()
        self.build_ids = self._find_build_ids() if sign.is_seen else []

    def _find_build_ids(self) -> list[bytes]:
        order = self._order
        try:
            return find_build_ids(read_structure(NarContents(self._blobs, order.domain_id, order.recipe, order.chunks)))
        except InvalidFormat:  # What is stored need not be a NAR; then there is no file in it.
            return []

    def _decode(self, row: ChunkRow, data: bytes) -> bytes:
        if self._order.is_verification:
            return _prove(row, data)
        raw = self._recent.find(row.identity, data)
        places = places_of(row)
        frame = Frame(data, places.patch_offsets, is_split=places.is_split)
        return decode_frame(frame, row.raw_bytes) if raw is None else raw

    def _read_frames(self, damaged: list[ChunkRow]) -> "Iterator[tuple[ChunkRow, bytes]]":
        """All frames in order, several in one read where they stand together. Unreadable ones go to *damaged*."""
        group: list[ChunkRow] = []
        for number in _numbers(self._order.recipe):
            row = self._order.chunks[number]
            if group and (not _follows(group[-1], row) or _extent(group) >= _READ_BYTES):
                yield from self._read_group(group, damaged)
                group = []
            group.append(row)
        yield from self._read_group(group, damaged)

    def _read_group(self, group: Sequence[ChunkRow], damaged: list[ChunkRow]) -> "Iterator[tuple[ChunkRow, bytes]]":
        first = group[0]
        buffer = bytearray(_extent(group))
        key = pack_key(self._order.domain_id, first.pack_name)
        try:
            self._blobs.read_into(key, first.pack_offset, memoryview(buffer))
        except (NotFound, Corrupt):
            if len(group) == 1:
                damaged.append(first)
            else:
                for row in group:
                    yield from self._read_group([row], damaged)
            return
        view = memoryview(buffer)
        for row in group:
            start = row.pack_offset - first.pack_offset
            yield row, bytes(view[start : start + row.stored_bytes])


def _load_orders(
    connection: Connection, domain_id: int, parsed: Sequence[tuple[bytes, NarBody, Recipe]], *, is_verification: bool
) -> list[_Order]:
    chunks = load_chunks(connection, domain_id, [run for _, _, recipe in parsed for run in recipe.runs])
    present = find_nars(connection, domain_id, [nar_hash for nar_hash, _, _ in parsed])
    orders: list[_Order] = []
    for nar_hash, body, recipe in parsed:
        row = present.get(nar_hash)
        if row is not None and find_recipe(connection, row.id) != body.recipe:
            row = None
        digest = blake3(b"%d %d " % (body.nar_size, is_verification) + body.recipe).digest()
        orders.append(_Order(domain_id, nar_hash, body.nar_size, recipe, digest, chunks, row, is_verification))
    return orders


def _keep_all(connection: Connection, nars: Sequence[_Keep], now: int) -> list[list[bytes]]:
    """The transaction that keeps NARs whose chunks are still there and sound.

    Returns:
        For each, the identities of those chunks that are not; none: it is kept.
    """
    runs: dict[int, list[Run]] = {}
    for nar in nars:
        runs.setdefault(nar.row.domain_id, []).extend(nar.recipe.runs)
    sound = {domain_id for domain_id, of_domain in runs.items() if are_all_sound(connection, domain_id, of_domain)}
    kept: list[list[bytes]] = []
    for nar in nars:
        gone = [] if nar.row.domain_id in sound else _find_gone(connection, nar)
        if not gone:
            nar_id = put_nar(
                connection,
                domain_id=nar.row.domain_id,
                nar_hash=nar.row.nar_hash,
                nar_size=nar.row.nar_size,
                file_hash=nar.row.file_hash,
                file_size=nar.row.file_size,
                recipe_body=render_recipe(nar.recipe),
                now=now,
            )
            put_debug_files(connection, nar_id, nar.build_ids)
        kept.append(gone)
    lift_condemnation(
        connection, [run for nar, gone in zip(nars, kept, strict=True) if not gone for run in nar.recipe.runs]
    )
    return kept


def _find_gone(connection: Connection, nar: _Keep) -> list[bytes]:
    domain_id, runs = nar.row.domain_id, nar.recipe.runs
    if are_all_sound(connection, domain_id, runs):
        return []
    sound = {number for number, row in load_chunks(connection, domain_id, runs).items() if row.is_sound}
    numbers = dict.fromkeys(_numbers(nar.recipe))
    return [nar.chunks[number].identity for number in numbers if number not in sound]


def _numbers(recipe: Recipe) -> "Iterator[int]":
    for run in recipe.runs:
        yield from range(run.first, run.first + run.count)


def _check_counts(order: _Order) -> list[bytes]:
    """Compare the recipe with the rows, before any work.

    Returns:
        The identities of chunks that are quarantined.

    Raises:
        InvalidFormat: a number is not of this domain, or the sizes or the counts do not add up.
    """
    nar_size = patch_count = 0
    missing: dict[bytes, None] = {}
    counts: dict[int, int] = {}
    for number in _numbers(order.recipe):
        row = order.chunks.get(number)
        if row is None:
            raise InvalidFormat(f"recipe: there is no chunk {number}")
        if not row.is_sound:
            missing[row.identity] = None
        nar_size += row.raw_bytes
        if number not in counts:
            counts[number] = len(places_of(row).positions)
        patch_count += counts[number]
    if nar_size != order.nar_size:
        raise InvalidFormat(f"recipe: its chunks have {nar_size} bytes; the NAR has {order.nar_size}")
    if patch_count != len(order.recipe.patches):
        raise InvalidFormat(f"recipe: {len(order.recipe.patches)} patches; its chunks have {patch_count} places")
    return list(missing)


def _fits(order: _Order, present: NarRow) -> bool:
    """Whether the file is as long as its row says. A chunk that was healed may have got another frame since."""
    return sum(order.chunks[number].stored_bytes for number in _numbers(order.recipe)) == present.file_size


def _follows(last: ChunkRow, row: ChunkRow) -> bool:
    return row.pack_name == last.pack_name and row.pack_offset == last.pack_offset + last.stored_bytes


def _extent(group: Sequence[ChunkRow]) -> int:
    return group[-1].pack_offset + group[-1].stored_bytes - group[0].pack_offset


def _prove(row: ChunkRow, data: bytes) -> bytes:
    places = places_of(row)
    frame = Frame(data, places.patch_offsets, is_split=places.is_split)
    return prove_frame(frame, row.raw_bytes, places.positions, row.identity)


def _is_sound(row: ChunkRow, data: bytes) -> bool:
    try:
        _prove(row, data)
    except InvalidFormat:
        return False
    return True


def _stored(row: NarRow) -> NarResult:
    return NarResult(nar_hash=render_sha256(row.nar_hash), state="stored", file_size=row.file_size)
