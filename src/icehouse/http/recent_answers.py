"""Narinfos, and small NARs, kept in memory for as long as they are true.

The database says in one row how often something changed that an answer depends on; triggers see to that, whoever makes
the change, in whichever process. The row is read once in each turn of the event loop in which anybody asks: what was
committed before a request arrived is seen by its answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from icehouse.db.serving import NarRow, ServingQueries
from icehouse.http.asgi import Head
from icehouse.services.access_times import PathUses
from icehouse.services.traffic import CacheTraffic

MAX_BYTES: Final = 192 * 1024 * 1024
"""All narinfos together, of one worker: more than 100,000 with a dozen references each."""

MAX_NAR_BYTES: Final = 32 * 1024 * 1024
"""All NARs together, of one worker."""

MAX_ABSENT: Final = 200_000
"""Paths that are known to be absent, at some 120 bytes each. Beyond that all are forgotten, and learned anew."""

_ENTRY_BYTES: Final = 320
"""What a narinfo takes beside the path that was asked for and its text. A NAR takes a little more."""


class KeptAnswer(PathUses):
    """The body of an answer, and the uses of the path that it is about.

    One object for both: where 100,000 answers take turns, each object that one needs is fetched from main memory.
    """

    __slots__ = ("body",)

    def __init__(self, path_id: int, body: bytes) -> None:
        super().__init__(path_id)
        self.body = body

    def forget(self) -> None:
        """Let go of the answer. The uses are still to be written."""
        self.body = b""


class KeptNarinfo(KeptAnswer):
    """A narinfo."""

    __slots__ = ("traffic",)

    def __init__(self, path_id: int, body: bytes, traffic: CacheTraffic) -> None:
        super().__init__(path_id, body)
        self.traffic = traffic
        """Where to count that somebody asked for it."""


class KeptNar(KeptAnswer):
    """The file of a NAR."""

    __slots__ = ("head", "row")

    def __init__(self, path_id: int, body: bytes, row: NarRow, head: Head) -> None:
        super().__init__(path_id, body)
        self.row = row
        self.head = head


T = TypeVar("T", bound=KeptAnswer)


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
        self._found = _Kept[KeptNarinfo](max_bytes)
        self._nars = _Kept[KeptNar](max_nar_bytes)
        self._absent: set[bytes] = set()
        self._added: int = -1
        self._changed: int = -1
        self._is_checked = False

    def find(self, raw_path: bytes) -> KeptNarinfo | None:
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

    def find_nar(self, raw_path: bytes) -> KeptNar | None:
        """The NAR at *raw_path*, if it was kept and is still there. To be asked right after `find` had nothing."""
        return self._nars.find(raw_path)

    def keep(self, raw_path: bytes, found: KeptNarinfo) -> None:
        """Keep what the database gave just now, after `find` had nothing."""
        self._found.put(raw_path, found)

    def keep_nar(self, raw_path: bytes, found: KeptNar) -> None:
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
    """What was used last, of so many bytes at most.

    A hit touches nothing here but what it gives. The queue has everything in the order in which it came; what was used
    since it came, or since it was seen at the front, goes to the end instead of being dropped: the replacement known
    as second chance, or clock.
    """

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_queue", "find")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: dict[bytes, T] = {}
        self._queue: deque[tuple[bytes, int]] = deque()
        """Paths that were asked, and when what is at them had been used last."""
        self.find: Callable[[bytes], T | None] = self._entries.get

    def put(self, raw_path: bytes, entry: T) -> None:
        """Keep *entry*, of which there is none yet."""
        entries = self._entries
        entries[raw_path] = entry
        self._queue.append((raw_path, entry.last_used_at))
        self._bytes += _size(raw_path, entry)
        while self._bytes > self._max_bytes:
            oldest, seen_at = self._queue.popleft()
            if entries[oldest].last_used_at > seen_at:
                self._queue.append((oldest, entries[oldest].last_used_at))
            else:
                dropped = entries.pop(oldest)
                self._bytes -= _size(oldest, dropped)
                dropped.forget()

    def clear(self) -> None:
        for entry in self._entries.values():
            entry.forget()
        self._entries.clear()
        self._queue.clear()
        self._bytes = 0


def _size(raw_path: bytes, entry: KeptAnswer) -> int:
    return _ENTRY_BYTES + len(raw_path) + len(entry.body)
