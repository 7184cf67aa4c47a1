"""A reader of NARs that is fed bytes as they come and answers with what they say, as strict as Nix 2.35.

Source: Nix, src/libutil/archive.cc, ``parseDump``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.nar_framing import (
    CLOSE,
    DIRECTORY,
    ENTRY,
    EXECUTABLE,
    MAGIC,
    MAX_DEPTH,
    MAX_NAME_BYTES,
    MAX_NAR_BYTES,
    MAX_TARGET_BYTES,
    NODE,
    PADDINGS,
    REGULAR,
    SYMLINK,
    U64,
)


# Events are made by the hundred thousand, and a frozen dataclass takes three times as long to make; so these are frozen
# by custom only, but for those that say nothing more than their name, of which the reader hands out one and the same.
@dataclass(slots=True)
class DirectoryStart:
    """A folder begins; its entries follow, then `DirectoryEnd`. *name* is ``None`` for the root."""

    name: bytes | None


@dataclass(frozen=True, slots=True)
class DirectoryEnd:
    """The innermost open folder has no more entries."""


@dataclass(slots=True)
class RegularStart:
    """A file begins; its contents follow as any number of `RegularData`, then `RegularEnd`.

    *name* is ``None`` for the root. *size* is in bytes; *nar_offset* is where the contents begin in the NAR.
    """

    name: bytes | None
    size: int
    executable: bool
    nar_offset: int


@dataclass(slots=True)
class RegularData:
    """The next bytes of a file, never none: a view of what was fed, good for as long as that is not overwritten."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class RegularEnd:
    """The file is complete."""


@dataclass(slots=True)
class Symlink:
    """A symlink. *name* is ``None`` for the root."""

    name: bytes | None
    target: bytes


NarEvent = DirectoryStart | DirectoryEnd | RegularStart | RegularData | RegularEnd | Symlink

_DIRECTORY_END: Final = DirectoryEnd()
_REGULAR_END: Final = RegularEnd()
_NODE_TAILS: Final = tuple(padding + CLOSE for padding in PADDINGS)
_ENTRY_NODE_TAILS: Final = tuple(padding + CLOSE + CLOSE for padding in PADDINGS)
_NAME_TAILS: Final = tuple(padding + NODE for padding in PADDINGS)
_NODES: Final = (REGULAR, EXECUTABLE, DIRECTORY, SYMLINK)
_ENTRY_OR_CLOSE: Final = (ENTRY, CLOSE)
_ENTRY_OR_CLOSE_TWICE: Final = (ENTRY, CLOSE + CLOSE)
_BAD_NAMES: Final = frozenset({b".", b".."})
_read_u64: Final = U64.unpack_from


class NarReader:
    """Reads one NAR. Feed it all bytes in order, or skip contents; then call `finish`. An error makes it useless.

    It keeps the names on the way to the present node and less than 5 KiB of unfinished framing, whatever it is fed;
    contents are handed on as they come and never kept. Not for several threads at once.

    Each step below looks at the bytes from a position on, and either consumes some and returns the new position, or
    returns ``None`` to wait for more.
    """

    def __init__(self, *, max_nar_bytes: int = MAX_NAR_BYTES) -> None:
        """Refuse a NAR as soon as it must become longer than *max_nar_bytes*."""
        self._max_nar_bytes = max_nar_bytes
        self._step: Callable[[bytes, int], int | None] = self._read_magic
        self._events: list[NarEvent] = []
        self._pending = b""
        self._pending_offset = 0
        self._fed_bytes = 0
        self._view = memoryview(b"")
        self._left = 0
        self._size = 0
        self._name: bytes | None = None
        # The latest name in each open folder, outermost first; empty before the first entry.
        self._latest_names: list[bytes] = []

    @property
    def fed_bytes(self) -> int:
        """How many bytes were fed: after `finish`, the size of the NAR."""
        return self._fed_bytes

    def feed(self, data: bytes | memoryview) -> list[NarEvent]:
        """Read on with *data* and return what is known by now, in order.

        Raises:
            InvalidFormat: Nix would refuse the NAR; the message has the offset in bytes.
        """
        self._fed_bytes += len(data)
        events: list[NarEvent] = []
        self._events = events
        if self._left:
            # The usual case in a large file: these bytes are handed on without a look.
            view = memoryview(data)
            part = view[: self._left]
            events.append(RegularData(part))
            self._left -= len(part)
            self._pending_offset += len(part)
            if not self._left:
                self._step = self._read_contents_tail
            if len(part) == len(view):
                return events
            buffer = bytes(view[len(part) :])
        elif self._pending:
            buffer = b"".join((self._pending, data))
        else:
            buffer = data if isinstance(data, bytes) else bytes(data)
        self._view = memoryview(buffer)
        self._check_length(self._pending_offset, len(buffer))
        position = 0
        next_position = self._step(buffer, 0)
        while next_position is not None:
            position = next_position
            next_position = self._step(buffer, position)
        self._pending = buffer[position:]
        self._pending_offset += position
        return events

    @property
    def bytes_to_skip(self) -> int:
        """How many of the next bytes are contents of the present file, which nobody needs to feed."""
        return self._left

    def skip(self, size: int) -> None:
        """Read on as if the next *size* bytes, at most `bytes_to_skip`, had been fed. They are not handed on."""
        if not 0 <= size <= self._left:
            raise ValueError(f"{size} bytes to skip: expected 0 to {self._left}, the rest of the file")
        if size:
            self._fed_bytes += size
            self._pending_offset += size
            self._left -= size
            if not self._left:
                self._step = self._read_contents_tail

    def finish(self) -> None:
        """Say that all bytes were fed.

        Raises:
            InvalidFormat: the NAR is not complete.
        """
        if self._step != self._refuse_more:
            raise InvalidFormat(f"NAR offset {self._fed_bytes}: the NAR is cut short here")

    def _read_magic(self, buffer: bytes, position: int) -> int | None:
        if self._which(buffer, position, (MAGIC,)) is None:
            return None
        self._step = self._read_node
        return position + len(MAGIC)

    def _read_node(self, buffer: bytes, position: int) -> int | None:
        kind = self._which(buffer, position, _NODES)
        if kind is None:
            return None
        if len(self._latest_names) >= MAX_DEPTH:
            raise self._error(position, f"the tree is more than {MAX_DEPTH} nodes deep")
        after = position + len(kind)
        if kind is DIRECTORY:
            self._events.append(DirectoryStart(self._name))
            self._latest_names.append(b"")
            self._step = self._read_entry
            return after
        if len(buffer) < after + 8:
            return None
        size: int = _read_u64(buffer, after)[0]
        if kind is SYMLINK:
            return self._read_target(buffer, after, size)
        after += 8
        self._check_length(self._pending_offset + after, size, at=position)
        self._events.append(RegularStart(self._name, size, kind is EXECUTABLE, self._pending_offset + after))
        self._size = size
        self._left = size
        self._step = self._read_contents if size else self._read_contents_tail
        return after

    def _read_contents(self, buffer: bytes, position: int) -> int | None:
        size = min(self._left, len(buffer) - position)
        if not size:
            return None
        self._events.append(RegularData(self._view[position : position + size]))
        self._left -= size
        if not self._left:
            self._step = self._read_contents_tail
        return position + size

    def _read_contents_tail(self, buffer: bytes, position: int) -> int | None:
        after = self._read_node_tail(buffer, position, self._size)
        if after is not None:
            self._events.append(_REGULAR_END)
        return after

    def _read_target(self, buffer: bytes, position: int, size: int) -> int | None:
        if not 0 < size <= MAX_TARGET_BYTES:
            raise self._error(position, f"a symlink target of {size} bytes: expected 1 to {MAX_TARGET_BYTES}")
        start = position + 8
        if len(buffer) < start + size:
            return None
        target = buffer[start : start + size]
        if b"\0" in target:
            raise self._error(start, f"symlink target {excerpt(target)} has a NUL")
        after = self._read_node_tail(buffer, start + size, size)
        if after is not None:
            self._events.append(Symlink(self._name, target))
        return after

    def _read_entry(self, buffer: bytes, position: int) -> int | None:
        # The close of a folder that is an entry itself is followed by that of the entry.
        nested = len(self._latest_names) > 1
        token = self._which(buffer, position, _ENTRY_OR_CLOSE_TWICE if nested else _ENTRY_OR_CLOSE)
        if token is None:
            return None
        after = position + len(token)
        if token is not ENTRY:
            self._events.append(_DIRECTORY_END)
            self._latest_names.pop()
            self._step = self._read_entry if self._latest_names else self._refuse_more
            return after
        if len(buffer) < after + 8:
            return None
        size: int = _read_u64(buffer, after)[0]
        if not 0 < size <= MAX_NAME_BYTES:
            raise self._error(after, f"a file name of {size} bytes: expected 1 to {MAX_NAME_BYTES}")
        start = after + 8
        end = start + size
        if len(buffer) < end:
            return None
        tail = self._which(buffer, end, (_NAME_TAILS[size & 7],))
        if tail is None:
            return None
        self._enter(buffer[start:end], start)
        self._step = self._read_node
        return end + len(tail)

    def _enter(self, name: bytes, position: int) -> None:
        latest = self._latest_names[-1]
        if name <= latest:
            problem = "occurs twice in its folder" if name == latest else f"comes after {excerpt(latest)}, not sorted"
            raise self._error(position, f"file name {excerpt(name)} {problem}")
        if b"/" in name or b"\0" in name or name in _BAD_NAMES:
            raise self._error(position, f"file name {excerpt(name)}: expected no '/', no NUL, not '.' or '..'")
        self._latest_names[-1] = name
        self._name = name

    def _read_node_tail(self, buffer: bytes, position: int, size: int) -> int | None:
        """Read what follows the last string, of *size* bytes, of a file or symlink."""
        tails = _ENTRY_NODE_TAILS if self._latest_names else _NODE_TAILS
        tail = self._which(buffer, position, (tails[size & 7],))
        if tail is None:
            return None
        self._step = self._read_entry if self._latest_names else self._refuse_more
        return position + len(tail)

    def _refuse_more(self, buffer: bytes, position: int) -> int | None:
        if len(buffer) > position:
            raise self._error(position, "bytes follow the end of the NAR")
        return None

    def _which(self, buffer: bytes, position: int, expected: tuple[bytes, ...]) -> bytes | None:
        """Tell which of *expected* stands at *position*: ``None`` while none does but one still may."""
        for framing in expected:
            if buffer.startswith(framing, position):
                return framing
        rest = buffer[position : position + max(map(len, expected))]
        if any(framing.startswith(rest) for framing in expected):
            return None
        # Report the word that fits none of them; words begin at multiples of 8.
        fits = max(_common_length(rest, framing) for framing in expected)
        start = max(0, fits - (self._pending_offset + position + fits) % 8)
        alive = sorted({framing[start : start + 24] for framing in expected if framing.startswith(rest[:fits])})
        wanted = " or ".join(excerpt(framing) for framing in alive)
        raise self._error(position + start, f"found {excerpt(rest[start : start + 24])}, expected {wanted}")

    def _check_length(self, offset: int, size: int, *, at: int | None = None) -> None:
        if offset + size > self._max_nar_bytes:
            problem = f"{size} more bytes make the NAR longer than {self._max_nar_bytes} bytes"
            raise self._error(0 if at is None else at, problem)

    def _error(self, position: int, problem: str) -> InvalidFormat:
        return InvalidFormat(f"NAR offset {self._pending_offset + position}: {problem}")


def _common_length(left: bytes, right: bytes) -> int:
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length
