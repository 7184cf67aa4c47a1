"""Bringing chunks to the server, each once, and learning their numbers.

Chunks come from readers. The server is asked which it lacks, many at a time and ahead of compression; those are
compressed in worker threads and gathered into packs, two of which may be on their way at once. Every chunk's bytes
are counted against a budget from the moment they are read until the pack that holds their frame has arrived.
"""

import asyncio
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

from icehouse.api.server import ServerParameters
from icehouse.client.byte_budget import ByteBudget
from icehouse.client.cutting import IdentifiedChunk
from icehouse.client.push_counts import PushCounts
from icehouse.client.server import Server
from icehouse.errors import InvalidFormat
from icehouse.rules.frames import Frame, make_frame
from icehouse.rules.packs import PackEntry, Places, render_index

PACKS_IN_FLIGHT: Final = 2
_FRAMES_AT_ONCE_BYTES: Final = 1024 * 1024
"""Raw bytes of the chunks that one call in a worker thread compresses."""

_MAX_ASKED: Final = 4096
_ENOUGH_TO_ASK: Final = 256
_GATHERING_SECONDS: Final = 0.05
"""How long a question waits for company while there are readers: each costs both sides some milliseconds."""

_MAX_PACK_ENTRIES: Final = 16_384
_MAX_PACK_INDEX_BYTES: Final = 4 * 1024 * 1024
_ENTRY_BYTES: Final = 40
_PATCH_BYTES: Final = 6


class Waiter:
    """A NAR's wait for the numbers of its chunks."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self.pending = 0
        self._is_complete = False
        self._done = asyncio.Event()

    def complete(self) -> None:
        """Nothing more will be waited for."""
        self._is_complete = True
        self._check()

    def settle_one(self) -> None:
        """One of the numbers is there."""
        self.pending -= 1
        self._check()

    async def wait(self) -> None:
        """Until all numbers are there."""
        await self._done.wait()

    def _check(self) -> None:
        if self._is_complete and not self.pending:
            self._done.set()


@dataclass(slots=True)
class _Pack:
    """Frames that are gathered for one upload."""

    entries: list[PackEntry] = field(default_factory=list[PackEntry])
    frames: list[bytes] = field(default_factory=list[bytes])
    frame_bytes: int = 0
    index_bytes: int = 0

    def add(self, chunk: IdentifiedChunk, frame: Frame) -> None:
        places = Places(chunk.positions, frame.patch_offsets, is_split=frame.is_split)
        self.entries.append(PackEntry(chunk.identity, len(frame.data), len(chunk.raw), places))
        self.frames.append(frame.data)
        self.frame_bytes += len(frame.data)
        self.index_bytes += _ENTRY_BYTES + _PATCH_BYTES * len(chunk.positions)

    def is_full(self, pack_bytes: int) -> bool:
        return (
            self.frame_bytes >= pack_bytes
            or len(self.entries) >= _MAX_PACK_ENTRIES
            or self.index_bytes >= _MAX_PACK_INDEX_BYTES
        )

    def render(self) -> bytes:
        index = render_index(self.entries)
        return b"".join((struct.pack("<I", len(index)), index, *self.frames))


class ChunkSender:
    """The chunks of one push. Used in one event loop; runs inside the task group that it is given.

    Whoever reads counts as a reader from `reader_started` to `reader_stopped`: without readers and with nothing left to
    ask and compress, the last pack goes out, full or not.
    """

    def __init__(
        self,
        server: Server,
        cache: str,
        *,
        parameters: ServerParameters,
        tasks: asyncio.TaskGroup,
        executor: Executor,
        budget: ByteBudget,
        counts: PushCounts,
    ) -> None:
        """Send to *cache*, compressing in *executor*, with room in *budget* for what `add` brings."""
        self._server = server
        self._cache = cache
        self._parameters = parameters
        self._tasks = tasks
        self._executor = executor
        self._budget = budget
        self._counts = counts
        self._numbers: dict[bytes, int] = {}
        self._waiting: dict[bytes, list[Waiter]] = {}
        self._to_ask: list[IdentifiedChunk] = []
        self._is_asking = False
        self._unpacked = 0  # chunks that are being asked for or compressed
        self._readers = 0
        self._pack = _Pack()
        self._slots = asyncio.Semaphore(PACKS_IN_FLIGHT)

    def reader_started(self) -> None:
        """Somebody will bring chunks."""
        self._readers += 1

    def reader_stopped(self) -> None:
        """Somebody has brought all."""
        self._readers -= 1
        self._flush_if_last()

    def add(self, chunks: Iterable[IdentifiedChunk], waiter: Waiter) -> int:
        """Take chunks in; *waiter* learns when each has a number.

        Returns:
            How many of their raw bytes are held on to. Room for these must have been taken from the budget; it is given
            back from here.
        """
        held_bytes = 0
        for chunk in chunks:
            if chunk.identity in self._numbers:
                continue
            waiter.pending += 1
            waiters = self._waiting.setdefault(chunk.identity, [])
            waiters.append(waiter)
            if len(waiters) == 1:
                held_bytes += len(chunk.raw)
                self._to_ask.append(chunk)
        if self._to_ask and not self._is_asking:
            self._is_asking = True
            self._tasks.create_task(self._ask())
        return held_bytes

    def numbers_of(self, identities: Iterable[bytes]) -> list[int]:
        """The numbers of chunks that a waiter has waited for."""
        return [self._numbers[identity] for identity in identities]

    def forget(self, identities: Iterable[bytes]) -> None:
        """The server lacks these after all: ask again when they come again."""
        for identity in identities:
            self._numbers.pop(identity, None)

    async def _ask(self) -> None:
        """Ask for what has gathered, and while an answer is under way let more gather."""
        most = min(self._parameters.max_identities, _MAX_ASKED)
        while self._to_ask:
            if len(self._to_ask) < _ENOUGH_TO_ASK and self._readers:
                await asyncio.sleep(_GATHERING_SECONDS)
            asked, self._to_ask = self._to_ask[:most], self._to_ask[most:]
            self._unpacked += len(asked)
            numbers = await self._server.find_missing_chunks(self._cache, [chunk.identity for chunk in asked])
            missing: list[IdentifiedChunk] = []
            for chunk, number in zip(asked, numbers, strict=True):
                if number is None:
                    missing.append(chunk)
                else:
                    self._unpacked -= 1
                    self._budget.give_back(len(chunk.raw))
                    self._settle(chunk.identity, number)
            for batch in _batches(missing):
                self._tasks.create_task(self._compress(batch))
        self._is_asking = False
        self._flush_if_last()

    async def _compress(self, batch: list[IdentifiedChunk]) -> None:
        level = self._parameters.zstd_level
        loop = asyncio.get_running_loop()
        frames = await loop.run_in_executor(self._executor, _make_frames, batch, level)
        for chunk, frame in zip(batch, frames, strict=True):
            self._budget.give_back(len(chunk.raw) - len(frame.data))
            self._counts.new_bytes += len(chunk.raw)
            self._pack.add(chunk, frame)
            if self._pack.is_full(self._parameters.pack_bytes):
                self._send_pack()
        self._unpacked -= len(batch)
        self._flush_if_last()

    def _flush_if_last(self) -> None:
        if not (self._readers or self._unpacked or self._to_ask) and self._pack.entries:
            self._send_pack()

    def _send_pack(self) -> None:
        pack, self._pack = self._pack, _Pack()
        self._tasks.create_task(self._send(pack))

    async def _send(self, pack: _Pack) -> None:
        async with self._slots:
            body = pack.render()
            pack.frames.clear()
            answer = await self._server.send_pack(self._cache, body)
        if len(answer.numbers) != len(pack.entries):
            raise InvalidFormat(
                f"{self._server.url}: a pack of {len(pack.entries)} chunks was answered with {len(answer.numbers)} "
                "numbers; as many were expected"
            )
        self._counts.stored_bytes += answer.stored_bytes
        self._counts.sent_bytes = self._server.sent_bytes
        self._budget.give_back(pack.frame_bytes)
        for entry, number in zip(pack.entries, answer.numbers, strict=True):
            self._settle(entry.identity, number)

    def _settle(self, identity: bytes, number: int) -> None:
        self._numbers[identity] = number
        for waiter in self._waiting.pop(identity):
            waiter.settle_one()


def _make_frames(chunks: Sequence[IdentifiedChunk], level: int) -> list[Frame]:
    return [make_frame(chunk.raw, chunk.positions, level=level) for chunk in chunks]


def _batches(chunks: Sequence[IdentifiedChunk]) -> Iterable[list[IdentifiedChunk]]:
    batch: list[IdentifiedChunk] = []
    batch_bytes = 0
    for chunk in chunks:
        batch.append(chunk)
        batch_bytes += len(chunk.raw)
        if batch_bytes >= _FRAMES_AT_ONCE_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
