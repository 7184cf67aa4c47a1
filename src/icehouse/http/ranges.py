"""Which bytes of a file a request asks for: the Range header of RFC 9110, section 14."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_BYTE_RANGE: Final = re.compile(rb"bytes=[ \t]*(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from *start* up to, and without, *stop*; never empty."""

    start: int
    stop: int


class Unsatisfiable(Exception):
    """The file has none of the bytes that were asked for (416)."""


def select_range(header: bytes | None, size: int) -> ByteRange | None:
    """The part of a file of *size* bytes that the value of a Range header asks for; `None`: the whole file.

    A header that is malformed, in another unit, or asks for several ranges is ignored, as RFC 9110 allows, so that a
    client never gets an error for it. What reaches beyond the end is cut.

    Raises:
        Unsatisfiable: the range begins behind the end, or asks for the last 0 bytes.
    """
    match = None if header is None else _BYTE_RANGE.fullmatch(header)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        if length == 0:
            raise Unsatisfiable
        return ByteRange(size - length, size)
    start = int(first)
    stop = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start, stop)
