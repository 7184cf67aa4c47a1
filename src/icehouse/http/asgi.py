"""The types of ASGI 3, as far as the routes outside litestar use them, and small answers in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Header = tuple[bytes, bytes]


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the first header called *name* (small letters), or `None`."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


async def answer(send: Send, status: int, headers: Sequence[Header], body: bytes, *, is_head: bool) -> None:
    """Send a whole small answer. To HEAD go the same status and headers, with the body's length and without it."""
    length = b"%d" % len(body)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", length)]})
    await send({"type": "http.response.body", "body": b"" if is_head else body})
