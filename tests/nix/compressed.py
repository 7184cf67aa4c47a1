"""Compressed data for tests, made by other libraries than those that are tested where there are others."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, cast

import brotli
import lz4.frame
from backports.zstd import CompressionParameter, compress

from icehouse.nix.compression import Compression

_brotli = cast("Callable[..., bytes]", brotli.compress)
_lz4 = cast("Callable[..., bytes]", lz4.frame.compress)


def make_lzip(data: bytes) -> bytes:
    """One member with a dictionary of 8 MiB: the stream of the .lzma format, which has the same parameters."""
    stream = lzma.compress(data, lzma.FORMAT_ALONE, preset=6)[13:]
    return b"LZIP\x01\x17" + stream + struct.pack("<IQQ", zlib.crc32(data), len(data), 6 + len(stream) + 20)


def _make_zstd(data: bytes) -> bytes:
    return compress(data, options={CompressionParameter.checksum_flag: 1})


def _make_br(data: bytes) -> bytes:
    return _brotli(data, quality=5)


def _make_lz4(data: bytes) -> bytes:
    return _lz4(data, content_checksum=True, block_size=7)


MAKERS: Final[Mapping[Compression, Callable[[bytes], bytes]]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: _make_zstd,
    Compression.BR: _make_br,
    Compression.LZIP: make_lzip,
    Compression.LZ4: _make_lz4,
}
