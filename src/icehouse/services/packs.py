"""Receiving a pack: frames are proved while they arrive, and those that were unknown become a pack of ours."""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from icehouse.api.publish import ChunksMissingAnswer, ChunksMissingRequest, PackAnswer
from icehouse.db.caches import CacheRow
from icehouse.db.chunks import find_numbers
from icehouse.db.engine import Database
from icehouse.errors import InvalidFormat, TooLarge
from icehouse.rules.chunks import IDENTITY_BYTES
from icehouse.rules.frames import Frame, prove_frame
from icehouse.rules.packs import MAX_INDEX_BYTES, PackEntry, parse_index
from icehouse.services.pack_writing import PackWriter, publish_pack
from icehouse.services.quotas import check_room
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore

MAX_IDENTITIES: Final = 65_536
"""Identities of one question."""

_LENGTH: Final = struct.Struct("<I")
_BATCH_BYTES: Final = 2 * 1024 * 1024  # frames that one thread proves at a time
_BATCH_RAW_BYTES: Final = 16 * 1024 * 1024  # the same decoded, since frames may be a thousandth of their chunks
_BATCHES_AT_ONCE: Final = 3  # of one upload: enough to keep two processors busy


class PackReceiver:
    """Answers which chunks are missing, and takes them."""

    def __init__(
        self, database: Database, blobs: BlobStore, workers: Workers, recent: RecentChunks, clock: Callable[[], int]
    ) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._recent = recent
        self._clock = clock

    async def find_missing_chunks(self, cache: CacheRow, request: ChunksMissingRequest) -> ChunksMissingAnswer:
        """Which of the identities the cache's domain has. A pure read.

        Raises:
            InvalidFormat: the identities are no multiple of 32 bytes.
            TooLarge: more than `MAX_IDENTITIES`.
        """
        count, rest = divmod(len(request.identities), IDENTITY_BYTES)
        if rest:
            raise InvalidFormat(f"identities: {len(request.identities)} bytes are no multiple of {IDENTITY_BYTES}")
        if count > MAX_IDENTITIES:
            raise TooLarge(f"{count} identities; at most {MAX_IDENTITIES} fit one request")
        data = request.identities
        identities = [data[at : at + IDENTITY_BYTES] for at in range(0, len(data), IDENTITY_BYTES)]
        found = await self._database.read(partial(find_numbers, domain_id=cache.domain_id, identities=set(identities)))
        known = bytearray((count + 7) // 8)
        numbers: list[int] = []
        for index, identity in enumerate(identities):
            number = found.get(identity)
            if number is not None:
                known[index >> 3] |= 1 << (index & 7)
                numbers.append(number)
        return ChunksMissingAnswer(bytes(known), numbers)

    async def receive_pack(self, cache: CacheRow, body: AsyncIterator[bytes]) -> PackAnswer:
        """Take an upload: the index's length (u32le), the index, then its frames back to back.

        Every frame that was not known is proved; those become one durable pack, and then rows. A repeated upload finds
        everything known and stores nothing. Whatever *body* raises passes, and leaves nothing.

        Raises:
            InvalidFormat: the index is broken, a frame fails its proof, or the body is shorter or longer than said.
            TooLarge: a limit of `rules.packs` is exceeded.
            OverQuota: the cache has reached its limit, before anything is read; or the disk is full.
            NotFound: the cache was deleted meanwhile.
        """
        await check_room(self._database, cache)
        reader = _BodyReader(body)
        index_bytes = _LENGTH.unpack(await reader.take(_LENGTH.size))[0]
        if index_bytes > MAX_INDEX_BYTES:
            raise TooLarge(f"an index of {index_bytes} bytes; at most {MAX_INDEX_BYTES} are accepted")
        index = await reader.take(index_bytes)
        entries = await self._workers.run(partial(parse_index, index))
        identities = [entry.identity for entry in entries]
        known = await self._database.read(partial(find_numbers, domain_id=cache.domain_id, identities=identities))
        upload = _Upload(self._blobs, self._recent)
        try:
            await self._prove_and_write(reader, entries, known, upload)
            await reader.expect_end()
            if not upload.pack.entries:
                return PackAnswer([known[identity] for identity in identities], 0)
            added = await publish_pack(
                upload.pack, cache, database=self._database, workers=self._workers, clock=self._clock
            )
        finally:
            await self._workers.run_always(upload.pack.abort)
        numbers = known | added.numbers
        return PackAnswer([numbers[identity] for identity in identities], upload.pack.size_bytes if added.is_new else 0)

    async def _prove_and_write(
        self, reader: "_BodyReader", entries: Sequence[PackEntry], known: Mapping[bytes, int], upload: "_Upload"
    ) -> None:
        """Read all frames; prove unknown ones in several threads, and write them in their order."""
        proofs: deque[asyncio.Task[list[Frame]]] = deque()
        batches: deque[list[PackEntry]] = deque()
        try:
            for batch in _batches(entries):
                frames = [await reader.take(entry.stored_bytes) for entry in batch]
                unknown = [
                    (entry, data) for entry, data in zip(batch, frames, strict=True) if entry.identity not in known
                ]
                if unknown:
                    proofs.append(asyncio.create_task(self._workers.run(partial(upload.prove, unknown))))
                    batches.append([entry for entry, _ in unknown])
                while proofs and (len(proofs) == _BATCHES_AT_ONCE or entries[-1] is batch[-1]):
                    await self._workers.run(partial(upload.pack.write, batches.popleft(), await proofs.popleft()))
        finally:
            for proof in proofs:
                proof.cancel()
            await asyncio.gather(*proofs, return_exceptions=True)


class _Upload:
    """The pack in the making, and the proof of its frames. `prove` may run in several threads at a time."""

    def __init__(self, blobs: BlobStore, recent: RecentChunks) -> None:
        self.pack = PackWriter(blobs)
        self._recent = recent

    def prove(self, batch: Sequence[tuple[PackEntry, bytes]]) -> list[Frame]:
        """Check frames, and keep their chunks for the NARs that follow."""
        frames: list[Frame] = []
        for entry, data in batch:
            places = entry.places
            frame = Frame(data, places.patch_offsets, is_split=places.is_split)
            raw = prove_frame(frame, entry.raw_bytes, places.positions, entry.identity)
            self._recent.put(entry.identity, raw, data)
            frames.append(frame)
        return frames


class _BodyReader:
    """Takes exact numbers of bytes from a request's body."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = aiter(body)
        self._rest: memoryview[int] = memoryview(b"")
        """Of the last piece, what was not taken yet."""
        self._offset = 0

    async def take(self, size: int) -> bytes:
        """The next *size* bytes, which the caller has bounded."""
        taken: list[memoryview[int]] = []
        lacking = size
        while lacking:
            if not self._rest and not await self._read_on():
                ended = self._offset + size - lacking
                raise InvalidFormat(f"the body ends after {ended} bytes, where {lacking} more were announced")
            part, self._rest = self._rest[:lacking], self._rest[lacking:]
            taken.append(part)
            lacking -= len(part)
        self._offset += size
        return b"".join(taken)

    async def expect_end(self) -> None:
        """Check that nothing follows."""
        while not self._rest:
            if not await self._read_on():
                return
        raise InvalidFormat(f"the body goes on after the {self._offset} bytes that its index announces")

    async def _read_on(self) -> bool:
        """Have the next piece as the rest; false: there is none."""
        piece = await anext(self._body, None)
        if piece is not None:
            self._rest = memoryview(piece)
        return piece is not None


def _batches(entries: Sequence[PackEntry]) -> Iterator[list[PackEntry]]:
    batch: list[PackEntry] = []
    size = raw_size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.stored_bytes
        raw_size += entry.raw_bytes
        if size >= _BATCH_BYTES or raw_size >= _BATCH_RAW_BYTES:
            yield batch
            batch, size, raw_size = [], 0, 0
    if batch:
        yield batch
