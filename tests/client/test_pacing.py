"""Bytes go out at the rate that was asked for."""

import asyncio

import pytest

from icehouse.client.pacing import Pacer


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the pacer meant to wait each time; nobody waits, so that each wait is counted from the start."""
    seconds: list[float] = []
    really_sleep = asyncio.sleep

    async def sleep(delay: float) -> None:
        seconds.append(delay)
        await really_sleep(0)

    monkeypatch.setattr("asyncio.sleep", sleep)
    return seconds


async def test_bodies_share_one_rate(waited: list[float]) -> None:
    pacer = Pacer(1_000_000)
    bodies = [bytes([number]) * 5_000_000 for number in range(2)]

    async def send(body: bytes) -> bytes:
        return b"".join([piece async for piece in pacer.pieces(body)])

    assert await asyncio.gather(*map(send, bodies)) == bodies
    assert 9 < waited[-1] < 10  # the last of ten million bytes


async def test_the_first_piece_goes_at_once_and_a_slow_rate_has_small_pieces(waited: list[float]) -> None:
    pieces = [piece async for piece in Pacer(800).pieces(bytes(1000))]
    assert [len(piece) for piece in pieces] == [100] * 10
    assert len(waited) == 9
