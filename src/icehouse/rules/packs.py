"""Packs: frames back to back, and the index that says what they are.

The formats page (`docs/design/formats.md`, "Packs") has the layout, byte by byte. The same index opens an upload.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.rules.chunks import CHUNK_NAME_BYTES, IDENTITY_BYTES, MAX_CHUNK_BYTES, STORE_HASH_BYTES
from icehouse.rules.frames import max_stored_bytes
from icehouse.rules.varints import VarintReader, append_ascending, append_varint

PACK_BYTES: Final = 16 * 1024 * 1024
"""Frames of one upload together, at most: stated to clients. One last frame may go over it."""

MAX_PACK_BYTES: Final = 32 * 1024 * 1024
MAX_INDEX_BYTES: Final = 8 * 1024 * 1024
MAX_PACK_ENTRIES: Final = 65_536

_MAGIC: Final = b"ICEPACK"
_VERSION: Final = 1
_SKIPPABLE_MAGIC: Final = 0x184D2A5C
_SKIPPABLE_HEADER: Final = struct.Struct("<II")
_TRAILER: Final = struct.Struct("<I7sB")
_IS_SPLIT: Final = 1

TRAILER_BYTES: Final = _TRAILER.size
"""The last bytes of a pack: enough to find its index."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the store hashes of a chunk go: in its raw bytes and in its frame."""

    positions: tuple[int, ...]
    patch_offsets: tuple[int, ...]
    is_split: bool


NO_PLACES: Final = Places((), (), is_split=False)


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One frame of a pack. Frames stand in the order of their entries, with nothing between them."""

    identity: bytes
    stored_bytes: int
    raw_bytes: int
    places: Places


def render_places(places: Places) -> bytes:
    """The encoding of *places* as in an index: the count; and if that is not 0, flags and both lists."""
    out = bytearray()
    append_varint(out, len(places.positions))
    if places.positions:
        append_varint(out, _IS_SPLIT if places.is_split else 0)
        append_ascending(out, places.positions)
        append_ascending(out, places.patch_offsets)
    return bytes(out)


def parse_places(data: bytes | None, *, raw_bytes: int, stored_bytes: int) -> Places:
    """The inverse of `render_places`; None stands for a chunk without store hashes.

    Raises:
        InvalidFormat: the encoding is broken, or a place lies outside the chunk or its frame.
    """
    if data is None:
        return NO_PLACES
    reader = VarintReader(data, "places of a chunk")
    places = _read_places(reader, raw_bytes=raw_bytes, stored_bytes=stored_bytes)
    reader.finish()
    return places


def _read_places(reader: VarintReader, *, raw_bytes: int, stored_bytes: int) -> Places:
    count = reader.varint(raw_bytes // STORE_HASH_BYTES)
    if not count:
        return NO_PLACES
    is_split = reader.varint(_IS_SPLIT) == _IS_SPLIT
    if count * STORE_HASH_BYTES > stored_bytes:
        raise reader.fail(f"{count} store hashes do not fit a frame of {stored_bytes} bytes")
    positions = reader.ascending(count, STORE_HASH_BYTES, raw_bytes - STORE_HASH_BYTES)
    patch_offsets = reader.ascending(count, STORE_HASH_BYTES, stored_bytes - STORE_HASH_BYTES)
    return Places(positions, patch_offsets, is_split=is_split)


def render_index(entries: Sequence[PackEntry]) -> bytes:
    """The index of a pack or an upload."""
    out = bytearray()
    append_varint(out, _VERSION)
    append_varint(out, len(entries))
    for entry in entries:
        out += entry.identity
        append_varint(out, entry.stored_bytes)
        append_varint(out, entry.raw_bytes)
        out += render_places(entry.places)
    return bytes(out)


def parse_index(data: bytes | memoryview) -> list[PackEntry]:
    """The inverse of `render_index`. Sizes and counts are within the limits of this module afterwards.

    Raises:
        InvalidFormat: the index is broken, or names a chunk twice.
        TooLarge: it is over a limit.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise TooLarge(f"an index of {len(data)} bytes; at most {MAX_INDEX_BYTES} are accepted")
    reader = VarintReader(data, "pack index")
    version = reader.varint(2**31)
    if version != _VERSION:
        raise reader.fail(f"version {version}; this program knows version {_VERSION}")
    count = reader.varint(2**31)
    if count > MAX_PACK_ENTRIES:
        raise TooLarge(f"a pack of {count} chunks; at most {MAX_PACK_ENTRIES} are accepted")
    entries: list[PackEntry] = []
    total = 0
    for _ in range(count):
        identity = reader.take(IDENTITY_BYTES)
        stored_bytes = reader.varint(2**31)
        raw_bytes = reader.varint(MAX_CHUNK_BYTES)
        places = _read_places(reader, raw_bytes=raw_bytes, stored_bytes=stored_bytes)
        if not raw_bytes or not stored_bytes:
            raise reader.fail("an empty chunk")
        if stored_bytes > max_stored_bytes(raw_bytes, len(places.positions)):
            raise reader.fail(f"a frame of {stored_bytes} bytes is too long for a chunk of {raw_bytes} bytes")
        total += stored_bytes
        if total > MAX_PACK_BYTES:
            raise TooLarge(f"a pack of over {MAX_PACK_BYTES} bytes")
        entries.append(PackEntry(identity, stored_bytes, raw_bytes, places))
    reader.finish()
    if len({entry.identity[:CHUNK_NAME_BYTES] for entry in entries}) != len(entries):
        raise InvalidFormat("pack index: a chunk is named twice")
    return entries


def render_pack_end(entries: Sequence[PackEntry]) -> bytes:
    """What follows the frames of a pack: its index, as one skippable zstd frame that can be found from the end."""
    index = render_index(entries)
    payload_bytes = len(index) + _TRAILER.size
    header = _SKIPPABLE_HEADER.pack(_SKIPPABLE_MAGIC, payload_bytes)
    return header + index + _TRAILER.pack(_SKIPPABLE_HEADER.size + payload_bytes, _MAGIC, _VERSION)


def parse_trailer(data: bytes, *, pack_bytes: int) -> int:
    """How many bytes the end of a pack has (as from `render_pack_end`), from its last `TRAILER_BYTES` bytes."""
    if len(data) != _TRAILER.size:
        raise InvalidFormat(f"a pack's trailer has {_TRAILER.size} bytes, not {len(data)}")
    end_bytes, magic, version = _TRAILER.unpack(data)
    if magic != _MAGIC or version != _VERSION:
        raise InvalidFormat("this is not a pack, or of a version that this program does not know")
    most = min(pack_bytes, MAX_INDEX_BYTES + _SKIPPABLE_HEADER.size + _TRAILER.size)
    if not _SKIPPABLE_HEADER.size + _TRAILER.size < end_bytes <= most:
        raise InvalidFormat(f"a pack's index of {end_bytes} bytes does not fit its {pack_bytes} bytes")
    return end_bytes


def parse_pack_end(data: bytes) -> list[PackEntry]:
    """The entries, from exactly the bytes that `render_pack_end` made.

    Raises:
        InvalidFormat: they are broken.
    """
    if len(data) < _SKIPPABLE_HEADER.size + _TRAILER.size:
        raise InvalidFormat("a pack's end is cut off")
    magic, payload_bytes = _SKIPPABLE_HEADER.unpack_from(data)
    if magic != _SKIPPABLE_MAGIC or payload_bytes != len(data) - _SKIPPABLE_HEADER.size:
        raise InvalidFormat("a pack does not end in one skippable frame")
    if parse_trailer(data[-_TRAILER.size :], pack_bytes=len(data)) != len(data):
        raise InvalidFormat("a pack's trailer names another length than its frame")
    return parse_index(memoryview(data)[_SKIPPABLE_HEADER.size : -_TRAILER.size])
