"""NARs under the names with which stock Nix uploaded them, in the compression of that name.

A client remembers what it uploaded for thirty days, and asks for that and not for what the narinfo here says.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Final, cast

from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.uploads import UploadRow, find_upload
from icehouse.errors import Corrupt
from icehouse.nix.compression import Compression, parse_compression
from icehouse.nix.recompress import Compressor, make_compressor
from icehouse.nix.stored import StoredFile, has_stored_form
from icehouse.services.nar_files import NarFiles
from icehouse.storage.nar_contents import NarContents
from icehouse.storage.nars import BLOCK_BYTES, NarFile

_RECOMPRESSED_AT_ONCE: Final = 2


class StoredAlias:
    """The NAR as it is, in a container of the name's compression; any part of it can be read."""

    def __init__(self, contents: NarContents, container: StoredFile) -> None:
        self._contents = contents
        self._container = container
        self.file_size = container.file_size

    async def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        """The bytes from *start* to before *stop*. The errors are those of `NarContents.blocks`."""
        raw: _RawBytes | None = None
        block = bytearray()
        try:
            for piece in self._container.pieces(start, stop):
                if isinstance(piece, bytes):
                    block += piece
                    continue
                if raw is None:
                    raw = _RawBytes(self._contents, piece.start)
                left = piece.stop - piece.start
                while left:
                    taken = await raw.take(min(left, BLOCK_BYTES))
                    left -= len(taken)
                    block += taken
                    if len(block) >= BLOCK_BYTES:
                        yield block
                        block = bytearray()
            if block:
                yield block
        finally:
            if raw is not None:
                await raw.close()


class RecompressedAlias:
    """The NAR compressed again while it is sent. Nobody knows its size, and it is sent from its start only."""

    def __init__(self, contents: NarContents, compression: Compression, turns: asyncio.Semaphore) -> None:
        self._contents = contents
        self._compression = compression
        self._turns = turns

    async def blocks(self) -> AsyncIterator[bytes]:
        """The whole file. The errors are those of `NarContents.blocks`."""
        compressor: Compressor = make_compressor(self._compression)
        async with contextlib.aclosing(_generate(self._contents, 0)) as blocks:
            async for raw in blocks:
                async with self._turns:
                    piece = await asyncio.to_thread(compressor.compress, raw)
                if piece:
                    yield piece
        yield await asyncio.to_thread(compressor.flush)


class Aliases:
    """The uploads of all caches, to be read. Belongs to one event loop."""

    def __init__(self, database: Database, nar_files: NarFiles, *, note_use: Callable[[int], None]) -> None:
        """Join the parts. *note_use* notes that a path, by id, is used now."""
        self._database = database
        self._nar_files = nar_files
        self._note_use = note_use
        # Anyone may ask for these, and they take the threads that read all NARs.
        self._turns = asyncio.Semaphore(_RECOMPRESSED_AT_ONCE)

    async def find(self, cache: CacheRow, file_name: str) -> UploadRow | None:
        """What was uploaded under that name."""
        return await self._database.read(partial(find_upload, cache_id=cache.id, file_name=file_name))

    async def open(self, found: UploadRow) -> NarFile | StoredAlias | RecompressedAlias:
        """The file of an upload. That counts as a use of a path that has it.

        Raises:
            NotFound: its NAR was removed meanwhile.
            Corrupt: its rows disagree.
        """
        if found.path_id is not None:
            self._note_use(found.path_id)
        compression = parse_compression(found.file.compression)
        if compression is Compression.ZSTD:
            return await self._nar_files.open_nar(found.nar_id)
        contents = await self._nar_files.open_contents(found.nar_id)
        if has_stored_form(compression):
            return StoredAlias(contents, StoredFile(compression, found.nar_size, found.file.crc32))
        return RecompressedAlias(contents, compression, self._turns)


def _generate(contents: NarContents, start: int) -> AsyncGenerator[bytes | bytearray]:
    # Its protocol does not say that it is an async generator.
    return cast("AsyncGenerator[bytes | bytearray]", contents.blocks(start, contents.nar_size))


class _RawBytes:
    """The bytes of a NAR from a place on, in pieces of sizes that fit the reader."""

    def __init__(self, contents: NarContents, start: int) -> None:
        self._blocks = _generate(contents, start)
        self._left = memoryview(b"")

    async def take(self, at_most: int) -> memoryview:
        """The next bytes, one at least."""
        while not self._left:
            block = await anext(self._blocks, None)
            if block is None:
                raise Corrupt("a NAR ends before its size")
            self._left = memoryview(block)
        taken, self._left = self._left[:at_most], self._left[at_most:]
        return taken

    async def close(self) -> None:
        await self._blocks.aclose()
