"""Copying NARs from one domain to another, frames as they are; chunks that are there already are not copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.publish import NarBody
from icehouse.db.caches import CacheRow
from icehouse.db.chunks import ChunkRow, find_numbers, load_chunks
from icehouse.db.engine import Database
from icehouse.db.nars import find_nars, find_recipe
from icehouse.errors import Conflict, Corrupt, InvalidFormat, NotFound
from icehouse.nix.hashes import render_sha256
from icehouse.rules.frames import Frame, prove_frame
from icehouse.rules.packs import MAX_PACK_ENTRIES, PACK_BYTES, PackEntry
from icehouse.rules.recipes import Recipe, make_recipe, parse_recipe, render_recipe
from icehouse.services.nars import NarRegistry
from icehouse.services.pack_writing import PackWriter, publish_pack
from icehouse.services.quotas import check_room
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore
from icehouse.storage.nars import pack_key, places_of

_STRETCH_BYTES: Final = 4 * 1024 * 1024  # of frames, copied in one turn of a thread


@dataclass(frozen=True, slots=True)
class _Stored:
    """A NAR as its domain has it."""

    nar_size: int
    recipe: Recipe
    chunks: Mapping[int, ChunkRow]


class NarCopies:
    """Copies NARs between domains. What is copied stays for a day without a path, as what was uploaded does."""

    def __init__(
        self, database: Database, blobs: BlobStore, workers: Workers, nars: NarRegistry, clock: Callable[[], int]
    ) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._nars = nars
        self._clock = clock

    async def copy(self, nar_hash: bytes, source: CacheRow, cache: CacheRow) -> None:
        """Have the domain of *cache* store a NAR that the domain of *source* has. Repeating it changes nothing.

        As with an upload: frames that are lacking are proved and become packs, then the NAR is put together and hashed.

        Raises:
            OverQuota: *cache* has reached its limit, or the disk is full.
            Conflict: *source* lost the NAR meanwhile, or some of it is damaged.
            NotFound: *cache* was deleted meanwhile.
        """
        await check_room(self._database, cache)
        load = partial(_load, domain_id=source.domain_id, nar_hash=nar_hash)
        stored = await self._database.read(load)
        if stored is None:
            raise Conflict(f"{source.name} lost the NAR {render_sha256(nar_hash)} meanwhile")
        order = [stored.chunks[run.first + step].identity for run in stored.recipe.runs for step in range(run.count)]
        numbers = await self._copy_chunks(list(stored.chunks.values()), source, cache)
        store_hashes = [stored.recipe.hashes[patch] for patch in stored.recipe.patches]
        recipe = await self._workers.run(
            lambda: render_recipe(make_recipe((numbers[identity] for identity in order), store_hashes))
        )
        body = NarBody(nar_hash=render_sha256(nar_hash), nar_size=stored.nar_size, recipe=recipe)
        result = await self._nars.register_one(cache, body)
        if result.state != "stored":
            raise Conflict(
                f"the NAR {body.nar_hash} could not be copied to {cache.name}: {result.reason or result.state}"
            )

    async def _copy_chunks(self, rows: Sequence[ChunkRow], source: CacheRow, cache: CacheRow) -> dict[bytes, int]:
        """The numbers, in the domain of *cache*, of these chunks of the other domain, by identity."""
        identities = [row.identity for row in rows]
        numbers = await self._database.read(partial(find_numbers, domain_id=cache.domain_id, identities=identities))
        lacking = [row for row in rows if row.identity not in numbers]
        while lacking:
            pack = PackWriter(self._blobs)
            try:
                while lacking and pack.size_bytes < PACK_BYTES and len(pack.entries) < MAX_PACK_ENTRIES // 2:
                    taken = await self._workers.run(partial(self._write, pack, lacking, source))
                    lacking = lacking[taken:]
                await check_room(self._database, cache)
                added = await publish_pack(
                    pack, cache, database=self._database, workers=self._workers, clock=self._clock
                )
            finally:
                await self._workers.run_always(pack.abort)
            numbers |= added.numbers
        return numbers

    def _write(self, pack: PackWriter, rows: Sequence[ChunkRow], source: CacheRow) -> int:
        """Append the frames of the first of *rows*; how many."""
        count = 0
        end = pack.size_bytes + _STRETCH_BYTES
        for row in rows:
            if pack.size_bytes >= end:
                break
            pack.write(*self._read(row, source))
            count += 1
        return count

    def _read(self, row: ChunkRow, source: CacheRow) -> tuple[list[PackEntry], list[Frame]]:
        data = bytearray(row.stored_bytes)
        try:
            self._blobs.read_into(pack_key(source.domain_id, row.pack_name), row.pack_offset, memoryview(data))
            places = places_of(row)
            frame = Frame(bytes(data), places.patch_offsets, is_split=places.is_split)
            prove_frame(frame, row.raw_bytes, places.positions, row.identity)
        except (NotFound, Corrupt, InvalidFormat) as exc:
            raise Conflict(
                f"a chunk of {source.name} is damaged or gone, so nothing was promoted; `icehouse verify "
                f"{source.name}` tells what is hit: {exc}"
            ) from exc
        return [PackEntry(row.identity, row.stored_bytes, row.raw_bytes, places)], [frame]


def _load(connection: Connection, domain_id: int, nar_hash: bytes) -> _Stored | None:
    row = find_nars(connection, domain_id, [nar_hash]).get(nar_hash)
    body = None if row is None else find_recipe(connection, row.id)
    if row is None or body is None:
        return None
    recipe = parse_recipe(body, max_chunks=row.nar_size)
    chunks = load_chunks(connection, domain_id, recipe.runs)
    is_whole = all(run.first + step in chunks for run in recipe.runs for step in range(run.count))
    return _Stored(row.nar_size, recipe, chunks) if is_whole else None
