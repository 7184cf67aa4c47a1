"""NARs kept as chunks: the file that is served, read back from packs with its store hashes written in.

Serving is copying: frames go out as they are stored, and only the 32 bytes of each patch are changed on the way.
"""

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from struct import Struct
from typing import Final, Protocol, TypeVar

from icehouse.errors import Corrupt, InvalidFormat
from icehouse.rules.chunks import STORE_HASH_BYTES
from icehouse.rules.packs import Places, parse_places
from icehouse.rules.recipes import Recipe
from icehouse.storage.blobs import BlobKey, BlobStore, FilePart, Piece

T = TypeVar("T")

BLOCK_BYTES: Final = 1024 * 1024
"""Bytes of one piece of an answer; a trial found smaller ones slower and larger ones no faster."""

PART_BYTES: Final = 4 * 1024 * 1024
"""Of one part of a file that needs no patch: it takes no memory."""

_BARE_BYTES: Final = 128 * 1024
"""What is shorter is copied: another call of the kernel costs as much as to copy this."""

_EXTENT_BYTES: Final = 200  # of memory, as the next two: for an extent or a stretch, a patch, a store hash
_PATCH_BYTES: Final = 16
_HASH_BYTES: Final = 80

_write_hash: Final = Struct(f"{STORE_HASH_BYTES}s").pack_into
"""Takes a third of the time of an assignment to a slice."""

READ_AHEAD_BLOCKS: Final = 4
"""How many blocks of one answer are read at once while they do not come from memory."""


class StoredChunk(Protocol):
    """What this module needs to know of a chunk; a database row has it."""

    @property
    def pack_name(self) -> bytes:
        """Names the pack within the domain."""
        ...

    @property
    def pack_offset(self) -> int:
        """Where the frame begins."""
        ...

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frame."""
        ...

    @property
    def raw_bytes(self) -> int:
        """Bytes of the chunk."""
        ...

    @property
    def places(self) -> bytes | None:
        """Where store hashes go, as in a pack's index."""
        ...


def pack_key(domain_id: int, name: bytes) -> BlobKey:
    """Where a pack is kept."""
    text = name.hex()
    return BlobKey(f"packs/{domain_id}/{text[:2]}/{text}")


def places_of(chunk: StoredChunk) -> Places:
    """The chunk's places, parsed.

    Raises:
        Corrupt: the row is damaged.
    """
    try:
        return parse_places(chunk.places, raw_bytes=chunk.raw_bytes, stored_bytes=chunk.stored_bytes)
    except InvalidFormat as exc:
        raise Corrupt(f"the row of a chunk in pack {chunk.pack_name.hex()}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class _Extent:
    """Frames that stand together in a pack and in the file."""

    key: BlobKey
    pack_offset: int
    file_offset: int
    size: int


@dataclass(slots=True)
class _Stretch:
    """A stretch of the file, from `start` to before `end`."""

    start: int
    end: int
    extent: _Extent | None = None
    """Of the pack where the stretch stands as it is served, and is long."""
    kept: bytearray | None = None
    """What is served of another one, read and patched before."""


class NarFile:
    """The file of one NAR: which bytes of which packs, and what is written over them.

    What it gives stays the same, and any task may read it.
    Memory: some hundred bytes for each extent, 16 for each patch, what its recipe takes, and the copies that it keeps.
    """

    def __init__(self, blobs: BlobStore, domain_id: int, recipe: Recipe, chunks: Mapping[int, StoredChunk]) -> None:
        """Lay the file out. *chunks* has a row for each number in *recipe*.

        Raises:
            Corrupt: a row is damaged, or the recipe and the rows disagree.
        """
        self._blobs = blobs
        self._kept_bytes = 0
        """Of all that may be kept of the stretches that are copied."""
        self._hashes = recipe.hashes
        self._extents: list[_Extent] = []
        self._patch_offsets = array("Q")  # in the file, ascending
        self._patches = recipe.patches
        self.file_size = 0
        keys: dict[bytes, BlobKey] = {}
        for run in recipe.runs:
            for number in range(run.first, run.first + run.count):
                chunk = chunks[number]
                key = keys.get(chunk.pack_name) or keys.setdefault(
                    chunk.pack_name, pack_key(domain_id, chunk.pack_name)
                )
                self._append(chunk, key)
                if len(self._patch_offsets) > len(self._patches):  # before a repeated chunk fills the memory
                    raise Corrupt(f"a recipe with {len(self._patches)} patches for more places")
        self._extent_starts = [extent.file_offset for extent in self._extents]
        if len(self._patch_offsets) != len(self._patches):
            raise Corrupt(f"a recipe with {len(self._patches)} patches for {len(self._patch_offsets)} places")

    def _append(self, chunk: StoredChunk, key: BlobKey) -> None:
        if chunk.places is not None:
            start = self.file_size
            self._patch_offsets.extend(start + offset for offset in places_of(chunk).patch_offsets)
        last = self._extents[-1] if self._extents else None
        if last is not None and last.key == key and last.pack_offset + last.size == chunk.pack_offset:
            self._extents[-1] = _Extent(key, last.pack_offset, last.file_offset, last.size + chunk.stored_bytes)
        else:
            self._extents.append(_Extent(key, chunk.pack_offset, self.file_size, chunk.stored_bytes))
        self.file_size += chunk.stored_bytes

    def keep_copies(self, *, max_bytes: int) -> None:
        """Have `parts` keep what it copies and patches, for whoever asks next, if that is no more in all.

        Blocks, where there are many patches.
        """
        copied = sum(stretch.end - stretch.start for stretch in self._stretches if stretch.extent is None)
        self._kept_bytes = copied if copied <= max_bytes else 0

    @property
    def layout_bytes(self) -> int:
        """The most memory that it takes, about."""
        extents = _EXTENT_BYTES * (len(self._extents) + len(self._stretches))
        return extents + _PATCH_BYTES * len(self._patches) + _HASH_BYTES * len(self._hashes) + self._kept_bytes

    def blocks(self, start: int, stop: int) -> AsyncIterator[bytearray]:
        """The bytes of the file from *start* to before *stop*, in pieces of about 1 MiB that the caller owns.

        What is in memory is read at once; what is not, in threads, some blocks ahead.

        Raises:
            NotFound: a pack is gone.
            Corrupt: a pack is shorter than its rows say.
            Unavailable: the backend failed.
        """
        return self._parts(start, stop, self._read_warm)

    def parts(self, start: int, stop: int) -> AsyncIterator[bytearray | list[Piece]]:
        """As `blocks`; but what is in memory comes in lists, and where it needs no patch as a part of an open file.

        What is in them may be kept, and is not to be changed.
        """
        return self._parts(start, stop, self._find_or_read_warm)

    async def _parts(
        self, start: int, stop: int, take_warm: Callable[[int, int], tuple[int, T | None]]
    ) -> AsyncIterator[T | bytearray]:
        """The bytes from *start* to before *stop*.

        *take_warm* gets them too; it gives where the first piece ends, and that piece if it is in memory.
        """
        position = start
        ahead: deque[T | asyncio.Task[bytearray]] = deque()
        try:
            while position < stop or ahead:
                while position < stop and len(ahead) < READ_AHEAD_BLOCKS:
                    end, warm = take_warm(position, stop)
                    if warm is None:
                        ahead.append(asyncio.create_task(asyncio.to_thread(self.read, position, end)))
                    else:
                        ahead.append(warm)
                    position = end
                    if warm is not None and len(ahead) == 1:
                        break  # it can go out at once
                first = ahead.popleft()
                yield await first if isinstance(first, asyncio.Task) else first
        finally:
            for waiting in ahead:
                if isinstance(waiting, asyncio.Task):
                    waiting.cancel()

    def read_whole_if_warm(self) -> bytearray | None:
        """The whole file, if it is in memory. For less than `BLOCK_BYTES`; the errors are those of `blocks`."""
        return self._read_warm(0, self.file_size)[1]

    def read(self, start: int, stop: int) -> bytearray:
        """The bytes of the file from *start* to before *stop*; blocks. The errors are those of `blocks`."""
        block = bytearray(stop - start)
        with memoryview(block) as view:
            for key, offset, piece in self._pieces(start, stop, view):
                self._blobs.read_into(key, offset, piece)
        self._patch(block, start, stop)
        return block

    def _read_warm(self, start: int, stop: int) -> tuple[int, bytearray | None]:
        """A block that begins at *start*: its end, and its bytes if they are in memory."""
        end = min(start + BLOCK_BYTES, stop)
        block = bytearray(end - start)
        with memoryview(block) as view:
            for key, offset, piece in self._pieces(start, end, view):
                if not self._blobs.read_warm(key, offset, piece):
                    return end, None
        self._patch(block, start, end)
        return end, block

    def _find_or_read_warm(self, start: int, stop: int) -> tuple[int, list[Piece] | None]:
        """As much from *start* on as is in memory and is sent at once: its end, and it if there is any.

        Without any, the end is that of a block to be read.
        """
        stop = min(start + PART_BYTES, stop)
        pieces: list[Piece] = []
        index = bisect_right(self._stretch_ends, start)
        end, copied = start, 0
        while (position := end) < stop and copied < BLOCK_BYTES:
            stretch = self._stretches[index]
            end, piece = self._take_warm(stretch, position, min(stretch.end, stop))
            if piece is None:
                return (position, pieces) if pieces else (min(start + BLOCK_BYTES, stop), None)
            pieces.append(piece)
            if not isinstance(piece, FilePart):
                copied += len(piece)
            if end == stretch.end:
                index += 1
        return end, pieces

    def _take_warm(self, stretch: _Stretch, start: int, end: int) -> tuple[int, Piece | None]:
        """As `_read_warm`, within a stretch; what is in a file as it is needed stays there."""
        if stretch.extent is not None:
            offset = stretch.extent.pack_offset + start - stretch.extent.file_offset
            part = self._blobs.find_warm(stretch.extent.key, offset, end - start)
            return (end, part) if part is not None else self._read_warm(start, end)
        is_whole = start == stretch.start and end == stretch.end
        if is_whole and stretch.kept is not None:
            return end, stretch.kept
        end, block = self._read_warm(start, end)
        if is_whole and block is not None and end == stretch.end and self._kept_bytes:
            stretch.kept = block
        return end, block

    @cached_property
    def _stretches(self) -> list[_Stretch]:
        """The whole file, in order."""
        found: list[_Stretch] = []
        offsets = self._patch_offsets
        starts = chain((0,), (offset + STORE_HASH_BYTES for offset in offsets))
        position = 0
        for start, end in zip(starts, chain(offsets, (self.file_size,)), strict=True):
            if end - start >= _BARE_BYTES:
                for bare in self._split(start, end):
                    if bare.start > position:
                        found.append(_Stretch(position, bare.start))
                    found.append(bare)
                    position = bare.end
        if position < self.file_size:
            found.append(_Stretch(position, self.file_size))
        return found

    @cached_property
    def _stretch_ends(self) -> list[int]:
        return [stretch.end for stretch in self._stretches]

    def _split(self, start: int, end: int) -> Iterator[_Stretch]:
        """A stretch without patches as it lies in extents, without what is short."""
        for index in range(bisect_right(self._extent_starts, start) - 1, bisect_left(self._extent_starts, end)):
            extent = self._extents[index]
            first, last = max(start, extent.file_offset), min(end, extent.file_offset + extent.size)
            if last - first >= _BARE_BYTES:
                yield _Stretch(first, last, extent)

    def _pieces(self, start: int, stop: int, view: memoryview) -> list[tuple[BlobKey, int, memoryview]]:
        """Where the bytes come from, and where in *view* they go."""
        pieces: list[tuple[BlobKey, int, memoryview]] = []
        index = bisect_right(self._extent_starts, start) - 1
        position = start
        while position < stop:
            extent = self._extents[index]
            skipped = position - extent.file_offset
            end = min(stop, extent.file_offset + extent.size)
            pieces.append((extent.key, extent.pack_offset + skipped, view[position - start : end - start]))
            position = end
            index += 1
        return pieces

    def _patch(self, block: bytearray, start: int, stop: int) -> None:
        offsets = self._patch_offsets
        first = bisect_left(offsets, max(0, start - STORE_HASH_BYTES + 1))
        end = bisect_left(offsets, stop, first)
        if first == end:
            return
        hashes = self._hashes
        for border in {first, end - 1}:  # each of the two may begin before the block or end after it
            at = offsets[border] - start
            first_byte, end_byte = max(0, at), min(stop - start, at + STORE_HASH_BYTES)
            block[first_byte:end_byte] = hashes[self._patches[border]][first_byte - at : end_byte - at]
        for offset, index in zip(offsets[first + 1 : end - 1], self._patches[first + 1 : end - 1], strict=True):
            _write_hash(block, offset - start, hashes[index])
