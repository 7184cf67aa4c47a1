"""Reading packs and NARs back, in worker threads: are they still what they were when they came?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from icehouse.db.chunks import ChunkRow
from icehouse.db.nars import NarRow
from icehouse.errors import Corrupt, InvalidFormat, NotFound
from icehouse.nix.debug_info import DebugInfoSign
from icehouse.rules.frames import Frame, decode_frame, fill_in_hashes, prove_frame
from icehouse.rules.packs import (
    MAX_INDEX_BYTES,
    MAX_PACK_BYTES,
    TRAILER_BYTES,
    PackEntry,
    parse_pack_end,
    parse_places,
    parse_trailer,
)
from icehouse.rules.recipes import Recipe
from icehouse.rules.verification import Fault, compare_index
from icehouse.services.recent_chunks import RecentChunks
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.nars import pack_key

_MOST_PACK_BYTES: Final = MAX_PACK_BYTES + MAX_INDEX_BYTES + 1024


@dataclass(frozen=True, slots=True)
class PackState:
    """What became of a pack."""

    faults: list[tuple[Fault, str]]
    damaged: list[ChunkRow]
    """Chunks that cannot be used from here any more."""
    read_bytes: int


@dataclass(frozen=True, slots=True)
class NarState:
    """What became of a NAR."""

    damaged: list[ChunkRow]
    is_right: bool
    """False with no damaged chunk: the recipe is to blame."""
    file_hash: bytes
    file_size: int


def read_pack_index(blobs: BlobStore, key: BlobKey, size_bytes: int) -> list[PackEntry]:
    """The entries of a pack, from its end.

    Raises:
        InvalidFormat: this is no pack, or its end is damaged.
        NotFound, Corrupt, Unavailable: as `BlobStore.read_into`.
    """
    if size_bytes < TRAILER_BYTES:
        raise InvalidFormat(f"{key}: {size_bytes} bytes are no pack")
    end_bytes = parse_trailer(_read(blobs, key, size_bytes - TRAILER_BYTES, TRAILER_BYTES), pack_bytes=size_bytes)
    entries = parse_pack_end(_read(blobs, key, size_bytes - end_bytes, end_bytes))
    if sum(entry.stored_bytes for entry in entries) != size_bytes - end_bytes:
        raise InvalidFormat(f"{key}: its frames have other sizes than its index says")
    return entries


@dataclass(frozen=True, slots=True)
class ReadPack:
    """What can be used of a pack that no row knows."""

    entries: list[tuple[PackEntry, int]]
    """With the offset of each frame."""
    size_bytes: int
    is_whole: bool
    """False: its bytes are not those that its name is the hash of. What is in `entries` was proved."""


def read_pack(blobs: BlobStore, domain_id: int, name: bytes) -> ReadPack:
    """Read all of a pack; what is not sound of it is left out.

    Raises:
        InvalidFormat: its index cannot be read, so nothing can be told of it.
        NotFound, Corrupt, Unavailable: as `BlobStore.read_into`.
    """
    key = pack_key(domain_id, name)
    size_bytes = blobs.size(key)
    if size_bytes > _MOST_PACK_BYTES:
        raise InvalidFormat(f"{key}: it has {size_bytes} bytes, no pack has")
    data = _read(blobs, key, 0, size_bytes)
    is_whole = blake3(data).digest() == name
    entries: list[tuple[PackEntry, int]] = []
    offset = 0
    for entry in read_pack_index(blobs, key, size_bytes):
        if is_whole or _is_proved(entry, data[offset : offset + entry.stored_bytes]):
            entries.append((entry, offset))
        offset += entry.stored_bytes
    return ReadPack(entries, size_bytes, is_whole)


def _is_proved(entry: PackEntry, data: bytes) -> bool:
    frame = Frame(data, entry.places.patch_offsets, is_split=entry.places.is_split)
    try:
        prove_frame(frame, entry.raw_bytes, entry.places.positions, entry.identity)
    except InvalidFormat:
        return False
    return True


def examine_pack(
    blobs: BlobStore, domain_id: int, name: bytes, rows: Sequence[ChunkRow], *, is_deep: bool
) -> PackState:
    """Compare a pack with its name, its index and the rows of its chunks.

    Args:
        blobs: where it is.
        domain_id: whose pack it is.
        name: BLAKE3 of its bytes.
        rows: of those of its chunks that are in use.
        is_deep: read all of it and prove each frame; else its size and its index only.
    """
    key = pack_key(domain_id, name)
    try:
        size_bytes = blobs.size(key)
        if size_bytes > _MOST_PACK_BYTES:
            return PackState([(Fault.PACK_ALTERED, f"it has {size_bytes} bytes, no pack has")], list(rows), 0)
        data = _read(blobs, key, 0, size_bytes) if is_deep else b""
    except NotFound:
        return PackState([(Fault.PACK_MISSING, f"{len(rows)} chunks were in it")], list(rows), 0)
    faults: list[tuple[Fault, str]] = []
    damaged: dict[int, ChunkRow] = {}
    try:
        misplaced = compare_index(read_pack_index(blobs, key, size_bytes), rows)
    except (InvalidFormat, Corrupt) as exc:
        faults.append((Fault.PACK_ALTERED, f"its index cannot be read: {exc}"))
        misplaced = {}
    for row in rows:
        try:
            _check_place(row, size_bytes)
            if is_deep:
                prove_chunk(row, data[row.pack_offset : row.pack_offset + row.stored_bytes])
        except InvalidFormat as exc:
            faults.append((Fault.CHUNK_DAMAGED, f"chunk {row.identity.hex()}: {exc}"))
            damaged[row.number] = row
        if row.number in misplaced:
            faults.append((Fault.CHUNK_MISPLACED, f"chunk {row.identity.hex()}: {misplaced[row.number]}"))
            if not is_deep:
                damaged[row.number] = row
    # Where other bytes are in it than once, and every chunk in use is sound, damage was healed in another pack.
    if is_deep and faults and blake3(data).digest() != name and faults[0][0] is not Fault.PACK_ALTERED:
        faults.insert(0, (Fault.PACK_ALTERED, "its bytes have another hash than its name says"))
    return PackState(faults, list(damaged.values()), len(data))


def _check_place(row: ChunkRow, size_bytes: int) -> None:
    if row.pack_offset + row.stored_bytes > size_bytes:
        raise InvalidFormat(f"it lies beyond the pack's {size_bytes} bytes")


def prove_chunk(row: ChunkRow, data: bytes) -> bytes:
    """The zeroed chunk.

    Raises:
        InvalidFormat: the frame fails its proof, or the row is broken.
    """
    places = parse_places(row.places, raw_bytes=row.raw_bytes, stored_bytes=row.stored_bytes)
    frame = Frame(data, places.patch_offsets, is_split=places.is_split)
    return prove_frame(frame, row.raw_bytes, places.positions, row.identity)


def keep_on() -> None:
    """Nothing ends it."""


def hash_nar(
    blobs: BlobStore,
    nar: NarRow,
    recipe: Recipe,
    chunks: Mapping[int, ChunkRow],
    recent: RecentChunks,
    sign: DebugInfoSign | None = None,
    *,
    keep_on: Callable[[], None] = keep_on,
) -> NarState:
    """Put a NAR together once and hash it, and its file. Memory: one chunk, and what *recent* keeps.

    What it is made of is shown to *sign*. *keep_on* is called for each chunk, and may raise to end it.

    If it does not give its hash, the frames are proved, to tell whether they or the recipe are to blame.
    """
    nar_hasher, file_hasher = hashlib.sha256(), hashlib.sha256()
    file_size = patch_start = 0
    damaged: dict[int, ChunkRow] = {}
    for row in rows_of(recipe, chunks):
        keep_on()
        try:
            data = _read(blobs, pack_key(nar.domain_id, row.pack_name), row.pack_offset, row.stored_bytes)
            places = parse_places(row.places, raw_bytes=row.raw_bytes, stored_bytes=row.stored_bytes)
            patches = recipe.patches[patch_start : patch_start + len(places.positions)]
            filled = [recipe.hashes[index] for index in patches]
            raw = recent.find(row.identity, data)
            if raw is None:
                raw = decode_frame(Frame(data, places.patch_offsets, is_split=places.is_split), row.raw_bytes)
                recent.put(row.identity, raw, data)
        except (InvalidFormat, NotFound, Corrupt):
            damaged[row.number] = row
            continue
        patch_start += len(places.positions)
        if len(filled) != len(places.positions):
            break  # The recipe has too few patches; it cannot give the hash.
        piece = fill_in_hashes(raw, places.positions, filled)
        nar_hasher.update(piece)
        if sign is not None:
            sign.look(piece)
        file_hasher.update(fill_in_hashes(data, places.patch_offsets, filled))
        file_size += len(data)
    is_right = not damaged and patch_start == len(recipe.patches) and nar_hasher.digest() == nar.nar_hash
    if not is_right:
        for row in rows_of(recipe, chunks):
            if row.number not in damaged and not _is_sound(blobs, nar.domain_id, row):
                damaged[row.number] = row
    return NarState(list(damaged.values()), is_right, file_hasher.digest(), file_size)


def rows_of(recipe: Recipe, chunks: Mapping[int, ChunkRow]) -> Iterator[ChunkRow]:
    """The chunks of a NAR in order."""
    for run in recipe.runs:
        for number in range(run.first, run.first + run.count):
            yield chunks[number]


def _is_sound(blobs: BlobStore, domain_id: int, row: ChunkRow) -> bool:
    try:
        prove_chunk(row, _read(blobs, pack_key(domain_id, row.pack_name), row.pack_offset, row.stored_bytes))
    except (InvalidFormat, NotFound, Corrupt):
        return False
    return True


def _read(blobs: BlobStore, key: BlobKey, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    blobs.read_into(key, offset, memoryview(buffer))
    return bytes(buffer)
