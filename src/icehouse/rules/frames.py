"""Frames: chunks compressed so that other store hashes can be written into them, and the proof that this works.

The formats page (`docs/design/formats.md`, "Frames") has the definition. In short: each store hash stands in a raw
block of its own, so its 32 bytes are in the frame as they are, and no later match may copy one of them. Whoever
makes a frame proves that, and the server that receives it proves it again.
"""

import functools
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from backports.zstd import CompressionParameter, ZstdCompressor
from blake3 import blake3
from zstandard import ZstdDecompressor, ZstdError

from icehouse.errors import InvalidFormat
from icehouse.rules.chunks import MAX_CHUNK_BYTES, STORE_HASH_BYTES, chunk_identity

MIN_LEVEL: Final = 1
MAX_LEVEL: Final = 19
DEFAULT_LEVEL: Final = 3

_ATTEMPTS: Final = 2
_WINDOW_LOG: Final = 21  # the smallest that holds the longest chunk, so that each frame is one segment at each level
_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOCK_HEADER_BYTES: Final = 3
_RAW_BLOCK, _RLE_BLOCK, _RESERVED_BLOCK = 0, 1, 3
_SINGLE_SEGMENT: Final = 0x20
_SIZE_FIELDS: Final = ((1, 0), (2, 256), (4, 0), (8, 0))  # bytes of the content size field, and what is added to it
_ZEROED_HASH: Final = bytes(STORE_HASH_BYTES)
_PATTERN_BASE: Final = 255


@dataclass(frozen=True, slots=True)
class Frame:
    """A chunk as it is stored. `is_split`: several zstd frames back to back, each store hash in one of its own."""

    data: bytes
    patch_offsets: tuple[int, ...]
    """Where in `data` the store hashes go, ascending."""
    is_split: bool


def max_stored_bytes(raw_bytes: int, hash_count: int) -> int:
    """The most bytes that a frame of a chunk may have."""
    return raw_bytes + 64 + 48 * (hash_count + 1)


def make_frame(raw: bytes, positions: Sequence[int], *, level: int = DEFAULT_LEVEL) -> Frame:
    """Compress a zeroed chunk. The same chunk, level and libzstd give the same frame.

    Costs one compression, and for a chunk with store hashes two or three decompressions; releases the GIL meanwhile.

    Args:
        raw: the chunk's bytes, store hashes zeroed; 1 byte to `MAX_CHUNK_BYTES`.
        positions: where the store hashes stand, ascending.
        level: of zstd, `MIN_LEVEL` to `MAX_LEVEL`.
    """
    if not positions:
        return Frame(_compress_whole(raw, level), (), is_split=False)
    identity = chunk_identity(raw, tuple(positions))
    for attempt in range(_ATTEMPTS):
        frame = _compress_patchable(raw, positions, _placeholders(identity, len(positions), attempt), level)
        if frame is not None and _is_proved(frame, raw, positions):
            return frame
    return _compress_split(raw, positions, level)


def prove_frame(frame: Frame, raw_bytes: int, positions: tuple[int, ...], identity: bytes) -> bytes:
    """Check a frame that somebody else made, and give the zeroed chunk.

    Nothing is decoded before the sizes and the block structure were checked; decoding is bounded by *raw_bytes*.
    The parts (a) to (d) of the proof stand in the design, section 4.

    Raises:
        InvalidFormat: any part of the proof fails.
    """
    _check_sizes(frame, raw_bytes, positions)
    extents = _walk(frame, raw_bytes)
    _check_patches(frame, extents)
    zeroed = _decode(_patched(frame, _ZEROED_HASH * len(positions)), extents)
    if chunk_identity(zeroed, positions) != identity:
        raise InvalidFormat(f"a frame for chunk {identity.hex()} holds other bytes")
    if any(zeroed[position : position + STORE_HASH_BYTES] != _ZEROED_HASH for position in positions):
        raise InvalidFormat(f"chunk {identity.hex()} has bytes in the place of a store hash")
    _check_patterns(frame, extents, zeroed, positions)
    return zeroed


def decode_frame(frame: Frame, raw_bytes: int) -> bytes:
    """The bytes of a frame that was proved when it came; its store hashes hold whatever the frame holds there.

    Raises:
        InvalidFormat: the frame does not decode to *raw_bytes* bytes, so it was damaged since.
    """
    return _decode(frame.data, _walk(frame, raw_bytes))


def fill_in_hashes(raw: bytes, positions: Sequence[int], hashes: Sequence[bytes]) -> bytes | bytearray:
    """The slice of a NAR that a chunk stands for: *raw* with *hashes* at *positions*."""
    if not positions:
        return raw
    out = bytearray(raw)
    for position, store_hash in zip(positions, hashes, strict=True):
        out[position : position + STORE_HASH_BYTES] = store_hash
    return out


class _OfThread(threading.local):
    """What a thread uses again for its next frame: the same frames and chunks come out, sooner."""

    def __init__(self) -> None:
        self.decompressor = ZstdDecompressor()
        self.compressor: ZstdCompressor | None = None
        """One that ended its last frame, of `level`."""
        self.level = 0


_of_thread: Final = _OfThread()


def _begin_frame(level: int, raw_bytes: int) -> ZstdCompressor:
    """A compressor for one frame of *raw_bytes*, which `_end_frame` ends."""
    compressor, _of_thread.compressor = _of_thread.compressor, None
    if compressor is None or _of_thread.level != level:
        compressor = _new_compressor(level)
    compressor.set_pledged_input_size(raw_bytes)
    return compressor


def _end_frame(compressor: ZstdCompressor, level: int, raw: bytes | memoryview) -> bytes:
    """The end of a frame, with *raw* as its last bytes. The compressor belongs to the next frame then."""
    end = compressor.compress(raw, ZstdCompressor.FLUSH_FRAME)
    _of_thread.level, _of_thread.compressor = level, compressor
    return end


def _new_compressor(level: int) -> ZstdCompressor:
    return ZstdCompressor(
        options={
            CompressionParameter.compression_level: level,
            CompressionParameter.window_log: _WINDOW_LOG,
            CompressionParameter.enable_long_distance_matching: 2,  # 2 is "off"; 0 leaves it to the level
            CompressionParameter.content_size_flag: 1,
            CompressionParameter.checksum_flag: 0,
            CompressionParameter.dict_id_flag: 0,
        }
    )


def _compress_whole(raw: bytes | memoryview, level: int) -> bytes:
    return _end_frame(_begin_frame(level, len(raw)), level, raw)


def _placeholders(identity: bytes, count: int, attempt: int) -> bytes:
    """Bytes that zstd cannot match: BLAKE3 in its extendable form over a version byte, the identity and the attempt."""
    return blake3(b"\x02" + identity + struct.pack("<I", attempt)).digest(length=STORE_HASH_BYTES * count)


def _compress_patchable(raw: bytes, positions: Sequence[int], placeholders: bytes, level: int) -> Frame | None:
    """One frame with each placeholder in a raw block of its own; None if zstd did not leave one raw."""
    compressor = _begin_frame(level, len(raw))
    view = memoryview(raw)
    out = bytearray()
    patch_offsets: list[int] = []
    end = 0
    for index, position in enumerate(positions):
        if position > end:
            out += compressor.compress(view[end:position], ZstdCompressor.FLUSH_BLOCK)
        end = position + STORE_HASH_BYTES
        placeholder = placeholders[index * STORE_HASH_BYTES : (index + 1) * STORE_HASH_BYTES]
        block = compressor.compress(placeholder, ZstdCompressor.FLUSH_BLOCK)
        if not block.endswith(placeholder):
            return None
        out += block
        patch_offsets.append(len(out) - STORE_HASH_BYTES)
    out += _end_frame(compressor, level, view[end:])
    return Frame(bytes(out), tuple(patch_offsets), is_split=False)


def _compress_split(raw: bytes, positions: Sequence[int], level: int) -> Frame:
    """Frames of their own for each stretch and each store hash: larger, but no match can cross a frame."""
    view = memoryview(raw)
    out = bytearray()
    patch_offsets: list[int] = []
    end = 0
    for position in positions:
        if position > end:
            out += _compress_whole(view[end:position], level)
        end = position + STORE_HASH_BYTES
        out += _FRAME_MAGIC + bytes([_SINGLE_SEGMENT, STORE_HASH_BYTES])
        out += (STORE_HASH_BYTES << 3 | _RAW_BLOCK << 1 | 1).to_bytes(_BLOCK_HEADER_BYTES, "little")
        patch_offsets.append(len(out))
        out += _ZEROED_HASH
    if end < len(raw):
        out += _compress_whole(view[end:], level)
    return Frame(bytes(out), tuple(patch_offsets), is_split=True)


def _is_proved(frame: Frame, raw: bytes, positions: Sequence[int]) -> bool:
    """The maker's proof. It fails where a match copied a placeholder's byte."""
    try:
        _check_sizes(frame, len(raw), positions)
        extents = _walk(frame, len(raw))
        _check_patches(frame, extents)
        if _decode(_patched(frame, _ZEROED_HASH * len(positions)), extents) != raw:
            return False
        _check_patterns(frame, extents, raw, positions)
    except InvalidFormat:
        return False
    return True


def _check_sizes(frame: Frame, raw_bytes: int, positions: Sequence[int]) -> None:
    count, stored_bytes = len(positions), len(frame.data)
    if not 1 <= raw_bytes <= MAX_CHUNK_BYTES:
        raise InvalidFormat(f"a chunk of {raw_bytes} bytes; 1 to {MAX_CHUNK_BYTES} were expected")
    if stored_bytes > max_stored_bytes(raw_bytes, count):
        raise InvalidFormat(f"a frame of {stored_bytes} bytes is too long for a chunk of {raw_bytes} bytes")
    if len(frame.patch_offsets) != count:
        raise InvalidFormat(f"{count} positions and {len(frame.patch_offsets)} patch offsets in one chunk")
    if frame.is_split and not count:
        raise InvalidFormat("a chunk without store hashes is one frame")
    for values, end, what in (
        (positions, raw_bytes, "position"),
        (frame.patch_offsets, len(frame.data), "patch offset"),
    ):
        if count and (values[0] < 0 or values[-1] + STORE_HASH_BYTES > end):
            raise InvalidFormat(f"a {what} lies outside its {end} bytes")
        if any(second - first < STORE_HASH_BYTES for first, second in pairwise(values)):
            raise InvalidFormat(f"two {what}s overlap or are not in order")


@dataclass(frozen=True, slots=True)
class _Extents:
    """A frame's structure: its zstd frames as (start, end, raw bytes), and its raw blocks that can hold a patch."""

    frames: list[tuple[int, int, int]]
    raw_blocks: list[tuple[int, int]]
    """Start and end."""


def _walk(frame: Frame, raw_bytes: int) -> _Extents:
    """Read the headers of frames and blocks (RFC 8878, section 3.1.1) without decoding anything."""
    data = frame.data
    extents = _Extents([], [])
    most_frames = 2 * len(frame.patch_offsets) + 1 if frame.is_split else 1
    start = total = 0
    while start < len(data):
        if len(extents.frames) == most_frames:
            raise InvalidFormat(f"{len(data) - start} bytes follow after the {most_frames} frames of a chunk")
        content_bytes, offset = _read_frame_header(data, start)
        if not content_bytes:
            raise InvalidFormat(f"the frame at byte {start} of a chunk's bytes declares 0 bytes; none may")
        end = _walk_blocks(data, offset, extents.raw_blocks)
        extents.frames.append((start, end, content_bytes))
        total += content_bytes
        start = end
    if total != raw_bytes:
        raise InvalidFormat(f"a frame declares {total} bytes; the chunk has {raw_bytes}")
    return extents


def _read_frame_header(data: bytes, start: int) -> tuple[int, int]:
    """The declared content size, and the offset of the first block."""
    if data[start : start + 4] != _FRAME_MAGIC or len(data) < start + 6:
        raise InvalidFormat(f"byte {start} of a chunk's bytes does not begin a zstd frame")
    descriptor = data[start + 4]
    if descriptor & 0x3F != _SINGLE_SEGMENT:
        raise InvalidFormat(f"frame header {descriptor:#04x}: neither checksum, dictionary nor a window is allowed")
    size, addend = _SIZE_FIELDS[descriptor >> 6]
    offset = start + 5 + size
    return int.from_bytes(data[start + 5 : offset], "little") + addend, offset


def _walk_blocks(data: bytes, offset: int, raw_blocks: list[tuple[int, int]]) -> int:
    """Add the raw blocks that can hold a patch of the frame whose first block is at *offset*; give the frame's end."""
    is_last = 0
    while not is_last:
        if offset + _BLOCK_HEADER_BYTES > len(data):
            raise InvalidFormat("a frame is cut off")
        header = data[offset] | data[offset + 1] << 8 | data[offset + 2] << 16
        offset += _BLOCK_HEADER_BYTES
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == _RESERVED_BLOCK:
            raise InvalidFormat(f"byte {offset} of a frame: a block of the reserved kind")
        end = offset + (1 if kind == _RLE_BLOCK else size)
        if kind == _RAW_BLOCK and size >= STORE_HASH_BYTES:
            raw_blocks.append((offset, end))
        offset = end
    if offset > len(data):
        raise InvalidFormat("a frame is cut off")
    return offset


def _check_patches(frame: Frame, extents: _Extents) -> None:
    """Each patch lies inside one raw block."""
    blocks = iter(extents.raw_blocks)
    block_start = block_end = -1
    for offset in frame.patch_offsets:
        while block_end < offset + STORE_HASH_BYTES:
            block_start, block_end = next(blocks, (-1, len(frame.data) + STORE_HASH_BYTES))
        if not 0 <= block_start <= offset:
            raise InvalidFormat(f"patch offset {offset} is not inside a raw block")


def _patched(frame: Frame, patches: bytes | memoryview) -> bytes | bytearray:
    if not frame.patch_offsets:
        return frame.data
    out = bytearray(frame.data)
    start = 0
    for offset in frame.patch_offsets:
        out[offset : offset + STORE_HASH_BYTES] = patches[start : start + STORE_HASH_BYTES]
        start += STORE_HASH_BYTES
    return out


def _decode(data: bytes | bytearray, extents: _Extents) -> bytes:
    """Decode frames that `_walk` went through; each gives exactly what it declared."""
    if len(extents.frames) == 1:
        return _decode_one(data, extents.frames[0][2])
    view = memoryview(data)
    return b"".join(_decode_one(view[start:end], content_bytes) for start, end, content_bytes in extents.frames)


def _decode_one(data: bytes | bytearray | memoryview, content_bytes: int) -> bytes:
    try:
        # The buffer has the size that the frame declares, which `_walk` compared with the chunk's.
        return _of_thread.decompressor.decompress(data, content_bytes, allow_extra_data=False)
    except ZstdError as exc:
        raise InvalidFormat(f"a frame does not decode: {exc}") from exc


@functools.cache
def _pattern(digit: int) -> bytes:
    """Byte *i* is 1 + (i div 255**digit) mod 255, for the patch bytes of the longest chunk and most store hashes."""
    length = MAX_CHUNK_BYTES
    run = _PATTERN_BASE**digit
    period = b"".join(bytes([1 + value]) * min(run, length) for value in range(min(_PATTERN_BASE, length // run + 1)))
    return (period * (length // len(period) + 1))[:length]


def _check_patterns(frame: Frame, extents: _Extents, zeroed: bytes, positions: Sequence[int]) -> None:
    """Part (d): each patch byte comes out at its own place and nowhere else.

    The digits of a byte's number, in base 255 and one decode a digit, tell all patch bytes apart.
    """
    patch_bytes = STORE_HASH_BYTES * len(positions)
    digit = 0
    while positions and (digit == 0 or _PATTERN_BASE**digit < patch_bytes):
        pattern = memoryview(_pattern(digit))[:patch_bytes]
        expected = bytearray(zeroed)
        start = 0
        for position in positions:
            expected[position : position + STORE_HASH_BYTES] = pattern[start : start + STORE_HASH_BYTES]
            start += STORE_HASH_BYTES
        if _decode(_patched(frame, pattern), extents) != bytes(expected):
            raise InvalidFormat("a frame copies bytes of a store hash, or has its patch offsets in the wrong places")
        digit += 1
