"""A decoder of compressed NARs that is fed bytes as they come and gives pieces of bounded size.

It accepts what every Nix in use accepts: several members one after the other (zstd frames, skippable ones anywhere; xz
streams, padded by multiples of four zeros; gzip and lzip members; bzip2 streams; lz4 frames), but only one stream of
br; and nothing else after the end.

Sources of the formats: gzip, RFC 1952. bzip2, its manual. xz, "The .xz File Format" 1.2. zstd, RFC 8878. br, RFC 7932.
lz4, "LZ4 Frame Format Description" 1.6. lzip, the chapter "File format" of its manual.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol, cast

import brotli
import lz4.frame
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.nix.compression import Compression

MAX_PIECE_BYTES: Final = 1024 * 1024
MAX_MEMORY_BYTES: Final = 128 * 1024 * 1024
"""What a decoder may remember of its output: `zstd --long=27` and `xz -9` fit in, and Nix's zstd refuses more."""

FREE_BYTES: Final = 64 * 1024 * 1024
MAX_RATIO: Final = 40_000
"""At any time at most `FREE_BYTES` and `MAX_RATIO` times the bytes fed may have come out.

Most formats cannot give more: a block of zstd makes 128 KiB of 4 bytes (1:32768), xz and lzip stay below 1:8000, gzip
below 1:1033, lz4 below 1:256. So even a NAR of nothing but zeros passes. Only bzip2 and br reach 1:1000000, with which
a request of a few kilobytes would cost minutes of hashing; a NAR that needs that can be sent as xz or zstd.
"""

# The rest of a slice is copied at the end of each member, and members can be as short as eight bytes.
_SLICE_BYTES: Final = 32 * 1024
_XZ_PADDING_UNIT: Final = 4
# bz2 raises an OSError for broken data, lz4 a RuntimeError.
_LIBRARY_ERRORS: Final = (
    zlib.error,
    OSError,
    lzma.LZMAError,
    ZstdError,
    RuntimeError,
    cast("type[Exception]", brotli.error),  # pyright: ignore[reportUnknownMemberType]  it has no types
)


class _Member(Protocol):
    """One member of a file, as the standard library's decoders are used."""

    @property
    def eof(self) -> bool:
        """The member has ended."""
        ...

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out before something is fed."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was fed after the end."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Feed *data*, which is nothing while `needs_input` is false, and take at most *max_length* bytes."""
        ...


class Decompressor:
    """Decodes one file. What it holds is bounded, however the file was made; one thread at a time may use it.

    The libraries release the GIL while they decode.
    """

    def __init__(self, compression: Compression, *, max_bytes: int) -> None:
        """Refuse a file of which more than *max_bytes* come out."""
        self._compression = compression
        self._max_bytes = max_bytes
        self._member: _Member | None = None
        self._has_begun = False
        self._padding_bytes = 0
        self._fed_bytes = 0
        self._decoded_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the file and give what they decode to, in pieces of 1 to `MAX_PIECE_BYTES` bytes.

        Exhaust the iterator before the next call. After an error the decoder cannot be used any more.

        Raises:
            InvalidFormat: the bytes break the format, ask for too much memory, or follow the end of the file.
            TooLarge: more comes out than is allowed, altogether or in proportion to what was fed.
        """
        is_plain = self._compression is Compression.NONE
        slice_bytes = MAX_PIECE_BYTES if is_plain else _SLICE_BYTES
        for start in range(0, len(data), slice_bytes):
            part = data[start : start + slice_bytes]
            self._fed_bytes += len(part)
            if is_plain:
                self._count(part)
                yield part
            else:
                yield from self._decode(part)

    def finish(self) -> None:
        """Check that the file is complete; it has no more bytes.

        Raises:
            InvalidFormat: it was cut.
        """
        is_between = self._has_begun and self._member is None and self._padding_bytes % _XZ_PADDING_UNIT == 0
        if self._compression is not Compression.NONE and not is_between:
            raise InvalidFormat(
                f"{self._compression.value} data ends after {self._fed_bytes} bytes, before it is complete"
            )

    def _decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                data = self._skip_padding(data)
                if not data:
                    return
                self._member = self._open()
            member = self._member
            piece = self._step(member, data)
            while True:
                if piece:
                    yield piece
                if member.eof or member.needs_input:
                    break
                piece = self._step(member, b"")
            data = b""
            if member.eof:
                data = member.unused_data
                self._member = None

    def _skip_padding(self, data: bytes) -> bytes:
        """What stands after the zeros that follow a stream of xz."""
        if self._compression is not Compression.XZ or not self._has_begun:
            return data
        rest = data.lstrip(b"\0")
        self._padding_bytes += len(data) - len(rest)
        if rest and self._padding_bytes % _XZ_PADDING_UNIT:
            raise InvalidFormat(
                f"xz data has {self._padding_bytes} zeros after a stream before byte {self._fed_bytes}: "
                "expected a multiple of 4"
            )
        return rest

    def _open(self) -> _Member:
        if self._has_begun and self._compression is Compression.BR:
            raise InvalidFormat(
                f"br data is followed by other bytes before byte {self._fed_bytes}: expected one stream only"
            )
        self._has_begun = True
        self._padding_bytes = 0
        return _OPENERS[self._compression]()

    def _step(self, member: _Member, data: bytes) -> bytes:
        try:
            piece = member.decompress(data, MAX_PIECE_BYTES)
        except _LIBRARY_ERRORS as exc:
            place = f"{self._compression.value} data cannot be decoded before byte {self._fed_bytes}"
            raise InvalidFormat(f"{place}: {exc}") from exc
        self._count(piece)
        return piece

    def _count(self, piece: bytes) -> None:
        self._decoded_bytes += len(piece)
        if self._decoded_bytes > self._max_bytes:
            raise TooLarge(
                f"{self._compression.value} data decodes to more than {self._max_bytes} bytes, the most that may come"
            )
        if self._decoded_bytes > FREE_BYTES + MAX_RATIO * self._fed_bytes:
            raise TooLarge(
                f"{self._fed_bytes} bytes of {self._compression.value} data decode to {self._decoded_bytes} or more: "
                f"expected at most {FREE_BYTES} and {MAX_RATIO} for each byte; xz and zstd do not reach that"
            )


class _GzipMember:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16 stands for gzip's header and trailer
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        # A full piece may leave output inside, even when all input was taken.
        self.needs_input = not self._decoder.unconsumed_tail and len(piece) < max_length
        return piece


class _Lz4Frame:
    """python-lz4's own class says that it needs input while a long block still has output."""

    def __init__(self) -> None:
        self._context = _new_lz4_context()
        self._rest = b""
        self.needs_input = True
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        data = self._rest + data
        piece, taken, self.eof = _decode_lz4(self._context, data, max_length=max_length)
        self._rest = data[taken:]
        if self.eof:
            self.unused_data = self._rest
        self.needs_input = not self._rest and len(piece) < max_length
        return piece


class _BrotliStream:
    """Bytes after the end are an error of the library."""

    def __init__(self) -> None:
        self._decoder = _new_brotli_decoder()
        self.needs_input = True
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._decoder.is_finished()

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        # The library passes its limit, since each block of its buffer is larger than the last: 32, 64, 256, 1024 KiB.
        limit = max_length // 4
        piece = self._decoder.process(data, output_buffer_limit=limit)
        # As with gzip: the library speaks of its input only.
        self.needs_input = self._decoder.can_accept_more_data() and len(piece) < limit
        return piece


class _LzipMember:
    """A stream of LZMA between a header of its own and a trailer: CRC-32, bytes decoded, bytes of the member."""

    _HEADER_BYTES = 6
    _MAGIC = b"LZIP\x01"
    _TRAILER = struct.Struct("<IQQ")
    _MIN_DICTIONARY_BITS = 12

    def __init__(self) -> None:
        self._header = b""
        self._trailer = b""
        self._decoder: lzma.LZMADecompressor | None = None
        self._crc32 = 0
        self._decoded_bytes = 0
        self._taken_bytes = 0
        self.eof = False
        self.unused_data = b""

    @property
    def needs_input(self) -> bool:
        return self._decoder is None or self._decoder.eof or self._decoder.needs_input

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        self._taken_bytes += len(data)
        if self._decoder is None:
            self._header += data
            if len(self._header) < self._HEADER_BYTES:
                return b""
            data = self._header[self._HEADER_BYTES :]
            self._decoder = self._make_decoder(self._header[: self._HEADER_BYTES])
        piece = b""
        if not self._decoder.eof:
            piece = self._decoder.decompress(data, max_length)
            self._crc32 = zlib.crc32(piece, self._crc32)
            self._decoded_bytes += len(piece)
            data = self._decoder.unused_data
        if self._decoder.eof:
            self._trailer += data
            if len(self._trailer) >= self._TRAILER.size:
                self._end()
        return piece

    def _make_decoder(self, header: bytes) -> lzma.LZMADecompressor:
        """A decoder of the older .lzma format, whose header says the same: parameters, dictionary, unknown length."""
        if not header.startswith(self._MAGIC):
            raise InvalidFormat(f"a member of lzip data begins with {header.hex()}: expected {self._MAGIC.hex()}")
        bits, sixteenths = header[5] & 0x1F, header[5] >> 5
        dictionary_bytes = (1 << bits) - (sixteenths << bits) // 16
        if bits < self._MIN_DICTIONARY_BITS or dictionary_bytes > MAX_MEMORY_BYTES:
            raise InvalidFormat(
                f"a member of lzip data has a dictionary of {dictionary_bytes} bytes: "
                f"expected 4096 to {MAX_MEMORY_BYTES}"
            )
        # The decoder takes some kilobytes more than its dictionary, which was checked here.
        decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=2 * MAX_MEMORY_BYTES)
        decoder.decompress(struct.pack("<BIq", 0x5D, dictionary_bytes, -1))
        return decoder

    def _end(self) -> None:
        self.eof = True
        self.unused_data = self._trailer[self._TRAILER.size :]
        told = cast("tuple[int, int, int]", self._TRAILER.unpack_from(self._trailer))
        found = (self._crc32, self._decoded_bytes, self._taken_bytes - len(self.unused_data))
        if told != found:
            raise InvalidFormat(
                f"a member of lzip data ends with CRC-32, size and member size {told}: expected {found}"
            )


class _BrotliDecoder(Protocol):
    """What is used of `brotli.Decompressor`, which has no types."""

    def process(self, data: bytes, *, output_buffer_limit: int) -> bytes: ...
    def can_accept_more_data(self) -> bool: ...
    def is_finished(self) -> bool: ...


class _DecodeLz4(Protocol):
    """What is used of `lz4.frame.decompress_chunk`: the piece, how many bytes were taken, and if the frame ended."""

    def __call__(self, context: object, data: bytes, *, max_length: int) -> tuple[bytes, int, bool]: ...


_new_brotli_decoder = cast("Callable[[], _BrotliDecoder]", brotli.Decompressor)
_new_lz4_context = cast("Callable[[], object]", lz4.frame.create_decompression_context)
_decode_lz4 = cast("_DecodeLz4", lz4.frame.decompress_chunk)


def _open_xz() -> _Member:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY_BYTES)


def _open_zstd() -> _Member:
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_MEMORY_BYTES.bit_length() - 1})


_OPENERS: Final[dict[Compression, Callable[[], _Member]]] = {
    Compression.GZIP: _GzipMember,
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: _open_xz,
    Compression.ZSTD: _open_zstd,
    Compression.BR: _BrotliStream,
    Compression.LZIP: _LzipMember,
    Compression.LZ4: _Lz4Frame,
}
