"""Encoders for the two compressions that have no stored form: what comes out is known only once all went in.

Sources: bzip2, its manual. lzip, the chapter "File format" of its manual.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from typing import Final, Protocol

from icehouse.nix.compression import Compression

_FASTEST: Final = 1
_LZIP_DICTIONARY_BITS: Final = 16
_LZIP_TRAILER: Final = struct.Struct("<IQQ")


class Compressor(Protocol):
    """Compresses one file. Releases the GIL; one thread at a time may use it."""

    def compress(self, data: bytes | bytearray, /) -> bytes:
        """Take the next bytes; give what is known of the file by now."""
        ...

    def flush(self) -> bytes:
        """The rest of the file."""
        ...


def make_compressor(compression: Compression) -> Compressor:
    """The fastest encoder of `BZIP2` or `LZIP`.

    Raises:
        ValueError: it is neither.
    """
    match compression:
        case Compression.BZIP2:
            return bz2.BZ2Compressor(_FASTEST)
        case Compression.LZIP:
            return _LzipCompressor()
        case _:
            raise ValueError(f"{compression.value} needs no encoder here")


class _LzipCompressor:
    """One member: a header, a stream of LZMA with an end marker, and a trailer with the CRC-32 and both sizes."""

    def __init__(self) -> None:
        filters = [
            {
                "id": lzma.FILTER_LZMA1,
                "dict_size": 1 << _LZIP_DICTIONARY_BITS,
                "mode": lzma.MODE_FAST,
                "mf": lzma.MF_HC3,
                "nice_len": 8,
                "lc": 3,
                "lp": 0,
                "pb": 2,
            }
        ]
        self._encoder = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
        self._crc32 = 0
        self._data_bytes = 0
        self._head = b"LZIP\x01" + bytes([_LZIP_DICTIONARY_BITS])
        self._member_bytes = len(self._head)

    def compress(self, data: bytes | bytearray, /) -> bytes:
        self._crc32 = zlib.crc32(data, self._crc32)
        self._data_bytes += len(data)
        out = self._encoder.compress(data)
        self._member_bytes += len(out)
        head, self._head = self._head, b""
        return head + out

    def flush(self) -> bytes:
        out = self._encoder.flush()
        self._member_bytes += len(out) + _LZIP_TRAILER.size
        return self._head + out + _LZIP_TRAILER.pack(self._crc32, self._data_bytes, self._member_bytes)
