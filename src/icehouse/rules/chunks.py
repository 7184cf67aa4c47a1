"""Cutting a NAR into chunks: its store hashes are zeroed, then content decides where the cuts fall.

The formats page (`docs/design/formats.md`, "Chunks") has the definition that this module carries out.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3
from pyfastcdc import FastCDC

from icehouse.nix.byte_search import find_bytes
from icehouse.nix.store_paths import StoreDir

STORE_HASH_BYTES: Final = 32
"""A store hash: the letters of a hash part, as bytes."""

IDENTITY_BYTES: Final = 32

CHUNK_NAME_BYTES: Final = 16
"""Bytes of an identity that name a chunk within a domain, in the journal and in the database's index: another chunk of
the same name takes somebody 2**64 hashes, on two chunks of his own, and the second one is refused."""

_ZEROED_HASH: Final = bytes(STORE_HASH_BYTES)
_STORE_HASH: Final = re.compile(rb"([0-9a-df-np-sv-z]{32})-")
_IDENTITY_VERSION: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class ChunkParameters:
    """Where cuts may fall. The server states them; a client that used others would find nothing to share."""

    min_bytes: int = 64 * 1024
    average_bytes: int = 256 * 1024
    max_bytes: int = 1024 * 1024
    """Also the size up to which a NAR is one chunk."""
    normalization: int = 1
    """FastCDC 2020's level of normalized chunking, 0 to 3."""


CHUNK_PARAMETERS: Final = ChunkParameters()
"""What this server states, and a client uses when it does."""

MAX_CHUNK_BYTES: Final = CHUNK_PARAMETERS.max_bytes + STORE_HASH_BYTES - 1
"""The longest chunk: a cut that falls inside a store hash moves to the hash's end."""


@dataclass(frozen=True, slots=True)
class CutChunk:
    """A slice of a NAR whose store hashes were taken out."""

    raw: bytes
    """The bytes with every store hash zeroed."""
    positions: tuple[int, ...]
    """Where the store hashes stood in `raw`, ascending."""
    hashes: tuple[bytes, ...]
    """The store hashes, 32 letters each, in the order of `positions`."""


def chunk_identity(raw: bytes | bytearray | memoryview, positions: tuple[int, ...]) -> bytes:
    """The 32 bytes that name a chunk: BLAKE3 over a version byte, the positions (count first, u32le) and *raw*."""
    hasher = blake3(_IDENTITY_VERSION + struct.pack(f"<{len(positions) + 1}I", len(positions), *positions))
    hasher.update(raw)
    return hasher.digest()


def max_chunks(nar_size: int) -> int:
    """How many chunks a NAR of that size can have.

    All but the last have at least the least size of a cut, less what a cut that moved takes from the next one.
    """
    return nar_size // (CHUNK_PARAMETERS.min_bytes - STORE_HASH_BYTES) + 1


class Chunker:
    """Cuts one NAR that is fed to it piece by piece. Holds at most about four chunks and two pieces. Single-threaded.

    The cuts depend on the NAR alone and not on the pieces.
    """

    def __init__(self, store_dir: StoreDir, parameters: ChunkParameters = CHUNK_PARAMETERS) -> None:
        """Start a NAR whose store paths lie in *store_dir*."""
        self._prefix = f"{store_dir}/".encode()
        self._needle_bytes = len(self._prefix) + STORE_HASH_BYTES + 1
        self._max_bytes = parameters.max_bytes
        self._cutter = FastCDC(
            parameters.average_bytes,
            min_size=parameters.min_bytes,
            max_size=parameters.max_bytes,
            normalized_chunking=parameters.normalization,  # pyright: ignore[reportArgumentType] - an int from the server's answer; FastCDC checks it
        )
        # All indices below are into the buffer, whose bytes before the start and behind the end are of no account. What
        # is left moves to its front only when it is full: a `bytearray` that loses its front takes new memory, and
        # copies what is left, with each piece that is added (0.13 s for 300 MB in pieces of 1 MiB; this takes 0.05).
        self._buffer = memoryview(bytearray())
        self._start = 0  # FastCDC's last cut
        self._end = 0
        self._is_uncut = True
        self._searched = 0  # no store hash whose directory begins before this is still to be found
        self._chunk_start = 0  # FastCDC's last cut, or the end of the store hash that it fell into
        self._positions: list[int] = []
        self._hashes: list[bytes] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[CutChunk]:
        """Take the next bytes of the NAR; give the chunks that are now known, often none."""
        self._append(data)
        self._zero_store_hashes()
        return self._cut(self._searched, is_last=False)

    def finish(self) -> list[CutChunk]:
        """The rest of the NAR. The chunker is used up then."""
        if self._is_uncut and 0 < self._end <= self._max_bytes:
            return [self._take(self._end)]
        return self._cut(self._end, is_last=True)

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        size = len(data)
        if self._end + size > len(self._buffer):
            self._make_room(size)
        self._buffer[self._end : self._end + size] = data
        self._end += size

    def _make_room(self, size: int) -> None:
        """Move what is left to the front, of a longer buffer if it would be full again too soon."""
        start, kept = self._start, self._end - self._start
        left = self._buffer[start : self._end]
        if len(self._buffer) < 2 * (kept + size):
            self._buffer = memoryview(bytearray(2 * (kept + size)))
        self._buffer[:kept] = left
        self._start, self._end = 0, kept
        self._searched -= start
        self._chunk_start -= start
        self._positions = [position - start for position in self._positions]

    def _zero_store_hashes(self) -> None:
        buffer = self._buffer[: self._end]
        directory = find_bytes(buffer, self._prefix, self._searched)
        while directory >= 0:
            position = directory + len(self._prefix)
            match = _STORE_HASH.match(buffer, position)
            if match is not None:
                self._positions.append(position)
                self._hashes.append(match[1])
                buffer[position : position + STORE_HASH_BYTES] = _ZEROED_HASH
            directory = find_bytes(buffer, self._prefix, directory + 1)
        # A store hash that is not complete yet begins in the last bytes. (A zeroed one does not match again.)
        self._searched = max(self._searched, self._end - self._needle_bytes + 1)

    def _cut(self, settled: int, *, is_last: bool) -> list[CutChunk]:
        natural_cuts = self._natural_cuts(settled, is_last=is_last)
        if not natural_cuts:
            return []
        chunks = [self._take(self._cut_outside_hashes(cut)) for cut in natural_cuts]
        self._is_uncut = False
        self._start = natural_cuts[-1]
        return chunks

    def _natural_cuts(self, settled: int, *, is_last: bool) -> list[int]:
        """FastCDC's cuts. It looks ahead by the longest chunk, so without the NAR's end the last ones must wait."""
        cuts: list[int] = []
        end = self._start
        pieces = self._cutter.cut_buf(self._buffer[end:settled])
        while end < settled if is_last else settled - end > self._max_bytes:
            end += next(pieces).length
            cuts.append(end)
        return cuts

    def _cut_outside_hashes(self, cut: int) -> int:
        for position in self._positions:
            if position >= cut:
                break
            if cut < position + STORE_HASH_BYTES:
                return position + STORE_HASH_BYTES
        return cut

    def _take(self, end: int) -> CutChunk:
        start = self._chunk_start
        count = 0
        while count < len(self._positions) and self._positions[count] < end:
            count += 1
        chunk = CutChunk(
            bytes(self._buffer[start:end]),
            tuple(position - start for position in self._positions[:count]),
            tuple(self._hashes[:count]),
        )
        del self._positions[:count], self._hashes[:count]
        self._chunk_start = end
        return chunk
