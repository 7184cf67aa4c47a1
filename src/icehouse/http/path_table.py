"""Texts by the path that is asked for, in as few places of memory as can be.

Where 100,000 narinfos take turns, each place that an answer needs is fetched from main memory, at 0.2 to 0.7 µs one
after the other: of a dict its index, its entry and its key, then the object that counts, then the text. Here it is a
list's item and what it names: the path and, behind it, the text. What else a question needs is a byte for each slot,
near the processor: seven bits of the hash, so that other paths are passed by unseen, and how often it was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

SLOTS: Final = 1 << 18
"""Of a table, at 18 bytes each: some 40 % of them are taken by 100,000 paths."""

_END: Final = b"\0"
"""Between a path and its text, in neither of which it is."""

_MOST_USES: Final = 255
"""That are counted before they are added up: what a byte can say."""

_TAKEN: Final = 0x80
_TAG_BITS: Final = 0x7F
_TAG_SHIFT: Final = 56
"""The highest bits of a hash, which say nothing about the slot."""

_ENTRY_BYTES: Final = 160
"""What an entry takes beside its path and its text."""


S = TypeVar("S")
"""What a text is about."""


class PathTable(Generic[S]):
    """Texts that were asked for of late, of so many bytes at most. Belongs to one event loop.

    Open addressing with linear probing (Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithms L and
    R), and replacement by second chance, or clock: a hand goes round the slots and drops what was not used since it
    came by, or since uses were added up.
    """

    __slots__ = (
        "_aside",
        "_bytes",
        "_hand",
        "_mask",
        "_max_bytes",
        "_note",
        "_records",
        "_subjects",
        "_tags",
        "_taken",
        "_used",
        "_uses",
    )

    def __init__(self, max_bytes: int, note: Callable[[S, int, int], None], *, slots: int = SLOTS) -> None:
        """Begin empty.

        *note* gets what was asked for, how often, and the length of its text; *slots* is a power of two.
        """
        self._max_bytes = max_bytes
        self._note = note
        self._mask = slots - 1
        self._tags = bytearray(slots)
        """Of each slot that is taken, `_TAKEN` and seven bits of its path's hash; of others 0."""
        self._records: list[bytes] = [b""] * slots
        """Path, `_END` and text in each slot that is taken."""
        self._subjects: list[S | None] = [None] * slots
        self._uses = bytearray(slots)
        """Of each slot, since they were last added up."""
        self._used: list[int] = []
        """All slots that have uses, and maybe others."""
        self._aside: list[tuple[S, int, int]] = []
        """Uses of what is no longer in its slot, or was used too often for a byte, as *note* gets them."""
        self._taken = 0
        self._bytes = 0
        self._hand = 0

    def find(self, raw_path: bytes) -> bytes | None:
        """The text at *raw_path*, which counts as a use of it."""
        # Every step of this is in the requests per second that `make bench` compares.
        hashed = hash(raw_path)
        at = hashed & self._mask
        tag = hashed >> _TAG_SHIFT & _TAG_BITS | _TAKEN
        tags = self._tags
        while found := tags[at]:
            if found == tag and (record := self._records[at]).startswith(raw_path):
                end = len(raw_path)
                if record[end : end + 1] == _END:
                    uses = self._uses[at]
                    if not uses:
                        self._used.append(at)
                    elif uses == _MOST_USES:
                        self._set_aside(at)
                        uses = 0
                    self._uses[at] = uses + 1
                    return record[end + 1 :]
            at = (at + 1) & self._mask
        return None

    def put(self, raw_path: bytes, text: bytes, subject: S) -> None:
        """Keep a text, where there is none yet."""
        at = self._home(raw_path)
        while self._tags[at]:
            at = (at + 1) & self._mask
        record = raw_path + _END + text
        self._tags[at] = hash(raw_path) >> _TAG_SHIFT & _TAG_BITS | _TAKEN
        self._records[at], self._subjects[at] = record, subject
        self._taken += 1
        self._bytes += _size(record)
        # Where more slots are taken, a path lies far from where it is looked for first.
        while self._bytes > self._max_bytes or self._taken > self._mask * 3 // 4:
            self._drop()

    def settle(self, most: int) -> bool:
        """Have uses noted, in *most* steps of one or two microseconds; whether there may be more of them."""
        for _ in range(most):
            if self._aside:
                self._note(*self._aside.pop())
            elif self._used:
                self._set_aside(self._used.pop())
            else:
                return False
        return True

    def clear(self) -> None:
        """Drop everything. The uses are still noted."""
        for at in self._used:
            self._set_aside(at)
        self._used.clear()
        if self._taken:
            self._tags = bytearray(self._mask + 1)
            self._records = [b""] * (self._mask + 1)
            self._subjects = [None] * (self._mask + 1)
            self._taken = self._bytes = 0

    def _drop(self) -> None:
        """Drop what the hand finds first that was not used."""
        while True:
            at = self._hand
            if self._tags[at]:
                if not self._uses[at]:
                    self._remove(at)  # what follows may come here, so the hand stays
                    return
                self._set_aside(at)
            self._hand = (at + 1) & self._mask

    def _remove(self, at: int) -> None:
        """Free a slot without uses. What lies behind it, for want of room, comes nearer to where it is looked for."""
        tags, records, subjects, uses, mask = self._tags, self._records, self._subjects, self._uses, self._mask
        self._taken -= 1
        self._bytes -= _size(records[at])
        following = (at + 1) & mask
        while tags[following]:
            record = records[following]
            if (following - self._home(record[: record.index(_END)])) & mask >= (following - at) & mask:
                tags[at], records[at], subjects[at] = tags[following], record, subjects[following]
                uses[at], uses[following] = uses[following], 0
                if uses[at]:
                    self._used.append(at)
                at = following
            following = (following + 1) & mask
        tags[at], records[at], subjects[at] = 0, b"", None

    def _set_aside(self, at: int) -> None:
        uses, subject, record = self._uses[at], self._subjects[at], self._records[at]
        if uses and subject is not None:
            self._uses[at] = 0
            self._aside.append((subject, uses, len(record) - record.index(_END) - 1))

    def _home(self, raw_path: bytes) -> int:
        return hash(raw_path) & self._mask


def _size(record: bytes) -> int:
    return _ENTRY_BYTES + len(record)
