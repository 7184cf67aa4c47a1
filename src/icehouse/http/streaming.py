"""Bodies that are larger than memory should hold, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.http.asgi import Receive, Scope, Send
from icehouse.storage.blobs import Piece

IDLE_SECONDS: Final = 120
"""How long a body may pause. Whoever sends holds one of few places."""

PIECES: Final = "icehouse.response.pieces"
"""Our server's extension of ASGI: a message with a part of a body as a list of `pieces`. What is in a file, the kernel
copies into the connection."""


class ClientLeft(Exception):
    """The client closed the connection before its request or its answer was complete."""


def takes_pieces(scope: Scope) -> bool:
    """Whether the server that got this request has `PIECES`."""
    return PIECES in (scope.get("extensions") or {})


async def send_blocks(blocks: AsyncIterator[bytes | bytearray | list[Piece]], receive: Receive, send: Send) -> int:
    """Send *blocks* as the rest of a body whose start was sent, and give the number of bytes sent.

    Lists of pieces are only for a server that has `PIECES`.

    The server waits in `send` while the client is slow, and says nothing there when the client is gone; that is only
    to be heard from `receive`, which is listened to beside. When the client leaves, no further block is asked for.

    Raises:
        ClientLeft: the client left.
    """
    sent = 0
    leaving = asyncio.ensure_future(_wait_until_client_left(receive))
    try:
        async for block in blocks:
            if leaving.done():
                raise ClientLeft
            if isinstance(block, list):
                await send({"type": PIECES, "pieces": block})
                sent += sum(map(len, block))
            else:
                await send({"type": "http.response.body", "body": block, "more_body": True})
                sent += len(block)
        if leaving.done():
            raise ClientLeft
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        leaving.cancel()
        close = getattr(blocks, "aclose", None)
        if close is not None:
            await close()
    return sent


async def receive_pieces(receive: Receive, *, announced: int | None, max_bytes: int) -> AsyncIterator[bytes]:
    """The pieces of a request's body as they arrive.

    Raises:
        TooLarge: more than *max_bytes* were announced or came; what is announced is refused before anything is read.
        InvalidFormat: the body ended before the announced number of bytes, or nothing came for `IDLE_SECONDS`.
        ClientLeft: the client left before the end of the body.
    """
    if announced is not None and announced > max_bytes:
        raise TooLarge(f"the body has {announced} bytes: expected at most {max_bytes}")
    received = 0
    is_complete = False
    while not is_complete:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError as exc:
            raise InvalidFormat(f"nothing came for {IDLE_SECONDS} seconds after {received} bytes of the body") from exc
        if message["type"] != "http.request":
            raise ClientLeft
        piece = message.get("body", b"")
        is_complete = not message.get("more_body", False)
        received += len(piece)
        if received > max_bytes:
            raise TooLarge(f"the body has more than {max_bytes} bytes, the most that one request may bring")
        if piece:
            yield piece
    if announced is not None and received != announced:
        raise InvalidFormat(f"the body ended after {received} of the announced {announced} bytes")


async def _wait_until_client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
