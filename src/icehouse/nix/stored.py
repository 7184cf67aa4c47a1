"""Containers that hold a NAR as it is, in the format of a compression: any part of one is known without the rest.

So a file that was uploaded as xz is answered as xz later, from a NAR that is stored otherwise. Each container is a
head, then the NAR in blocks of one length, each behind a header, then a tail.

Sources of the formats: gzip, RFC 1952, with the stored blocks of RFC 1951, 3.2.4. xz, "The .xz File Format" 1.2, with
the uncompressed chunks of LZMA2. lz4, "LZ4 Frame Format Description" 1.6. br, RFC 7932, 9.2.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from icehouse.nix.compression import Compression

_STORED: Final = frozenset({Compression.NONE, Compression.GZIP, Compression.XZ, Compression.LZ4, Compression.BR})


def has_stored_form(compression: Compression) -> bool:
    """Tell whether `StoredFile` knows a container of *compression*. bzip2 and lzip have none, zstd has no need."""
    return compression in _STORED


@dataclass(frozen=True, slots=True)
class RawRange:
    """Bytes *start* up to *stop* of the NAR; never empty."""

    start: int
    stop: int


class StoredFile:
    """A NAR in a container: how large that is, and what stands where. Never changes; holds no bytes of the NAR."""

    def __init__(self, compression: Compression, nar_size: int, crc32: int | None = None) -> None:
        """Describe the file of a NAR of *nar_size* bytes, whose CRC-32 only gzip needs.

        Raises:
            ValueError: the format has no such form, or gzip lacks the CRC-32.
        """
        self._nar_size = nar_size
        self._layout = _lay_out(compression, nar_size, crc32)
        self._block_count = -(-nar_size // self._layout.block_bytes) or self._layout.min_blocks
        self._tail_at = len(self._layout.head) + self._block_count * self._layout.header_bytes + nar_size
        self.file_size: Final = self._tail_at + len(self._layout.tail)

    def pieces(self, start: int, stop: int) -> Iterator[bytes | RawRange]:
        """The bytes *start* up to *stop* of the file, in order; nothing that lies before *start* is looked at.

        Raises:
            ValueError: the file has no such range.
        """
        if not 0 <= start <= stop <= self.file_size:
            raise ValueError(f"bytes {start} up to {stop} of a file of {self.file_size} bytes")
        return self._cut(start, stop)

    def _cut(self, start: int, stop: int) -> Iterator[bytes | RawRange]:
        for offset, part in self._parts(start):
            if offset >= stop:
                return
            size = part.stop - part.start if isinstance(part, RawRange) else len(part)
            first, last = max(start - offset, 0), min(stop - offset, size)
            if first < last:
                yield (
                    RawRange(part.start + first, part.start + last) if isinstance(part, RawRange) else part[first:last]
                )

    def _parts(self, start: int) -> Iterator[tuple[int, bytes | RawRange]]:
        """Each part with the offset where it begins: the head, then all from the block that *start* lies in."""
        layout = self._layout
        head_bytes = len(layout.head)
        yield 0, layout.head
        unit_bytes = layout.header_bytes + layout.block_bytes
        for index in range(max(start - head_bytes, 0) // unit_bytes, self._block_count):
            offset = head_bytes + index * unit_bytes
            begin = index * layout.block_bytes
            end = min(begin + layout.block_bytes, self._nar_size)
            yield offset, layout.make_header(index, end - begin, index == self._block_count - 1)
            yield offset + layout.header_bytes, RawRange(begin, end)
        yield self._tail_at, layout.tail


@dataclass(frozen=True, slots=True)
class _Layout:
    block_bytes: int
    """How much of the NAR stands in each block but the last one."""
    head: bytes = b""
    header_bytes: int = 0
    make_header: Callable[[int, int, bool], bytes] = lambda _index, _size, _is_last: b""
    """The header of a block, by its number, its size and whether it is the last."""
    tail: bytes = b""
    min_blocks: int = 0


def _lay_out(compression: Compression, nar_size: int, crc32: int | None) -> _Layout:
    match compression:
        case Compression.NONE:
            return _Layout(block_bytes=max(nar_size, 1))
        case Compression.GZIP:
            if crc32 is None:
                raise ValueError("a gzip file ends with the CRC-32 of its contents, which was not given")
            return _lay_out_gzip(nar_size, crc32)
        case Compression.XZ:
            return _lay_out_xz(nar_size)
        case Compression.LZ4:
            return _LZ4
        case Compression.BR:
            return _lay_out_br(nar_size)
        case Compression.BZIP2 | Compression.LZIP | Compression.ZSTD:
            raise ValueError(f"{compression.value} has no stored form here")


def _lay_out_gzip(nar_size: int, crc32: int) -> _Layout:
    return _Layout(
        head=bytes.fromhex("1f8b 08 00 00000000 00 ff"),  # deflate, no flags, no time, unknown system
        block_bytes=0xFFFF,
        header_bytes=5,
        make_header=_make_gzip_header,
        tail=struct.pack("<II", crc32, nar_size & 0xFFFF_FFFF),
        min_blocks=1,  # The last block says that it is, so that there must be one.
    )


def _make_gzip_header(_index: int, size: int, is_last: bool) -> bytes:  # noqa: FBT001  of one shape with the others
    return struct.pack("<BHH", is_last, size, size ^ 0xFFFF)


_XZ_FLAGS: Final = b"\x00\x00"  # no check of the contents: the NAR's hash is one
_XZ_FILTER: Final = bytes([0x21, 1, 8])  # LZMA2, one byte of properties, a dictionary of 64 KiB
_XZ_CHUNK_BYTES: Final = 64 * 1024
_XZ_CHUNK_HEADER_BYTES: Final = 3


def _lay_out_xz(nar_size: int) -> _Layout:
    chunk_count = -(-nar_size // _XZ_CHUNK_BYTES)
    # Its length in words, less one; flags that name one filter and no sizes; zeros up to a multiple of four.
    block_header = _with_crc32(b"\x02\x00" + _XZ_FILTER + bytes(3))
    data_bytes = chunk_count * _XZ_CHUNK_HEADER_BYTES + nar_size + 1  # with the zero that ends the chunks
    index = b"\x00\x01" + _xz_number(len(block_header) + data_bytes) + _xz_number(nar_size)
    index = _with_crc32(index + bytes(-len(index) % 4))
    footer = struct.pack("<I", len(index) // 4 - 1) + _XZ_FLAGS
    return _Layout(
        head=b"\xfd7zXZ\x00" + _with_crc32(_XZ_FLAGS) + block_header,
        block_bytes=_XZ_CHUNK_BYTES,
        header_bytes=_XZ_CHUNK_HEADER_BYTES,
        make_header=_make_xz_header,
        tail=bytes(1 + -data_bytes % 4) + index + struct.pack("<I", zlib.crc32(footer)) + footer + b"YZ",
    )


def _make_xz_header(index: int, size: int, _is_last: bool) -> bytes:  # noqa: FBT001  as above
    return struct.pack(">BH", 2 if index else 1, size - 1)  # The first one resets the dictionary.


def _with_crc32(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def _xz_number(value: int) -> bytes:
    """Seven bits a byte, lowest first, the eighth set in all but the last."""
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  the seven bits
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _make_lz4_header(_index: int, size: int, _is_last: bool) -> bytes:  # noqa: FBT001  as above
    return struct.pack("<I", size | 0x8000_0000)  # The highest bit says that the block is not compressed.


# Version 1, independent blocks of up to 4 MiB, as Nix writes them; no checksum but that of these two bytes.
_LZ4: Final = _Layout(
    head=bytes.fromhex("04224d18 60 70 73"),
    block_bytes=4 * 1024 * 1024,
    header_bytes=4,
    make_header=_make_lz4_header,
    tail=bytes(4),
)


def _lay_out_br(nar_size: int) -> _Layout:
    return _Layout(
        block_bytes=64 * 1024,  # the most that a length of four nibbles can say
        header_bytes=3,
        make_header=_make_br_header,
        tail=b"\x03" if nar_size else b"\x06",  # Last and empty; in an empty stream behind the bit of the window.
    )


def _make_br_header(index: int, size: int, _is_last: bool) -> bytes:  # noqa: FBT001  as above
    """From the lowest bit: not last (1 bit), four nibbles of length (2), length less one (16), uncompressed (1).

    The first one stands behind the stream's only bit of header, a zero for a window of 64 KiB.
    """
    header = (size - 1) << 3 | 1 << 19
    return (header if index else header << 1).to_bytes(3, "little")
