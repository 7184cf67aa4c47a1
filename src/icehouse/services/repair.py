"""Repair: what is damaged is fetched from another cache that has it, checked, and stored again."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from icehouse.api.publish import NarBody
from icehouse.db.caches import CacheRow, get_cache, list_upstreams
from icehouse.db.chunks import find_numbers
from icehouse.db.engine import Database
from icehouse.db.verification import DamagedPath, load_damaged, mark_readable
from icehouse.errors import IcehouseError
from icehouse.nix.compression import parse_compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.hashes import render_sha256
from icehouse.nix.narinfo import NarInfo
from icehouse.nix.store_paths import HashPart
from icehouse.rules.chunks import Chunker, CutChunk, chunk_identity
from icehouse.rules.frames import DEFAULT_LEVEL, make_frame
from icehouse.rules.packs import MAX_PACK_ENTRIES, PACK_BYTES, PackEntry, Places
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.services.damage import Damage
from icehouse.services.nars import NarRegistry
from icehouse.services.pack_writing import PackWriter, publish_pack
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore

_STRETCH_BYTES: Final = 4 * 1024 * 1024

_log = structlog.get_logger(__name__)


class Source(Protocol):
    """A binary cache to fetch from."""

    url: str

    async def find(self, hash_part: HashPart) -> NarInfo | None:
        """The narinfo of a path; `None`: it is not there."""
        ...

    def read(self, info: NarInfo) -> AsyncGenerator[bytes]:
        """The NAR file of a path, as it is stored there."""
        ...


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What became of what was damaged."""

    healed: dict[str, str]
    """Paths whose NAR is whole again, as `<cache>/<base name>`, with the cache that had it."""
    failed: dict[str, str]
    """Paths that are still damaged, with the reason."""
    restored: list[str]
    """Paths that are visible again, those that reach healed ones too."""


class Repair:
    """Heals paths that verification hid."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        nars: NarRegistry,
        clock: Callable[[], int],
        open_source: Callable[[str], Source],
    ) -> None:
        """Join the parts. *open_source* gives the binary cache at an address."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._nars = nars
        self._clock = clock
        self._open_source = open_source
        self._damage = Damage(database, clock)

    async def repair(self, cache_name: str | None, more_sources: Sequence[str]) -> RepairReport:
        """Fetch the NARs of damaged paths, each from the first cache that has the very same one.

        The caches are *more_sources*, and then the upstreams of the path's own cache. A NAR counts if it has the hash
        that was checked when the path was pushed, so none of them needs to be trusted.

        Args:
            cache_name: of which cache; `None`: of all.
            more_sources: addresses of binary caches.
        """
        healed: dict[str, str] = {}
        failed: dict[str, str] = {}
        for path in await self._database.read(partial(load_damaged, cache_name=cache_name)):
            cache = await self._database.read(partial(get_cache, name=path.cache_name))
            upstreams = await self._database.read(partial(list_upstreams, cache_id=cache.id))
            reasons: list[str] = []
            for url in dict.fromkeys([*more_sources, *(upstream.url for upstream in upstreams)]):
                try:
                    reason = await self._fetch(cache, path, self._open_source(url))
                except IcehouseError as exc:
                    reason = f"{url}: {exc}"
                if reason is None:
                    healed[path.place] = url
                    break
                reasons.append(reason)
            else:
                failed[path.place] = "; ".join(reasons) or "no other cache is known"
        restored = await self._damage.restore_healed()
        if healed:
            _log.info("repaired paths", count=len(healed))
        return RepairReport(healed, failed, sorted(restored))

    async def _fetch(self, cache: CacheRow, path: DamagedPath, source: Source) -> str | None:
        """Heal a path from one cache; `None`: done. Else the reason why not."""
        info = await source.find(HashPart(path.hash_part))
        if info is None:
            return f"{source.url} does not have it"
        if info.nar_hash != path.nar_hash:
            return f"{source.url} has another build of it"
        cutting = _Cutting(info, cache, max_bytes=path.nar_size)
        storing = _Storing(cache, self._database, self._blobs, self._workers, self._clock)
        try:
            async with aclosing(source.read(info)) as pieces:
                async for piece in pieces:
                    await storing.take_all(cutting.feed(piece))
            await storing.take_all(cutting.finish())
            if cutting.nar_hash != path.nar_hash:
                return f"{source.url} gives another NAR than its narinfo says"
            numbers = await storing.finish()
        finally:
            await self._workers.run_always(storing.pack.abort)
        recipe = await self._workers.run(lambda: render_recipe(make_recipe(numbers, cutting.store_hashes)))
        body = NarBody(nar_hash=render_sha256(path.nar_hash), nar_size=path.nar_size, recipe=recipe)
        result = await self._nars.register_one(cache, body)
        if result.state != "stored":
            return f"what {source.url} gave could not be stored: {result.reason or result.state}"
        await self._database.write(partial(mark_readable, nar_id=path.nar_id))
        return None


class _Cutting:
    """From a NAR file to chunks. Its iterators run in worker threads, one at a time."""

    def __init__(self, info: NarInfo, cache: CacheRow, *, max_bytes: int) -> None:
        self._decompressor = Decompressor(parse_compression(info.compression), max_bytes=max_bytes)
        self._chunker = Chunker(cache.store_dir)
        self._hasher = hashlib.sha256()
        self.store_hashes: list[bytes] = []

    @property
    def nar_hash(self) -> bytes:
        return self._hasher.digest()

    def feed(self, data: bytes) -> Iterator[list[CutChunk]]:
        """The chunks that are known now, in stretches of bounded size."""
        stretch: list[CutChunk] = []
        read_bytes = 0
        for piece in self._decompressor.feed(data):
            self._hasher.update(piece)
            stretch += self._note(self._chunker.feed(piece))
            read_bytes += len(piece)
            if read_bytes >= _STRETCH_BYTES:
                yield stretch
                stretch, read_bytes = [], 0
        yield stretch

    def finish(self) -> Iterator[list[CutChunk]]:
        """The last chunks."""
        self._decompressor.finish()
        yield self._note(self._chunker.finish())

    def _note(self, cuts: list[CutChunk]) -> list[CutChunk]:
        for cut in cuts:
            self.store_hashes += cut.hashes
        return cuts


class _Storing:
    """Stores those chunks of a NAR that are missing; the others keep their frames."""

    def __init__(
        self, cache: CacheRow, database: Database, blobs: BlobStore, workers: Workers, clock: Callable[[], int]
    ) -> None:
        self._cache = cache
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._clock = clock
        self._order: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self.pack = PackWriter(blobs)

    async def take_all(self, stretches: Iterator[list[CutChunk]]) -> None:
        while (stretch := await self._workers.run(partial(next, stretches, None))) is not None:
            by_identity = {chunk_identity(cut.raw, cut.positions): cut for cut in stretch}
            self._order += [chunk_identity(cut.raw, cut.positions) for cut in stretch]
            waiting = {entry.identity for entry in self.pack.entries}
            new = [one for one in by_identity if one not in self._numbers and one not in waiting]
            self._numbers |= await self._database.read(
                partial(find_numbers, domain_id=self._cache.domain_id, identities=new)
            )
            missing = [by_identity[one] for one in new if one not in self._numbers]
            await self._workers.run(partial(self._write, missing))
            if self.pack.size_bytes >= PACK_BYTES or len(self.pack.entries) >= MAX_PACK_ENTRIES // 2:
                await self._publish()

    async def finish(self) -> list[int]:
        """Store what is left; the numbers of all chunks, in order."""
        if self.pack.entries:
            await self._publish()
        return [self._numbers[identity] for identity in self._order]

    def _write(self, cuts: Sequence[CutChunk]) -> None:
        for cut in cuts:
            frame = make_frame(cut.raw, cut.positions, level=DEFAULT_LEVEL)
            places = Places(cut.positions, frame.patch_offsets, is_split=frame.is_split)
            identity = chunk_identity(cut.raw, cut.positions)
            self.pack.write([PackEntry(identity, len(frame.data), len(cut.raw), places)], [frame])

    async def _publish(self) -> None:
        added = await publish_pack(
            self.pack, self._cache, database=self._database, workers=self._workers, clock=self._clock
        )
        self._numbers |= added.numbers
        self.pack = PackWriter(self._blobs)
