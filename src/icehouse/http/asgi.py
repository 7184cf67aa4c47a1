"""The types of ASGI 3, as far as the routes outside litestar use them, and small answers in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from icehouse.rules.audit import Origin

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Header = tuple[bytes, bytes]


class Head:
    """Status and headers of small answers, all but the length of the body. Immutable."""

    __slots__ = ("headers", "lines", "status")

    def __init__(self, status: int, *headers: Header) -> None:
        self.status: Final = status
        self.headers: Final = headers
        self.lines: Final = b"HTTP/1.1 %d %b\r\n%b" % (
            status,
            HTTPStatus(status).phrase.encode(),
            b"".join(b"%b: %b\r\n" % header for header in headers),
        )
        """The same as HTTP/1.1 has it, without the empty line at its end."""


class SmallAnswer(NamedTuple):
    """A whole answer that is made at once."""

    head: Head
    body: bytes


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the first header called *name* (small letters), or `None`."""
    return find_value(scope["headers"], name)


def find_value(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The value of the first of *headers* called *name* (small letters), or `None`."""
    for key, value in headers:
        if key == name:
            return value
    return None


def find_peer(scope: Scope) -> str:
    """The address of who connected, which may be a proxy."""
    client = scope.get("client")
    return client[0] if client else ""


def read_origin(state: Mapping[str, Any]) -> Origin:
    """Where a request comes from, as what stands around all but the hot routes found it and wrote into its state."""
    return Origin(state.get("client") or None, state.get("request_id") or "")


async def answer(send: Send, status: int, headers: Sequence[Header], body: bytes, *, is_head: bool) -> None:
    """Send a whole small answer. To HEAD go the same status and headers, with the body's length and without it."""
    length = b"%d" % len(body)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", length)]})
    await send({"type": "http.response.body", "body": b"" if is_head else body})
