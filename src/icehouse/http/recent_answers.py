"""Answers about narinfos, kept in memory for as long as they are true.

The database says in one row how often something changed that an answer depends on; triggers see to that, whoever makes
the change, in whichever process. The row is read once in each turn of the event loop in which anybody asks: what was
committed before a request arrived is seen by its answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from icehouse.db.serving import ServingQueries

MAX_BYTES: Final = 192 * 1024 * 1024
"""All narinfos together, of one worker: more than 100,000 with a dozen references each."""

MAX_ABSENT: Final = 200_000
"""Paths that are known to be absent, at some 160 bytes each. Beyond that all are forgotten, and learned anew."""

_ENTRY_BYTES: Final = 320
"""What a narinfo takes beside the path that was asked for and its text."""

Found = tuple[int, bytes]
"""The number of a store path, and its narinfo."""


class RecentAnswers:
    """Which narinfos there are and are not, by the path that was asked. Belongs to one event loop.

    Only what is the same for every caller may be kept.
    """

    __slots__ = (
        "_absent",
        "_added",
        "_bytes",
        "_call_soon",
        "_changed",
        "_found",
        "_is_checked",
        "_max_bytes",
        "_queries",
    )

    def __init__(
        self,
        queries: ServingQueries,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Begin with none. *call_soon* has a function called in the next turn of the event loop."""
        self._queries = queries
        self._call_soon = call_soon
        self._max_bytes = max_bytes
        self._found: OrderedDict[bytes, Found] = OrderedDict()
        self._absent: set[bytes] = set()
        self._bytes = 0
        self._added: int = -1
        self._changed: int = -1
        self._is_checked = False

    def find(self, raw_path: bytes) -> Found | None:
        """The narinfo at *raw_path*, if it was kept and is true.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        if not self._is_checked:
            self._check()
        found = self._found.get(raw_path)
        if found is not None:
            self._found.move_to_end(raw_path)
        return found

    def is_absent(self, raw_path: bytes) -> bool:
        """Whether it is known that nothing is at *raw_path*. To be asked right after `find` had nothing."""
        return raw_path in self._absent

    def keep(self, raw_path: bytes, path_id: int, text: bytes) -> None:
        """Keep what the database gave just now, after `find` had nothing; drop what was not used for longest."""
        found = self._found
        replaced = found.pop(raw_path, None)
        if replaced is not None:
            self._bytes -= _size(raw_path, replaced)
        found[raw_path] = kept = (path_id, text)
        self._bytes += _size(raw_path, kept)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*found.popitem(last=False))

    def keep_absent(self, raw_path: bytes) -> None:
        """Keep that the database had nothing just now."""
        if len(self._absent) >= MAX_ABSENT:
            self._absent.clear()
        self._absent.add(raw_path)

    def _check(self) -> None:
        # Read before anything that is kept in this turn, so that no answer is older than the numbers it is kept with.
        added, changed = self._queries.find_version()
        if changed != self._changed:
            self._found.clear()
            self._bytes = 0
        if (added, changed) != (self._added, self._changed):
            self._absent.clear()
        self._added, self._changed = added, changed
        self._is_checked = True
        self._call_soon(self._forget_check)

    def _forget_check(self) -> None:
        self._is_checked = False


def _size(raw_path: bytes, found: Found) -> int:
    return _ENTRY_BYTES + len(raw_path) + len(found[1])
