"""Noting when paths are used: counted in memory, written now and then, so that no read waits for a write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from icehouse.db.access_times import PathUse, add_uses
from icehouse.db.engine import Database

MAX_NOTED: Final = 1_000_000
"""Paths noted in memory at most; where writing fails for so long, further ones are not noted."""

_BATCH: Final = 50_000


class PathUses:
    """How often a path was used since that was last written, and when last. Whoever keeps an answer may keep this."""

    __slots__ = ("count", "last_used_at", "path_id")

    def __init__(self, path_id: int) -> None:
        self.path_id = path_id
        self.count = 0
        self.last_used_at = 0
        """Seconds since the epoch; stays when it is written."""


class AccessTimes:
    """Uses of paths since they were last written. Belongs to one event loop.

    Uses that a crash or a failing disk loses cost no data: retention then sees somewhat older times.
    """

    def __init__(self, database: Database, *, max_noted: int = MAX_NOTED) -> None:
        self._database = database
        self._max_noted = max_noted
        self._noted: dict[int, PathUses] = {}
        self._now = 0

    def note(self, path_id: int, now: int) -> None:
        """Count one use of a path."""
        self.count(self._noted.get(path_id) or PathUses(path_id), now)

    def count(self, uses: PathUses, now: int) -> None:
        """Count one use of a path. Where 100,000 paths take turns, what is not touched here is what is saved."""
        if now != self._now:
            self._now = now
        if not uses.count:
            uses = self._begin(uses)
        uses.count += 1
        uses.last_used_at = self._now  # the same object for all uses within a second

    def last_use(self, path_id: int) -> int | None:
        """When a path was last used, of what is not written yet."""
        uses = self._noted.get(path_id)
        return None if uses is None else uses.last_used_at

    async def flush(self) -> None:
        """Write what was noted. What could not be written is kept for the next time; a batch may be counted twice then.

        Raises:
            StorageError: the database could not be written.
        """
        due, self._noted = list(self._noted.values()), {}
        rows: list[PathUse] = []
        try:
            while due:
                rows, due = _take(due[:_BATCH]), due[_BATCH:]
                await self._database.write(lambda connection, rows=rows: add_uses(connection, rows))
                rows = []
        finally:
            for row in rows + _take(due):
                uses = self._noted.setdefault(row.path_id, PathUses(row.path_id))
                uses.count += row.uses
                uses.last_used_at = max(uses.last_used_at, row.last_used_at)

    def _begin(self, uses: PathUses) -> PathUses:
        """What counts the uses of that path until they are written, if there is room: maybe another's."""
        if len(self._noted) < self._max_noted:
            return self._noted.setdefault(uses.path_id, uses)
        return self._noted.get(uses.path_id) or PathUses(uses.path_id)


def _take(noted: Iterable[PathUses]) -> list[PathUse]:
    """What is to be written. From here on it counts anew."""
    rows: list[PathUse] = []
    for uses in noted:
        rows.append(PathUse(uses.path_id, uses.last_used_at, uses.count))
        uses.count = 0
    return rows
