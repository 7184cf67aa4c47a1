"""Taking and giving build logs. A log is one object, the text as zstd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError
from blake3 import blake3
from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.logs import LogRow, find_log, put_log
from icehouse.errors import Corrupt, NotFound
from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.store_paths import StorePath
from icehouse.rules.collection import check_is_fresh
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobKey, BlobStore, BlobWriter

MAX_LOG_BYTES: Final = 256 * 1024 * 1024
"""Of the text of one log."""

_UPLOADS_AT_ONCE: Final = 4  # Each takes some 6 MiB: the compressor, and a batch in several copies.
_BATCH_BYTES: Final = 1024 * 1024  # of the body, that one thread takes at a time
_BLOCK_BYTES: Final = 1024 * 1024  # of one piece of an answer
_READ_BYTES: Final = 128 * 1024  # of the object, that are decoded at a time
_OPTIONS: Final[dict[int, int]] = {CompressionParameter.compression_level: 3, CompressionParameter.checksum_flag: 1}


def log_key(domain_id: int, name: bytes) -> BlobKey:
    """Where a log is kept."""
    text = name.hex()
    return BlobKey(f"logs/{domain_id}/{text[:2]}/{text}")


class Logs:
    """The build logs of all caches. Rights are checked by who calls (`Access.enter`). Belongs to one event loop."""

    def __init__(self, database: Database, blobs: BlobStore, workers: Workers, clock: Callable[[], int]) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._clock = clock
        # Who comes when all are taken waits: stock Nix does not send a log again.
        self._slots = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def receive_log(
        self,
        cache: CacheRow,
        derivation: StorePath,
        body: AsyncIterator[bytes],
        *,
        compression: Compression = Compression.NONE,
        token_id: int | None,
    ) -> None:
        """Keep the log of a derivation, in place of an earlier one. Repeating it changes nothing.

        *body* is the text, compressed as said. Whatever it raises passes, and leaves nothing. The object that is
        replaced becomes a stray, since other caches of the domain may have the same log.

        Raises:
            TooLarge: the text has more than `MAX_LOG_BYTES`.
            InvalidFormat: the body cannot be decoded.
            OverQuota: the disk is full.
            NotFound: the cache was deleted meanwhile.
            Unavailable: half a day lies between the object and its row.
        """
        async with self._slots:
            upload = _Upload(self._blobs, compression)
            try:
                batch = bytearray()
                async for piece in body:
                    batch += piece
                    if len(batch) >= _BATCH_BYTES:
                        await self._workers.run(partial(upload.append, bytes(batch)))
                        batch.clear()
                made_at = self._clock()
                log = await self._workers.run(partial(upload.finish, bytes(batch), cache.domain_id))
            finally:
                await self._workers.run_always(upload.abort)

        def keep(connection: Connection) -> None:
            now = self._clock()
            check_is_fresh(made_at, now)
            get_cache(connection, cache.name)
            put_log(connection, cache.id, derivation.base_name, log, now=now, token_id=token_id)

        await self._database.write(keep)

    async def has_log(self, cache: CacheRow, deriver: str | None) -> bool:
        """Whether there is a log of the derivation with this base name."""
        if deriver is None:
            return False
        return await self._database.read(partial(find_log, cache_id=cache.id, derivation=deriver)) is not None

    async def open_log(self, cache: CacheRow, derivation: StorePath) -> StoredLog:
        """The log of a derivation.

        Raises:
            NotFound: the cache has none.
        """
        row = await self._database.read(partial(find_log, cache_id=cache.id, derivation=derivation.base_name))
        if row is None:
            raise NotFound(f"there is no log of {derivation} in this cache")
        return StoredLog(self._blobs, log_key(cache.domain_id, row.blob_name), row)


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A log that can be sent in either form."""

    _blobs: BlobStore
    _key: BlobKey
    _row: LogRow

    @property
    def name(self) -> str:
        """Names the bytes of both forms."""
        return self._row.blob_name.hex()

    def as_zstd(self) -> ZstdLog:
        """The log as it is stored."""
        return ZstdLog(self._blobs, self._key, self._row.stored_bytes)

    def as_text(self) -> TextLog:
        """The log decoded."""
        return TextLog(self._blobs, self._key, self._row)


@dataclass(frozen=True, slots=True)
class ZstdLog:
    """A log's object as a file."""

    _blobs: BlobStore
    _key: BlobKey
    file_size: int

    async def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        """The object's bytes from *start* to before *stop*, in pieces of about 1 MiB.

        Raises:
            NotFound: the object is gone.
            Corrupt: it is shorter than its row says.
            Unavailable: the backend failed.
        """
        for position in range(start, stop, _BLOCK_BYTES):
            size = min(_BLOCK_BYTES, stop - position)
            yield await asyncio.to_thread(_read, self._blobs, self._key, position, size)


@dataclass(frozen=True, slots=True)
class TextLog:
    """A log's text as a file. It is decoded from its beginning each time, wherever the wanted part begins."""

    _blobs: BlobStore
    _key: BlobKey
    _row: LogRow

    @property
    def file_size(self) -> int:
        """Bytes of the text."""
        return self._row.log_bytes

    async def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        """The text's bytes from *start* to before *stop*, in pieces of up to 1 MiB.

        Raises:
            NotFound: the object is gone.
            Corrupt: it is damaged, or not what its row says.
            Unavailable: the backend failed.
        """
        decoding = _Decoding(self._blobs, self._key, self._row.stored_bytes)
        position = 0
        while position < stop:
            block = await asyncio.to_thread(decoding.read)
            if not block:
                raise Corrupt(f"log {self._key} has {position} bytes of text: expected {self._row.log_bytes}")
            wanted = block[max(0, start - position) : stop - position]
            position += len(block)
            if wanted:
                yield wanted
        if stop == self._row.log_bytes and await asyncio.to_thread(decoding.read):
            raise Corrupt(f"log {self._key} has more text than {self._row.log_bytes} bytes")


class _Upload:
    """The object in the making. Its methods run in worker threads, one at a time."""

    def __init__(self, blobs: BlobStore, compression: Compression) -> None:
        self._blobs = blobs
        self._decompressor = Decompressor(compression, max_bytes=MAX_LOG_BYTES)
        self._writer: BlobWriter | None = None
        self._compressor = ZstdCompressor(options=_OPTIONS)
        self._hasher = blake3()
        self._log_bytes = 0
        self._stored_bytes = 0

    def append(self, body: bytes) -> None:
        """Decode, compress and write more of the body."""
        for text in self._decompressor.feed(body):
            self._log_bytes += len(text)
            self._write(self._compressor.compress(text))

    def finish(self, body: bytes, domain_id: int) -> LogRow:
        """Write the rest and make the object durable; give its row."""
        self.append(body)
        self._decompressor.finish()
        writer = self._write(self._compressor.flush())
        name = self._hasher.digest()
        writer.commit(log_key(domain_id, name))
        return LogRow(name, self._stored_bytes, self._log_bytes)

    def abort(self) -> None:
        """Drop what was written, unless it is durable."""
        if self._writer is not None:
            self._writer.abort()

    def _write(self, data: bytes) -> BlobWriter:
        if self._writer is None:
            self._writer = self._blobs.create()
        self._hasher.update(data)
        self._writer.write(data)
        self._stored_bytes += len(data)
        return self._writer


class _Decoding:
    """Reads the text of one object from its beginning. Used by one thread at a time."""

    def __init__(self, blobs: BlobStore, key: BlobKey, stored_bytes: int) -> None:
        self._blobs = blobs
        self._key = key
        self._stored_bytes = stored_bytes
        self._offset = 0
        self._decoder = ZstdDecompressor()

    def read(self) -> bytes:
        """The next up to 1 MiB of text; nothing at the end."""
        pieces: list[bytes] = []
        size = 0
        while size < _BLOCK_BYTES and not self._decoder.eof:
            data = b""
            if self._decoder.needs_input:
                data = self._read_stored()
                if not data:
                    break
            try:
                piece = self._decoder.decompress(data, _BLOCK_BYTES - size)
            except ZstdError as exc:
                raise Corrupt(f"log {self._key}: {exc}") from exc
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def _read_stored(self) -> bytes:
        size = min(_READ_BYTES, self._stored_bytes - self._offset)
        data = bytes(_read(self._blobs, self._key, self._offset, size))
        self._offset += size
        return data


def _read(blobs: BlobStore, key: BlobKey, offset: int, size: int) -> bytearray:
    data = bytearray(size)
    blobs.read_into(key, offset, memoryview(data))
    return data
