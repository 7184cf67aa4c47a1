"""Sending no faster than a number of bytes a second."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

_PIECE_BYTES: Final = 64 * 1024
_PIECES_A_SECOND: Final = 8


class Pacer:
    """Lets bytes out at a rate, whichever of several bodies they belong to. Used in one event loop."""

    def __init__(self, bytes_per_second: int) -> None:
        """Let out the first bytes at once."""
        self.bytes_per_second: Final = bytes_per_second
        self._piece_bytes = min(_PIECE_BYTES, max(1, bytes_per_second // _PIECES_A_SECOND))
        self._free_at = 0.0

    async def pieces(self, data: bytes) -> AsyncGenerator[bytes]:
        """*data* in pieces, each when its turn is."""
        for start in range(0, len(data), self._piece_bytes):
            piece = data[start : start + self._piece_bytes]
            now = asyncio.get_running_loop().time()
            turn = max(self._free_at, now)
            self._free_at = turn + len(piece) / self.bytes_per_second
            if turn > now:
                await asyncio.sleep(turn - now)
            yield piece
