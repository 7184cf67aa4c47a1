"""What the hot routes ask the database: one statement each, run by SQLite's driver in the event loop.

Each statement begins at the cache and carries its visibility along, so that nothing need be remembered between
requests that another process may change; `find_version` tells whether it did. With 100,000 paths one takes about 10 µs;
where the cache or the path is absent, less.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from icehouse.rules.recipes import Run

_NARINFO: Final = """
    SELECT cache.is_public, cache.store_dir, path.id, path.name, path.nar_hash, path.nar_size, path.file_hash,
           path.file_size, path."references", path.deriver, path.system, path.signatures, path.ca
    FROM cache
    LEFT JOIN path ON path.cache_id = cache.id AND path.hash_part = ? AND path.hidden_at IS NULL
    WHERE cache.name = ?
"""

_VERSION: Final = "SELECT added, changed FROM narinfo_version"

_CACHE: Final = "SELECT is_public, store_dir, want_mass_query, priority FROM cache WHERE name = ?"

# Of several paths with this NAR a visible one comes first: SQLite sorts null before all times.
_NAR: Final = """
    SELECT cache.is_public, nar.id, nar.file_size, nar.file_hash, path.id, path.hidden_at
    FROM cache
    LEFT JOIN nar ON nar.domain_id = cache.domain_id AND nar.nar_hash = ?
    LEFT JOIN path ON path.nar_id = nar.id AND path.cache_id = cache.id
    WHERE cache.name = ?
    ORDER BY path.hidden_at
    LIMIT 1
"""

_RECIPE: Final = """
    SELECT nar.domain_id, nar.nar_hash, nar.nar_size, recipe.body FROM nar JOIN recipe ON recipe.nar_id = nar.id
    WHERE nar.id = ?
"""

# With a plus SQLite cannot use the index on the domain: it would read all the chunks that this has, for each run.
_CHUNKS: Final = """
    SELECT chunk.number, pack.name, chunk.pack_offset, chunk.stored_bytes, chunk.raw_bytes, chunk.places
    FROM chunk JOIN pack ON pack.id = chunk.pack_id
    WHERE chunk.number BETWEEN ? AND ? AND +chunk.domain_id = ?
"""

NarinfoRow = tuple[
    int, str, int | None, str, str, int, str, int, str, str | None, str | None, str, str | None
]  # A plain tuple, as the driver makes it: it is unpacked at once, in the order of the statement's columns.


class CacheInfoRow(NamedTuple):
    """What ``nix-cache-info`` says, and whether everyone may read it."""

    is_public: int
    store_dir: str
    want_mass_query: int
    priority: int


class NarRow(NamedTuple):
    """A NAR as a cache has it. All but *is_public* are `None` where the cache has no path, even hidden, with it."""

    is_public: int
    nar_id: int | None
    file_size: int
    file_hash: bytes
    path_id: int | None
    hidden_at: int | None


class RecipeRow(NamedTuple):
    """A stored NAR's recipe, encoded, and what is needed to read it."""

    domain_id: int
    nar_hash: bytes
    nar_size: int
    body: bytes


class ServedChunk(NamedTuple):
    """A chunk as it is needed to copy its frame into an answer."""

    pack_name: bytes
    pack_offset: int
    stored_bytes: int
    raw_bytes: int
    places: bytes | None


class ServingQueries:
    """The statements of the hot routes over one plain connection. Used by the thread that opened the connection."""

    __slots__ = ("_execute", "connection")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._execute = connection.execute

    def find_narinfo(self, cache_name: str, hash_part: str) -> NarinfoRow | None:
        """The cache's visibility and store directory, and the visible path's columns (nulls where there is none).

        `None`: there is no such cache.
        """
        return self._execute(_NARINFO, (hash_part, cache_name)).fetchone()

    def find_version(self) -> tuple[int, int]:
        """How many paths were added, and how many times anything else changed that a narinfo depends on."""
        return self._execute(_VERSION).fetchone()

    def find_cache_info(self, cache_name: str) -> CacheInfoRow | None:
        """The settings of a cache, or `None` where there is no such cache."""
        row = self._execute(_CACHE, (cache_name,)).fetchone()
        return None if row is None else CacheInfoRow._make(row)

    def find_nar(self, cache_name: str, nar_hash: bytes) -> NarRow | None:
        """The NAR with that SHA-256, and a path of this cache that has it. `None`: there is no such cache."""
        row = self._execute(_NAR, (nar_hash, cache_name)).fetchone()
        return None if row is None else NarRow._make(row)


def find_state(connection: sqlite3.Connection) -> int:
    """A number that stays the same between two calls if and only if nothing else changed the database in between.

    What it is means nothing. Takes 2 µs. Source: SQLite's documentation of ``PRAGMA data_version``.
    """
    return connection.execute("PRAGMA data_version").fetchone()[0]


def find_recipe_row(connection: sqlite3.Connection, nar_id: int) -> RecipeRow | None:
    """The recipe of a stored NAR."""
    row = connection.execute(_RECIPE, (nar_id,)).fetchone()
    return None if row is None else RecipeRow._make(row)


def load_served_chunks(connection: sqlite3.Connection, domain_id: int, runs: Iterable[Run]) -> dict[int, ServedChunk]:
    """The chunks that *runs* name, by number. Those that the domain does not have are left out."""
    return {
        number: ServedChunk._make(columns)
        for run in runs
        for number, *columns in connection.execute(_CHUNKS, (run.first, run.first + run.count - 1, domain_id))
    }
