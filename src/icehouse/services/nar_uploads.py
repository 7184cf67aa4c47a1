"""NAR files that stock Nix uploads: unpacked, checked, cut and stored while they arrive."""

import asyncio
import hashlib
import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from icehouse.api.publish import NarBody
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.chunks import find_numbers
from icehouse.db.engine import Database
from icehouse.db.uploads import UploadedFile, put_upload
from icehouse.errors import Conflict, InvalidFormat, TooLarge
from icehouse.nix import nix32
from icehouse.nix.compression import MAGIC_BYTES, Compression, find_compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.excerpts import excerpt
from icehouse.nix.hashes import SHA256_SIZE_BYTES, render_sha256
from icehouse.nix.nar_read import NarReader
from icehouse.nix.store_paths import StoreDir
from icehouse.rules.chunks import STORE_HASH_BYTES, Chunker, CutChunk, chunk_identity
from icehouse.rules.frames import Frame, make_frame
from icehouse.rules.packs import MAX_PACK_ENTRIES, PACK_BYTES, PackEntry, Places
from icehouse.rules.recipes import MAX_RECIPE_BYTES, make_recipe, render_recipe
from icehouse.services.nars import NarRegistry
from icehouse.services.pack_writing import PackWriter, publish_pack
from icehouse.services.quotas import check_room
from icehouse.services.upload_slots import UploadSlots
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore

_FILE_NAME: Final = re.compile(r"([0-9a-df-np-sv-z]{52})\.nar(?:\.[a-z0-9]{1,8})?")
_UPLOADS_AT_ONCE: Final = 16  # each holds a decoder, and some megabytes besides
_OF_TOKEN_AT_ONCE: Final = 12  # of them, so that slow clients with one token do not hold up all others
_AT_WORK_AT_ONCE: Final = 4  # of them; the others wait for their clients, who may be slow
_OPEN: Final = 512  # that are received or wait for their turn; each may hold some 100 kB in buffers
_OPEN_OF_TOKEN: Final = 128  # a `nix copy` has 25
_CANNOT_COME_AGAIN: Final = 2  # times as many of those may be open
_FED_BYTES: Final = 1024 * 1024  # of the file, gathered for one turn of a thread
_STRETCH_BYTES: Final = 4 * 1024 * 1024  # of the NAR, unpacked and cut in one turn of a thread
_FRAMES_AT_ONCE_BYTES: Final = 1024 * 1024  # of chunks that one thread compresses
_BATCHES_AT_ONCE: Final = 3
_MAX_PACK_PLACES: Final = 1_000_000  # store hashes of a pack, whose index has some bytes for each


def parse_upload_name(file_name: str) -> bytes:
    """The SHA-256 of a file that is named as Nix names what it uploads: ``<52 letters of Nix32>.nar[.extension]``.

    Raises:
        InvalidFormat: it is named otherwise.
    """
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise InvalidFormat(f"NAR file {excerpt(file_name)}: expected <SHA-256 in Nix32>.nar and an extension")
    return nix32.decode(match[1], SHA256_SIZE_BYTES)


class NarUploads:
    """Takes NAR files. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        nars: NarRegistry,
        clock: Callable[[], int],
        *,
        zstd_level: int,
        max_nar_bytes: int,
    ) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._nars = nars
        self._clock = clock
        self._zstd_level = zstd_level
        self._max_nar_bytes = max_nar_bytes
        self.slots = UploadSlots(_OPEN, of_one_token=_OPEN_OF_TOKEN)
        self._at_once = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        self._of_token: WeakValueDictionary[int | None, asyncio.Semaphore] = WeakValueDictionary()
        self._at_work = asyncio.Semaphore(_AT_WORK_AT_ONCE)

    async def receive_nar(
        self,
        cache: CacheRow,
        file_name: str,
        body: AsyncIterator[bytes],
        *,
        token_id: int | None,
        can_come_again: bool = False,
    ) -> None:
        """Take a file and keep its NAR, staged until a narinfo names it. Repeating it changes nothing.

        The order: packs and the rows of their chunks while the file arrives; then the NAR, once it is checked; then the
        upload's row. More uploads than are taken at once wait for their turn, before anything of theirs is read; those
        for which there is no more room to wait are refused, of those that can come again half as many.

        Raises:
            RateLimited: too many wait, or too many with this token. Nothing of the body was read.
            InvalidFormat: the file is named otherwise than by its hash, cannot be decoded, or holds no valid NAR.
            Unsupported: its compression is not read here.
            TooLarge: the NAR is larger than this server takes.
            OverQuota: the cache has reached its limit, at best before anything is read; or the disk is full.
            NotFound: the cache was deleted meanwhile.
            Conflict: a chunk that was there is gone or damaged now; upload the file again.
        """
        expected_hash = parse_upload_name(file_name)
        await check_room(self._database, cache)
        with self.slots.take(token_id, factor=1 if can_come_again else _CANNOT_COME_AGAIN):
            await self._receive_in_turn(cache, file_name, expected_hash, body, token_id=token_id)

    async def _receive_in_turn(
        self, cache: CacheRow, file_name: str, expected_hash: bytes, body: AsyncIterator[bytes], *, token_id: int | None
    ) -> None:
        of_token = self._of_token.setdefault(token_id, asyncio.Semaphore(_OF_TOKEN_AT_ONCE))
        async with of_token, self._at_once:
            unpacking = _Unpacking(file_name, cache.store_dir, max_nar_bytes=self._max_nar_bytes)
            intake = _Intake(cache, self._database, self._blobs, self._workers, self._clock, level=self._zstd_level)
            try:
                async for data in _gather(body):
                    await self._unpack(unpacking, intake, data)
                await self._unpack(unpacking, intake, b"", is_end=True)
                file = unpacking.describe()
                if file.file_hash != expected_hash:
                    raise InvalidFormat(
                        f"NAR file {file_name} has the SHA-256 {nix32.encode(file.file_hash)}: its name must say that"
                    )
                numbers = await intake.finish()
            finally:
                await intake.close()
            nar_hash = unpacking.nar_hash
            recipe = await self._workers.run(partial(_render_recipe, numbers, unpacking.store_hashes))
            result = await self._nars.register_one(
                cache, NarBody(nar_hash=render_sha256(nar_hash), nar_size=unpacking.nar_size, recipe=recipe)
            )
            if result.state != "stored":
                raise Conflict(
                    f"NAR file {file_name}: some of its chunks were removed or found damaged while it was uploaded; "
                    "upload it again"
                )
            now = self._clock()

            def add(connection: Connection) -> None:
                get_cache(connection, cache.name)
                put_upload(connection, cache, file, nar_hash, now=now, token_id=token_id)

            await self._database.write(add)

    async def _unpack(self, unpacking: "_Unpacking", intake: "_Intake", data: bytes, *, is_end: bool = False) -> None:
        stretches = unpacking.end() if is_end else unpacking.feed(data)
        async with self._at_work:
            while True:
                stretch = await self._workers.run(partial(next, stretches, None))
                if stretch is None:
                    return
                await intake.take(stretch)


@dataclass(frozen=True, slots=True)
class _Chunk:
    identity: bytes
    raw: bytes
    positions: tuple[int, ...]


class _Unpacking:
    """From the file's bytes to identified chunks. Runs in worker threads, one at a time."""

    def __init__(self, file_name: str, store_dir: StoreDir, *, max_nar_bytes: int) -> None:
        self._file_name = file_name
        self._max_nar_bytes = max_nar_bytes
        self._decompressor: Decompressor | None = None
        self._compression = ""
        self._begin = b""
        self._file_hasher = hashlib.sha256()
        self._file_size = 0
        self._nar_hasher = hashlib.sha256()
        self._crc32 = 0
        self._reader = NarReader(max_nar_bytes=max_nar_bytes)
        self._chunker = Chunker(store_dir)
        self._interned: dict[bytes, bytes] = {}
        self.store_hashes: list[bytes] = []
        """What stands at the chunks' positions, in order."""

    @property
    def nar_hash(self) -> bytes:
        return self._nar_hasher.digest()

    @property
    def nar_size(self) -> int:
        return self._reader.fed_bytes

    def describe(self) -> UploadedFile:
        return UploadedFile(
            self._file_name, self._compression, self._file_hasher.digest(), self._file_size, self._crc32
        )

    def feed(self, data: bytes) -> Iterator[list[_Chunk]]:
        """The chunks that are known now, in stretches of bounded size: a few bytes may decode to very many."""
        self._file_hasher.update(data)
        self._file_size += len(data)
        if self._decompressor is None:
            self._begin += data
            if len(self._begin) < MAGIC_BYTES:
                return
            data = self._begin
        yield from self._decode(data)

    def end(self) -> Iterator[list[_Chunk]]:
        """The last chunks, after all checks that can be made here."""
        if self._decompressor is None:
            yield from self._decode(self._begin)
        if self._decompressor is not None:
            self._decompressor.finish()
        self._reader.finish()
        yield self._identify(self._chunker.finish())

    def _decode(self, data: bytes) -> Iterator[list[_Chunk]]:
        if self._decompressor is None:
            compression = find_compression(self._file_name, data[:MAGIC_BYTES])
            self._compression = compression.value
            self._decompressor = Decompressor(compression, max_bytes=self._max_nar_bytes)
        stretch: list[_Chunk] = []
        read_bytes = 0
        for piece in self._decompressor.feed(data):
            self._nar_hasher.update(piece)
            if self._compression == Compression.GZIP.value:
                self._crc32 = zlib.crc32(piece, self._crc32)
            self._reader.feed(piece)
            stretch.extend(self._identify(self._chunker.feed(piece)))
            read_bytes += len(piece)
            if read_bytes >= _STRETCH_BYTES:
                yield stretch
                stretch, read_bytes = [], 0
        yield stretch

    def _identify(self, cuts: Sequence[CutChunk]) -> list[_Chunk]:
        chunks: list[_Chunk] = []
        for cut in cuts:
            self.store_hashes.extend(self._interned.setdefault(found, found) for found in cut.hashes)
            # Each takes a byte of the recipe or more, and each distinct one its letters besides.
            if len(self.store_hashes) + STORE_HASH_BYTES * len(self._interned) > MAX_RECIPE_BYTES:
                raise TooLarge(
                    f"NAR file {self._file_name} has over {len(self.store_hashes)} store hashes in it, of which "
                    f"{len(self._interned)} differ: too many for a recipe of {MAX_RECIPE_BYTES} bytes"
                )
            chunks.append(_Chunk(chunk_identity(cut.raw, cut.positions), cut.raw, cut.positions))
        return chunks


class _Intake:
    """Takes the chunks of one NAR: known ones by their number, new ones as frames in packs."""

    def __init__(
        self,
        cache: CacheRow,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        clock: Callable[[], int],
        *,
        level: int,
    ) -> None:
        self._cache = cache
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._clock = clock
        self._level = level
        self._order: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._being_made: set[bytes] = set()
        self._batches: deque[tuple[list[_Chunk], asyncio.Task[list[Frame]]]] = deque()
        self._pack = PackWriter(blobs)
        self._pack_places = 0

    async def take(self, chunks: Sequence[_Chunk]) -> None:
        """Take the next chunks, and wait while enough are being compressed."""
        self._order.extend(chunk.identity for chunk in chunks)
        new = {
            chunk.identity: chunk
            for chunk in chunks
            if chunk.identity not in self._numbers and chunk.identity not in self._being_made
        }
        if not new:
            return
        found = await self._database.read(partial(find_numbers, domain_id=self._cache.domain_id, identities=list(new)))
        self._numbers |= found
        for batch in _batches([chunk for identity, chunk in new.items() if identity not in found]):
            self._being_made.update(chunk.identity for chunk in batch)
            frames = asyncio.create_task(self._workers.run(partial(_make_frames, batch, self._level)))
            self._batches.append((batch, frames))
            if len(self._batches) == _BATCHES_AT_ONCE:
                await self._write_one()

    async def finish(self) -> list[int]:
        """Store what is left; the numbers of the chunks, in order."""
        while self._batches:
            await self._write_one()
        if self._pack.entries:
            await self._publish()
        return [self._numbers[identity] for identity in self._order]

    async def close(self) -> None:
        """Drop what was not stored."""
        for _, frames in self._batches:
            frames.cancel()
        try:
            await asyncio.gather(*(frames for _, frames in self._batches), return_exceptions=True)
        finally:
            await self._workers.run_always(self._pack.abort)

    async def _write_one(self) -> None:
        batch, task = self._batches[0]
        frames = await task
        self._batches.popleft()
        entries = [
            PackEntry(
                chunk.identity,
                len(frame.data),
                len(chunk.raw),
                Places(chunk.positions, frame.patch_offsets, is_split=frame.is_split),
            )
            for chunk, frame in zip(batch, frames, strict=True)
        ]
        await self._workers.run(partial(self._pack.write, entries, frames))
        self._pack_places += sum(len(chunk.positions) for chunk in batch)
        if (
            self._pack.size_bytes >= PACK_BYTES
            or len(self._pack.entries) >= MAX_PACK_ENTRIES // 2
            or self._pack_places >= _MAX_PACK_PLACES
        ):
            await self._publish()

    async def _publish(self) -> None:
        await check_room(self._database, self._cache)  # of a file that fills more than one pack
        added = await publish_pack(
            self._pack, self._cache, database=self._database, workers=self._workers, clock=self._clock
        )
        identities = [entry.identity for entry in self._pack.entries]
        self._numbers |= {identity: added.numbers[identity] for identity in identities}
        self._being_made.difference_update(identities)
        self._pack = PackWriter(self._blobs)
        self._pack_places = 0


async def _gather(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces."""
    buffer = bytearray()
    async for piece in body:
        buffer += piece
        if len(buffer) >= _FED_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _make_frames(chunks: Sequence[_Chunk], level: int) -> list[Frame]:
    return [make_frame(chunk.raw, chunk.positions, level=level) for chunk in chunks]


def _render_recipe(numbers: Sequence[int], store_hashes: Sequence[bytes]) -> bytes:
    return render_recipe(make_recipe(numbers, store_hashes))


def _batches(chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
    batch: list[_Chunk] = []
    batch_bytes = 0
    for chunk in chunks:
        batch.append(chunk)
        batch_bytes += len(chunk.raw)
        if batch_bytes >= _FRAMES_AT_ONCE_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
