"""The strings that frame every NAR, encoded once, and the limits that Nix sets on what they frame.

A NAR is a sequence of strings, each one its length (8 bytes, little-endian), its bytes, and zeros up to a multiple of
8. Reader and writer put fixed strings together here, so that neither handles them one by one.

Source: Nix, src/libutil/archive.cc and its manual's page on the format.
"""

from __future__ import annotations

import struct
from typing import Final

MAX_NAME_BYTES: Final = 255
MAX_TARGET_BYTES: Final = 4095
MAX_DEPTH: Final = 64
"""How many nodes deep a NAR may be, its root and a file at the bottom included. Nix 2.35 refuses more."""
MAX_NAR_BYTES: Final = 2**63 - 1

U64: Final = struct.Struct("<Q")

PADDINGS: Final = tuple(b"\0" * (-size % 8) for size in range(8))
"""What follows a string, by the lowest three bits of its length."""


def framed(*strings: bytes) -> bytes:
    """The *strings* as a NAR has them, each with its length and padding."""
    return b"".join(U64.pack(len(string)) + string + PADDINGS[len(string) & 7] for string in strings)


MAGIC: Final = framed(b"nix-archive-1")
CLOSE: Final = framed(b")")
DIRECTORY: Final = framed(b"(", b"type", b"directory")
SYMLINK: Final = framed(b"(", b"type", b"symlink", b"target")
REGULAR: Final = framed(b"(", b"type", b"regular", b"contents")
EXECUTABLE: Final = framed(b"(", b"type", b"regular", b"executable", b"", b"contents")
ENTRY: Final = framed(b"entry", b"(", b"name")
NODE: Final = framed(b"node")
