"""Answering GET and HEAD for a file whose bytes never change: entity tags, conditions and single ranges of RFC 9110."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from icehouse.http.asgi import Header, Receive, Scope, Send, find_header
from icehouse.http.ranges import ByteRange, Unsatisfiable, select_range
from icehouse.http.streaming import send_blocks

PRIVATE: Final[Header] = (b"cache-control", b"private, no-store")
PRIVATE_FOREVER: Final[Header] = (b"cache-control", b"private, max-age=31536000, immutable")
PUBLIC_HOUR: Final[Header] = (b"cache-control", b"public, max-age=3600")
PUBLIC_FOREVER: Final[Header] = (b"cache-control", b"public, max-age=31536000, immutable")
VARY: Final[Header] = (b"vary", b"authorization")
ACCEPT_RANGES: Final[Header] = (b"accept-ranges", b"bytes")


class OpenFile(Protocol):
    """A file that can be read from any byte on."""

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        ...

    def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        """The file's bytes from *start* up to *stop*, in pieces of about 1 MiB."""
        ...


def plan_file_answer(
    scope: Scope, *, headers: Sequence[Header], etag: bytes, file_size: int
) -> tuple[int, list[Header], ByteRange | None]:
    """Status and headers of the answer to a request for a file that is there, and the part of the file to send.

    *headers* are those that the file has in any case; *etag* is quoted.
    """
    answered = [*headers, ACCEPT_RANGES, (b"etag", etag)]
    known = find_header(scope, b"if-none-match")
    if known is not None and _names_etag(known, etag):
        return 304, answered, None
    condition = find_header(scope, b"if-range")
    part = ByteRange(0, file_size)
    status = 200
    if scope["method"] == "GET" and (condition is None or condition == etag):
        try:
            selected = select_range(find_header(scope, b"range"), file_size)
        except Unsatisfiable:
            size = b"bytes */%d" % file_size
            return 416, [*answered, (b"content-range", size), (b"content-length", b"0")], None
        if selected is not None:
            part = selected
            status = 206
            answered.append((b"content-range", b"bytes %d-%d/%d" % (part.start, part.stop - 1, file_size)))
    answered.append((b"content-length", b"%d" % (part.stop - part.start)))
    return status, answered, part


async def send_file(
    scope: Scope, receive: Receive, send: Send, file: OpenFile, *, headers: Sequence[Header], etag: bytes
) -> None:
    """Answer a request for *file*.

    Raises:
        ClientLeft: the client left before it had all.
        StorageError: the file cannot be read to its end; the status is out by then.
    """
    status, answered, part = plan_file_answer(scope, headers=headers, etag=etag, file_size=file.file_size)
    await send({"type": "http.response.start", "status": status, "headers": answered})
    if part is None or scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b""})
    else:
        await send_blocks(file.blocks(part.start, part.stop), receive, send)


def _names_etag(header: bytes, etag: bytes) -> bool:
    # RFC 9110, section 13.1.2: weak comparison, and a star stands for whatever there is. Our tags hold no comma.
    return any(candidate.strip().removeprefix(b"W/") in {etag, b"*"} for candidate in header.split(b","))
