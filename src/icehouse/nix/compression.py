"""The compressions of NAR files that are read here: their names, the ends of their file names, their first bytes.

Source: Nix, src/libutil/compression-algo.hh for the names, src/libstore/binary-cache-store.cc for the file names. What
Nix knows besides is told by the first bytes that libarchive looks for (its archive_read_support_filter_*.c).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from icehouse.errors import InvalidFormat, Unsupported
from icehouse.nix.excerpts import excerpt
from icehouse.nix.nar_framing import MAGIC


class Compression(Enum):
    """A compression that is read here; the value is what stands in a narinfo."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    BR = "br"
    LZIP = "lzip"
    LZ4 = "lz4"

    @property
    def extension(self) -> str:
        """What Nix appends to ``.nar`` in a file name: nothing for `NONE` and `GZIP`."""
        return _EXTENSIONS.get(self, "")


_EXTENSIONS: Final = {
    Compression.BZIP2: ".bz2",
    Compression.XZ: ".xz",
    Compression.ZSTD: ".zst",
    Compression.BR: ".br",
    Compression.LZIP: ".lzip",
    Compression.LZ4: ".lz4",
}
_MAGICS: Final = {
    MAGIC: "none",
    b"\x1f\x8b\x08": "gzip",
    b"\x1f\x9d": "compress",
    b"\x5d\x00\x00": "lzma",
    b"\x89LZO\x00\r\n\x1a\n": "lzop",
    b"GRZipII\x00\x02\x04:)": "grzip",
    b"LRZI": "lrzip",
}
"""How files begin whose names do not tell their compression."""

MAGIC_BYTES: Final = max(map(len, _MAGICS))
"""So many first bytes of a file are enough for `find_compression`."""


def parse_compression(text: str) -> Compression:
    """The compression that a narinfo calls *text*.

    Raises:
        Unsupported: it is not read here, whether Nix knows it or not.
    """
    try:
        return Compression(text)
    except ValueError as exc:
        accepted = ", ".join(compression.value for compression in Compression)
        raise Unsupported(f"compression {excerpt(text)} is not read here: expected one of {accepted}") from exc


def find_compression(file_name: str, first_bytes: bytes) -> Compression:
    """The compression of a NAR file, by the end of its name, or by its contents where the name has none of Nix's ends.

    Args:
        file_name: for instance ``<hash>.nar.xz``; what stands before the end does not matter.
        first_bytes: `MAGIC_BYTES` or more of the file, or all that it has.

    Raises:
        Unsupported: the contents are of a compression that Nix knows and that is not read here.
        InvalidFormat: neither tells.
    """
    for compression, extension in _EXTENSIONS.items():
        if file_name.endswith(extension):
            return compression
    for magic, name in _MAGICS.items():
        if first_bytes.startswith(magic):
            return parse_compression(name)
    raise InvalidFormat(
        f"file {excerpt(file_name)} begins with {excerpt(first_bytes, max_length=MAGIC_BYTES)}: expected a NAR, gzip, "
        f"or a name that ends with one of {', '.join(_EXTENSIONS.values())}"
    )
