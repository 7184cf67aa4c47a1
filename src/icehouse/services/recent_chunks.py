"""Chunks that were decoded a moment ago, for the NAR that needs them next."""

import threading
from collections import OrderedDict
from typing import Final

RECENT_BYTES: Final = 64 * 1024 * 1024
"""About the raw bytes of one upload: its NARs follow while they are still here."""


class RecentChunks:
    """Zeroed chunks by identity, the last `RECENT_BYTES` of them. Any thread may use it."""

    def __init__(self, max_bytes: int = RECENT_BYTES) -> None:
        """Keep at most *max_bytes*."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, identity: bytes, raw: bytes) -> None:
        """Remember a chunk that was proved."""
        with self._lock:
            if identity in self._chunks:
                return
            self._chunks[identity] = raw
            self._bytes += len(raw)
            while self._bytes > self._max_bytes:
                _, dropped = self._chunks.popitem(last=False)
                self._bytes -= len(dropped)

    def find(self, identity: bytes) -> bytes | None:
        """The chunk, if it is still here."""
        return self._chunks.get(identity)

    def forget(self, identity: bytes) -> None:
        """Drop a chunk, so that it is read from its pack."""
        with self._lock:
            raw = self._chunks.pop(identity, None)
            self._bytes -= 0 if raw is None else len(raw)
