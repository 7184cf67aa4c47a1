"""Noting when paths are used: counted in memory, written now and then, so that no read waits for a write."""

from __future__ import annotations

from typing import Final

from icehouse.db.access_times import PathUse, add_uses
from icehouse.db.engine import Database

MAX_NOTED: Final = 1_000_000
"""Paths noted in memory at most; where writing fails for so long, further ones are not noted."""

_BATCH: Final = 5_000


class AccessTimes:
    """Uses of paths since they were last written. Belongs to one event loop.

    Uses that a crash or a failing disk loses cost no data: retention then sees somewhat older times.
    """

    def __init__(self, database: Database, *, max_noted: int = MAX_NOTED) -> None:
        self._database = database
        self._max_noted = max_noted
        self._uses: dict[int, int] = {}
        self._last_used_at: dict[int, int] = {}

    def note(self, path_id: int, now: int) -> None:
        """Count one use of a path. Takes a fraction of a microsecond."""
        uses = self._uses
        if path_id in uses or len(uses) < self._max_noted:
            uses[path_id] = uses.get(path_id, 0) + 1
            self._last_used_at[path_id] = now

    def last_use(self, path_id: int) -> int | None:
        """When a path was last used, of what is not written yet."""
        return self._last_used_at.get(path_id)

    async def flush(self) -> None:
        """Write what was noted. What could not be written is kept for the next time; a batch may be counted twice then.

        Raises:
            StorageError: the database could not be written.
        """
        uses, last_used_at = self._uses, self._last_used_at
        self._uses, self._last_used_at = {}, {}
        rows = [PathUse(path_id, last_used_at[path_id], count) for path_id, count in uses.items()]
        written = 0
        try:
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                await self._database.write(lambda connection, batch=batch: add_uses(connection, batch))
                written = start + len(batch)
        finally:
            for use in rows[written:]:
                self._uses[use.path_id] = self._uses.get(use.path_id, 0) + use.uses
                self._last_used_at.setdefault(use.path_id, use.last_used_at)
