"""Chunks that were decoded a moment ago, for the NAR that needs them next."""

import threading
from collections import OrderedDict
from typing import Final

from blake3 import blake3

RECENT_BYTES: Final = 64 * 1024 * 1024
"""Of two uploads at once, whose NARs follow. Half as much costs a twentieth of the server's time in a push."""


class RecentChunks:
    """Zeroed chunks by identity, the last `RECENT_BYTES` of them. Any thread may use it.

    Each is kept with the digest of the frame that it was decoded from: for another frame, or one that was damaged
    since, it does not stand.
    """

    def __init__(self, max_bytes: int = RECENT_BYTES) -> None:
        """Keep at most *max_bytes*."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._chunks: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, identity: bytes, raw: bytes, frame: bytes) -> None:
        """Remember a chunk whose *frame* was proved."""
        digest = blake3(frame).digest()
        with self._lock:
            _, present = self._chunks.pop(identity, (b"", b""))
            self._chunks[identity] = digest, raw
            self._bytes += len(raw) - len(present)
            while self._bytes > self._max_bytes:
                _, (_, dropped) = self._chunks.popitem(last=False)
                self._bytes -= len(dropped)

    def find(self, identity: bytes, frame: bytes) -> bytes | None:
        """The chunk, if it is still here and *frame* is the one that was proved. Costs a hash, and no decoding."""
        digest, raw = self._chunks.get(identity, (b"", b""))
        return raw if digest and blake3(frame).digest() == digest else None
