"""The raw bytes of NARs kept as chunks: any slice of them, decoded from the chunks that it touches and no others."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping

from icehouse.errors import Corrupt, InvalidFormat
from icehouse.nix.nar_read import NarEvent, NarReader
from icehouse.rules.frames import Frame, decode_frame, fill_in_hashes
from icehouse.rules.packs import parse_places
from icehouse.rules.recipes import Recipe
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.nars import BLOCK_BYTES, READ_AHEAD_BLOCKS, StoredChunk, pack_key, places_of


class NarContents:
    """One NAR, uncompressed, at any offset. Immutable; any thread or task may read it.

    Memory: some 40 bytes for each chunk, and what the database says of the places of its store hashes.
    """

    def __init__(self, blobs: BlobStore, domain_id: int, recipe: Recipe, chunks: Mapping[int, StoredChunk]) -> None:
        """Lay the NAR out. *chunks* has a row for each number in *recipe*.

        Raises:
            Corrupt: a row is damaged, or the recipe and the rows disagree.
        """
        self._blobs = blobs
        self._hashes = recipe.hashes
        self._patches = recipe.patches
        self._keys: list[BlobKey] = []
        # For each chunk in turn; each of the first three has one entry more, for the end of the last one.
        self._starts = array("Q", [0])  # in the NAR
        self._first_patches = array("Q", [0])
        self._places_starts = array("Q", [0])  # in `_places`
        self._places = bytearray()  # the columns of the database, one after another
        self._key_indices = array("I")
        self._pack_offsets = array("Q")
        self._stored_bytes = array("I")
        key_indices: dict[bytes, int] = {}
        for run in recipe.runs:
            for number in range(run.first, run.first + run.count):
                chunk = chunks[number]
                if chunk.pack_name not in key_indices:
                    key_indices[chunk.pack_name] = len(self._keys)
                    self._keys.append(pack_key(domain_id, chunk.pack_name))
                self._append(chunk, key_indices[chunk.pack_name])
        if self._first_patches[-1] != len(self._patches):
            raise Corrupt(f"a recipe with {len(self._patches)} patches for {self._first_patches[-1]} places")

    def _append(self, chunk: StoredChunk, key_index: int) -> None:
        patch_count = 0
        if chunk.places is not None:
            patch_count = len(places_of(chunk).positions)
            if self._first_patches[-1] + patch_count > len(self._patches):  # before repeated chunks fill the memory
                raise Corrupt(f"a recipe with {len(self._patches)} patches for more places")
            self._places += chunk.places
        self._starts.append(self._starts[-1] + chunk.raw_bytes)
        self._first_patches.append(self._first_patches[-1] + patch_count)
        self._places_starts.append(len(self._places))
        self._key_indices.append(key_index)
        self._pack_offsets.append(chunk.pack_offset)
        self._stored_bytes.append(chunk.stored_bytes)

    @property
    def nar_size(self) -> int:
        """Bytes of the NAR."""
        return self._starts[-1]

    @property
    def file_size(self) -> int:
        """The same, for whoever serves it as a file."""
        return self._starts[-1]

    async def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        """The bytes from *start* to before *stop*, in pieces of about 1 MiB or less, decoded in threads, a few ahead.

        Pieces end where chunks end, so that no chunk is decoded twice.

        Raises:
            NotFound: a pack is gone.
            Corrupt: a pack is shorter than its rows say, or a frame is damaged.
            Unavailable: the backend failed.
        """
        position = start
        ahead: deque[asyncio.Task[bytes | bytearray]] = deque()
        try:
            while position < stop or ahead:
                while position < stop and len(ahead) < READ_AHEAD_BLOCKS:
                    end = min(self._block_end(position), stop)
                    ahead.append(asyncio.create_task(asyncio.to_thread(self.read, position, end)))
                    position = end
                yield await ahead.popleft()
        finally:
            for waiting in ahead:
                waiting.cancel()

    def read(self, start: int, stop: int) -> bytes | bytearray:
        """The bytes from *start* to before *stop*; blocks. The errors are those of `blocks`."""
        if start >= stop:
            return b""
        pieces: list[bytes | bytearray] = []
        index = bisect_right(self._starts, start) - 1
        while self._starts[index] < stop:
            raw = self._decode(index)
            chunk_start = self._starts[index]
            if chunk_start < start or chunk_start + len(raw) > stop:
                raw = raw[max(0, start - chunk_start) : stop - chunk_start]
            pieces.append(raw)
            index += 1
            if index == len(self._key_indices):
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def chunk_end(self, position: int) -> int:
        """Where the chunk ends that has the byte at *position*: up to there, reading decodes one chunk."""
        return self._starts[bisect_right(self._starts, position)]

    def _block_end(self, position: int) -> int:
        index = bisect_right(self._starts, position + BLOCK_BYTES) - 1
        return max(self._starts[index], self.chunk_end(position))

    def _decode(self, index: int) -> bytes | bytearray:
        key, offset = self._keys[self._key_indices[index]], self._pack_offsets[index]
        data = bytearray(self._stored_bytes[index])
        self._blobs.read_into(key, offset, memoryview(data))
        raw_bytes = self._starts[index + 1] - self._starts[index]
        column = bytes(self._places[self._places_starts[index] : self._places_starts[index + 1]])
        try:
            places = parse_places(column or None, raw_bytes=raw_bytes, stored_bytes=len(data))
            frame = Frame(bytes(data), places.patch_offsets, is_split=places.is_split)
            raw = decode_frame(frame, raw_bytes)
        except InvalidFormat as exc:
            raise Corrupt(f"the frame at byte {offset} of {key}: {exc}") from exc
        patches = self._patches[self._first_patches[index] : self._first_patches[index + 1]]
        return fill_in_hashes(raw, places.positions, [self._hashes[patch] for patch in patches])


class ContentsSlice:
    """A stretch of a NAR as a file of its own: what a regular file in it contains."""

    def __init__(self, contents: NarContents, start: int, size: int) -> None:
        """The *size* bytes from *start* on, all of which the NAR has."""
        self._contents = contents
        self._start = start
        self.file_size = size

    def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        """The file's bytes from *start* to before *stop*, as `NarContents.blocks` gives them."""
        return self._contents.blocks(self._start + start, self._start + stop)

    def read(self, start: int, stop: int) -> bytes | bytearray:
        """The file's bytes from *start* to before *stop*; blocks."""
        return self._contents.read(self._start + start, self._start + stop)


def read_structure(contents: NarContents) -> Iterator[NarEvent]:
    """What a NAR says of its tree, in order; blocks. Chunks that lie wholly inside a file's contents are not read.

    Of files' contents there is therefore only a part in `RegularData`, or none; all else is complete and checked.

    Raises:
        InvalidFormat: the bytes are not a NAR.
        StorageError: as `NarContents.blocks`.
    """
    reader = NarReader(max_nar_bytes=contents.nar_size)
    position = 0
    while position < contents.nar_size:
        end = contents.chunk_end(position)
        yield from reader.feed(bytes(contents.read(position, end)))
        skipped = min(reader.bytes_to_skip, contents.nar_size - end)
        reader.skip(skipped)
        position = end + skipped
    reader.finish()
