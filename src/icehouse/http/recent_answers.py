"""Narinfos, and small NARs, kept in memory for as long as they are true.

The database says in one row how often something changed that an answer depends on; triggers see to that, whoever makes
the change, in whichever process. The row is read once in each turn of the event loop in which anybody asks: what was
committed before a request arrived is seen by its answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from icehouse.db.serving import NarRow, ServingQueries
from icehouse.http.asgi import Head
from icehouse.services.traffic import CacheTraffic

MAX_BYTES: Final = 192 * 1024 * 1024
"""All narinfos together, of one worker: more than 100,000 with a dozen references each."""

MAX_NAR_BYTES: Final = 32 * 1024 * 1024
"""All NARs together, of one worker."""

MAX_ABSENT: Final = 200_000
"""Paths that are known to be absent, at some 120 bytes each. Beyond that all are forgotten, and learned anew."""

_ENTRY_BYTES: Final = 320
"""What a narinfo takes beside the path that was asked for and its text. A NAR takes a little more."""

Found = tuple[int, bytes, CacheTraffic]
"""The number of a store path, its narinfo, and where to count that somebody asked for it."""

FoundNar = tuple[NarRow, bytes, Head]
"""What the database says of a NAR, its file, and what stands before that in an answer."""

T = TypeVar("T", Found, FoundNar)


class RecentAnswers:
    """What narinfos and NARs there are, and which narinfos there are not, by the path that was asked.

    Belongs to one event loop. Only what is the same for every caller may be kept, and of NARs those of visible paths.
    """

    __slots__ = ("_absent", "_added", "_call_soon", "_changed", "_found", "_is_checked", "_nars", "_queries")

    def __init__(
        self,
        queries: ServingQueries,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        max_bytes: int = MAX_BYTES,
        max_nar_bytes: int = MAX_NAR_BYTES,
    ) -> None:
        """Begin with none. *call_soon* has a function called in the next turn of the event loop."""
        self._queries = queries
        self._call_soon = call_soon
        self._found = _Kept[Found](max_bytes)
        self._nars = _Kept[FoundNar](max_nar_bytes)
        self._absent: set[bytes] = set()
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
        return self._found.find(raw_path)

    def is_absent(self, raw_path: bytes) -> bool:
        """Whether it is known that nothing is at *raw_path*. To be asked right after `find` had nothing."""
        return raw_path in self._absent

    def find_nar(self, raw_path: bytes) -> FoundNar | None:
        """The NAR at *raw_path*, if it was kept and is still there. To be asked right after `find` had nothing."""
        return self._nars.find(raw_path)

    def keep(self, raw_path: bytes, found: Found) -> None:
        """Keep what the database gave just now, after `find` had nothing."""
        self._found.put(raw_path, found)

    def keep_nar(self, raw_path: bytes, found: FoundNar) -> None:
        """Keep a NAR that was read just now, after `find_nar` had nothing."""
        self._nars.put(raw_path, found)

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
            self._nars.clear()
        if (added, changed) != (self._added, self._changed):
            self._absent.clear()
        self._added, self._changed = added, changed
        self._is_checked = True
        self._call_soon(self._forget_check)

    def _forget_check(self) -> None:
        self._is_checked = False


class _Kept(Generic[T]):
    """What was used last, of so many bytes at most."""

    __slots__ = ("_bytes", "_entries", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, T] = OrderedDict()

    def find(self, raw_path: bytes) -> T | None:
        entry = self._entries.get(raw_path)
        if entry is not None:
            self._entries.move_to_end(raw_path)
        return entry

    def put(self, raw_path: bytes, entry: T) -> None:
        """Keep *entry*; drop what was not used for longest."""
        entries = self._entries
        replaced = entries.pop(raw_path, None)
        if replaced is not None:
            self._bytes -= _size(raw_path, replaced)
        entries[raw_path] = entry
        self._bytes += _size(raw_path, entry)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*entries.popitem(last=False))

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0


def _size(raw_path: bytes, entry: Found | FoundNar) -> int:
    return _ENTRY_BYTES + len(raw_path) + len(entry[1])
