"""Store paths that wait to be pushed, in a SQLite file of their own or in memory.

What `add` returned from is kept, whatever happens to the process or the machine, until it is pushed or refused. A path
waits once for each cache. Pushing twice is harmless, so a path leaves the queue after it was published: a process that
dies in between finds it in the cache the next time, and sends nothing.

It is a file of the client, so none of the server's modules reads or writes it.
"""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from icehouse.errors import Corrupt, Unavailable
from icehouse.nix.store_paths import StorePath

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE queued (
        number INTEGER PRIMARY KEY,
        cache TEXT NOT NULL,
        path TEXT NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        UNIQUE (cache, path)
    ) STRICT;
    CREATE INDEX queued_in_order ON queued (cache, tries, number);
    CREATE TABLE refused (
        number INTEGER PRIMARY KEY, cache TEXT NOT NULL, path TEXT NOT NULL, reason TEXT NOT NULL, time INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE totals (
        cache TEXT PRIMARY KEY, done INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0,
        gone INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    PRAGMA user_version = {_SCHEMA_VERSION};
    COMMIT;
"""
_Outcome = Literal["done", "gone", "refused"]
_COUNT: Final[dict[_Outcome, str]] = {
    "done": "UPDATE totals SET done = done + ? WHERE cache = ?",
    "gone": "UPDATE totals SET gone = gone + ? WHERE cache = ?",
    "refused": "UPDATE totals SET refused = refused + ? WHERE cache = ?",
}
_KEPT_REFUSALS: Final = 1000
_BUSY_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Refusal:
    """A path that was given up, and why."""

    path: StorePath
    reason: str


@dataclass(frozen=True, slots=True)
class Totals:
    """What became of a cache's paths since the file was made."""

    waiting: int
    done: int
    """Now in the cache, with all that they reach."""
    refused: int
    gone: int
    """No longer valid when their turn came: garbage was collected."""


class PushQueue:
    """The queue; for one process and one thread. Each method is one transaction."""

    def __init__(self, file: Path | None = None) -> None:
        """Open *file*, or make it with its folder; without one, keep everything in memory.

        Raises:
            Unavailable: it cannot be opened.
            Corrupt: it is no such file, or damaged.
        """
        self._name = "the queue" if file is None else str(file)
        try:
            if file is not None:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=_BUSY_SECONDS)
            if file is not None:
                file.chmod(0o600)
            # The default journal and FULL: a commit is on the disk when it returns.
            self._database.execute("PRAGMA synchronous = FULL")
            version = self._one("PRAGMA user_version")
            if version == 0:
                self._database.executescript(_SCHEMA)
            elif version != _SCHEMA_VERSION:
                raise Corrupt(f"{file} is of version {version}; this program knows {_SCHEMA_VERSION}")
        except sqlite3.DatabaseError as exc:
            raise self._failed(exc) from exc
        except OSError as exc:
            raise Unavailable(f"{file} cannot be opened: {exc.strerror}") from exc

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(self, caches: Iterable[str], paths: Sequence[StorePath]) -> None:
        """Let *paths* wait for each of *caches*. Kept once this returns."""
        rows = [(cache, path.base_name) for cache in caches for path in paths]
        self._write(("INSERT INTO queued (cache, path) VALUES (?, ?) ON CONFLICT DO NOTHING", rows))

    def first(self, cache: str, limit: int) -> list[StorePath]:
        """The next ones for *cache*: tried least, then oldest, first. Only one, if it was tried before."""
        rows = self._rows(
            "SELECT path, tries FROM queued WHERE cache = ? ORDER BY tries, number LIMIT ?", (cache, limit)
        )
        fresh = [StorePath.parse(path) for path, tries in rows if tries == 0]
        return fresh or [StorePath.parse(path) for path, _ in rows[:1]]

    def done(self, cache: str, paths: Sequence[StorePath]) -> None:
        """*paths* were pushed."""
        self._leave(cache, paths, "done")

    def gone(self, cache: str, paths: Sequence[StorePath]) -> None:
        """*paths* are no longer in the store."""
        self._leave(cache, paths, "gone")

    def refused(self, cache: str, path: StorePath, reason: str) -> None:
        """*path* will never be pushed, for *reason*."""
        row = (cache, path.base_name, reason, int(time.time()))
        old = "DELETE FROM refused WHERE number <= (SELECT MAX(number) FROM refused) - ?"
        self._leave(
            cache,
            [path],
            "refused",
            ("INSERT INTO refused (cache, path, reason, time) VALUES (?, ?, ?, ?)", [row]),
            (old, [(_KEPT_REFUSALS,)]),
        )

    def put_off(self, cache: str, paths: Sequence[StorePath]) -> None:
        """*paths* failed: each is tried again, alone, after those that did not."""
        rows = [(cache, path.base_name) for path in paths]
        self._write(("UPDATE queued SET tries = tries + 1 WHERE cache = ? AND path = ?", rows))

    def totals(self, cache: str) -> Totals:
        """How many paths wait for *cache*, and what became of the others."""
        waiting = self._one("SELECT COUNT(*) FROM queued WHERE cache = ?", (cache,))
        rows = self._rows("SELECT done, refused, gone FROM totals WHERE cache = ?", (cache,))
        done, refused, gone = rows[0] if rows else (0, 0, 0)
        return Totals(waiting, done, refused, gone)

    def waiting(self, cache: str, limit: int) -> list[StorePath]:
        """Some of those that wait for *cache*, the oldest first."""
        rows = self._rows("SELECT path FROM queued WHERE cache = ? ORDER BY number LIMIT ?", (cache, limit))
        return [StorePath.parse(path) for (path,) in rows]

    def refusals(self, cache: str, limit: int) -> list[Refusal]:
        """The newest ones of *cache*."""
        rows = self._rows(
            "SELECT path, reason FROM refused WHERE cache = ? ORDER BY number DESC LIMIT ?", (cache, limit)
        )
        return [Refusal(StorePath.parse(path), reason) for path, reason in rows]

    def _leave(
        self, cache: str, paths: Sequence[StorePath], outcome: _Outcome, *more: tuple[str, Sequence[tuple[object, ...]]]
    ) -> None:
        rows = [(cache, path.base_name) for path in paths]
        self._write(
            ("DELETE FROM queued WHERE cache = ? AND path = ?", rows),
            ("INSERT INTO totals (cache) VALUES (?) ON CONFLICT DO NOTHING", [(cache,)]),
            (_COUNT[outcome], [(len(paths), cache)]),
            *more,
        )

    def _write(self, *statements: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for statement, rows in statements:
                    self._database.executemany(statement, rows)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.rollback()
                raise
        except sqlite3.DatabaseError as exc:
            raise self._failed(exc) from exc

    def _one(self, query: str, values: tuple[object, ...] = ()) -> int:
        return self._rows(query, values)[0][0]

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: sqlite3.DatabaseError) -> Unavailable | Corrupt:
        if isinstance(exc, sqlite3.OperationalError):  # locked, full, not to be read or written
            return Unavailable(f"{self._name}: {exc}")
        return Corrupt(f"{self._name}: {exc}; move it away, and what it held is to be pushed anew")
