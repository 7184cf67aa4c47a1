from collections.abc import AsyncIterator

import pytest

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.http.asgi import Message, Receive
from icehouse.http.streaming import ClientLeft, receive_pieces, send_blocks
from tests.http.asgi_client import Connection


def receiving(*pieces: bytes, is_whole: bool = True) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    end: Message = {"type": "http.request", "body": b"", "more_body": False}
    messages.append(end if is_whole else {"type": "http.disconnect"})
    remaining = iter(messages)

    async def receive() -> Message:
        return next(remaining)

    return receive


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_a_body_comes_in_its_pieces() -> None:
    assert await collect(receive_pieces(receiving(b"ab", b"", b"c"), announced=3, max_bytes=3)) == b"abc"


async def test_what_is_announced_too_large_is_not_read() -> None:
    with pytest.raises(TooLarge, match="4 bytes"):
        await collect(receive_pieces(receiving(), announced=4, max_bytes=3))


async def test_what_is_too_large_without_saying_so_is_stopped() -> None:
    with pytest.raises(TooLarge, match="more than 3"):
        await collect(receive_pieces(receiving(b"ab", b"cd"), announced=None, max_bytes=3))


async def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    with pytest.raises(ClientLeft):
        await collect(receive_pieces(receiving(b"ab", is_whole=False), announced=None, max_bytes=3))


async def test_a_body_shorter_than_announced_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="after 2 of the announced 3"):
        await collect(receive_pieces(receiving(b"ab"), announced=3, max_bytes=3))


class Blocks:
    """Ten blocks, counted as they are asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_closed = False

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            for _ in range(10):
                self.asked += 1
                yield b"x" * 10
        finally:
            self.is_closed = True


async def test_all_blocks_are_sent_and_counted() -> None:
    blocks, connection = Blocks(), Connection()
    assert await send_blocks(blocks(), connection.receive, connection.send) == 100
    assert connection.bytes_received == 100
    assert blocks.is_closed


async def test_after_the_client_left_no_block_is_asked_for() -> None:
    blocks, connection = Blocks(), Connection(leaves_after=30)
    with pytest.raises(ClientLeft):
        await send_blocks(blocks(), connection.receive, connection.send)
    assert blocks.asked <= 5
    assert blocks.is_closed
