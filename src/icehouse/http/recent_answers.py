"""Narinfos, and small NARs, kept in memory for as long as they are true.

The database says in one row how often something changed that an answer depends on; triggers see to that, whoever makes
the change, in whichever process. The row is read once in each turn of the event loop in which anybody asks: what was
committed before a request arrived is seen by its answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from icehouse.db.serving import NarRow, ServingQueries
from icehouse.http.asgi import Head
from icehouse.http.path_table import PathTable
from icehouse.services.traffic import CacheTraffic

MAX_BYTES: Final = 192 * 1024 * 1024
"""All narinfos together, of one worker: more than 100,000 with a dozen references each."""

MAX_NAR_BYTES: Final = 32 * 1024 * 1024
"""All NARs together, of one worker."""

MAX_ABSENT_BYTES: Final = 48 * 1024 * 1024
"""All paths together that are known to be absent, with what is answered, of one worker: more than 150,000."""

_NAR_ENTRY_BYTES: Final = 500
"""What a NAR takes beside the path that was asked for and its file."""


class Subject(NamedTuple):
    """What a narinfo is about."""

    path_id: int
    traffic: CacheTraffic
    """Where to count that somebody asked for it."""


class KeptNar(NamedTuple):
    """The file of a NAR."""

    body: bytes
    row: NarRow
    head: Head


class RecentAnswers:
    """What narinfos and NARs there are, and which narinfos there are not, by the path that was asked.

    Belongs to one event loop. Only what is the same for every caller may be kept, and of NARs those of visible paths.
    """

    __slots__ = ("_absent", "_added", "_call_soon", "_changed", "_is_checked", "_narinfos", "_nars", "_queries")

    def __init__(
        self,
        queries: ServingQueries,
        call_soon: Callable[[Callable[[], None]], object],
        note: Callable[[Subject, int, int], None],
        *,
        max_bytes: int = MAX_BYTES,
        max_nar_bytes: int = MAX_NAR_BYTES,
        max_absent_bytes: int = MAX_ABSENT_BYTES,
    ) -> None:
        """Begin with none.

        *call_soon* has a function called in the next turn of the event loop. *note* gets, now and then, which narinfo
        was given, how often, and the length of its text.
        """
        self._queries = queries
        self._call_soon = call_soon
        self._narinfos = PathTable[Subject](max_bytes, note)
        self._nars = _Nars(max_nar_bytes)
        self._absent = PathTable[CacheTraffic](max_absent_bytes, _note_missed)
        self._added: int = -1
        self._changed: int = -1
        self._is_checked = False

    def find(self, raw_path: bytes) -> bytes | None:
        """The narinfo at *raw_path*, if it was kept and is true. It counts as given.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        if not self._is_checked:
            self._check()
        return self._narinfos.find(raw_path)

    def find_absent(self, raw_path: bytes) -> bytes | None:
        """What to answer if it is known that no narinfo is at *raw_path*. To be asked right after `find` had nothing.

        It counts as missed then.
        """
        return self._absent.find(raw_path)

    def find_nar(self, raw_path: bytes) -> KeptNar | None:
        """The NAR at *raw_path*, if it was kept and is still there.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        if not self._is_checked:
            self._check()
        return self._nars.find(raw_path)

    def keep(self, raw_path: bytes, narinfo: bytes, subject: Subject) -> None:
        """Keep what the database gave just now, after `find` had nothing."""
        if self._is_checked:  # else `find` failed, and may have it
            self._narinfos.put(raw_path, narinfo, subject)

    def keep_nar(self, raw_path: bytes, found: KeptNar) -> None:
        """Keep a NAR that was read just now, after `find_nar` had nothing."""
        self._nars.put(raw_path, found)

    def settle(self, most: int) -> bool:
        """Have noted some of what was given and missed, as `PathTable.settle`; whether there may be more of it."""
        return self._narinfos.settle(most) or self._absent.settle(most)

    def keep_absent(self, raw_path: bytes, answer: bytes, traffic: CacheTraffic) -> None:
        """Keep that the database had nothing just now, how to say so, and where to count that somebody asks for it."""
        if self._is_checked:
            self._absent.put(raw_path, answer, traffic)

    def _check(self) -> None:
        # Read before anything that is kept in this turn, so that no answer is older than the numbers it is kept with.
        added, changed = self._queries.find_version()
        if changed != self._changed:
            self._narinfos.clear()
            self._nars.clear()
        if (added, changed) != (self._added, self._changed):
            self._absent.clear()
        self._added, self._changed = added, changed
        self._is_checked = True
        self._call_soon(self._forget_check)

    def _forget_check(self) -> None:
        self._is_checked = False


def _note_missed(traffic: CacheTraffic, count: int, _: int) -> None:
    traffic.misses += count


class _Nars:
    """The NARs that were used last, of so many bytes at most."""

    __slots__ = ("_bytes", "_entries", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, KeptNar] = OrderedDict()

    def find(self, raw_path: bytes) -> KeptNar | None:
        found = self._entries.get(raw_path)
        if found is not None:
            self._entries.move_to_end(raw_path)
        return found

    def put(self, raw_path: bytes, found: KeptNar) -> None:
        self._entries[raw_path] = found
        self._bytes += _size(raw_path, found)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*self._entries.popitem(last=False))

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0


def _size(raw_path: bytes, found: KeptNar) -> int:
    return _NAR_ENTRY_BYTES + len(raw_path) + len(found.body)
