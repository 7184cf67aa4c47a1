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
from icehouse.http.asgi import SmallAnswer

MAX_BYTES: Final = 160 * 1024 * 1024
"""All answers together, of one worker: some 100,000 narinfos with a dozen references each."""

_ENTRY_BYTES: Final = 400
"""What an answer takes beside its path and its body."""

KeptAnswer = tuple[int | None, SmallAnswer, int]
"""The path's number, or `None` where there was none; the answer; how many paths had been added before."""


class RecentAnswers:
    """The answers used last, by the path that was asked. Belongs to one event loop.

    Only answers that are the same for every caller may be kept.
    """

    __slots__ = ("_added", "_answers", "_bytes", "_call_soon", "_changed", "_is_checked", "_max_bytes", "_queries")

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
        self._answers: OrderedDict[bytes, KeptAnswer] = OrderedDict()
        self._bytes = 0
        self._added: int = -1
        self._changed: int = -1
        self._is_checked = False

    def find(self, raw_path: bytes) -> KeptAnswer | None:
        """The answer to a request for *raw_path*, if one was kept and is true.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        if not self._is_checked:
            self._check()
        kept = self._answers.get(raw_path)
        if kept is None or (kept[0] is None and kept[2] != self._added):
            return None
        self._answers.move_to_end(raw_path)
        return kept

    def keep(self, raw_path: bytes, path_id: int | None, answer: SmallAnswer) -> None:
        """Keep what the database gave just now, after `find` had nothing; drop what was not used for longest."""
        answers = self._answers
        replaced = answers.pop(raw_path, None)
        if replaced is not None:
            self._bytes -= _size(raw_path, replaced)
        kept = (path_id, answer, self._added)
        answers[raw_path] = kept
        self._bytes += _size(raw_path, kept)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*answers.popitem(last=False))

    def _check(self) -> None:
        # Read before anything that is kept in this turn, so that no answer is older than the numbers it is kept with.
        added, changed = self._queries.find_version()
        if changed != self._changed:
            self._answers.clear()
            self._bytes = 0
        self._added, self._changed = added, changed
        self._is_checked = True
        self._call_soon(self._forget_check)

    def _forget_check(self) -> None:
        self._is_checked = False


def _size(raw_path: bytes, kept: KeptAnswer) -> int:
    return _ENTRY_BYTES + len(raw_path) + len(kept[1].body)
