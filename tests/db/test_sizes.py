"""What the paths of a cache add up to is told without counting them, and is what counting would tell."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from icehouse.db.engine import connect
from icehouse.db.migrate import prepare_database
from icehouse.rules.verification import DAMAGED, INCOMPLETE

_COUNTED = """
    SELECT cache.id, coalesce(sum(path.id IS NOT NULL AND hidden_at IS NULL), 0), count(hidden_at),
    coalesce(sum(hidden_because LIKE ? || '%'), 0), coalesce(sum((hidden_at IS NULL) * nar_size), 0)
    FROM cache LEFT JOIN path ON path.cache_id = cache.id GROUP BY cache.id ORDER BY cache.id
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "icehouse.db"
    prepare_database(path)
    with closing(connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO nar (id, domain_id, nar_hash, nar_size, file_hash, file_size, created_at) "
            "VALUES (1, 1, x'00', 1, x'00', 1, 0)"
        )
        yield connection
        connection.execute("ROLLBACK")


def put_cache(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "INSERT INTO cache (id, name, domain_id, is_public, store_dir, priority, want_mass_query, created_at) "
        "VALUES (?, ?, 1, 1, '/nix/store', 1, 1, 0)",
        (number, f"cache-{number}"),
    )


def put_path(connection: sqlite3.Connection, cache_id: int, name: str, size: int, at: int) -> None:
    connection.execute(
        'INSERT INTO path (cache_id, hash_part, name, nar_id, nar_hash, nar_size, file_hash, file_size, "references", '
        "signatures, created_at) VALUES (?, ?, 'n', 1, 'h', ?, 'f', 1, '', '', ?)",
        (cache_id, name, size, at),
    )


def test_sums_are_what_counting_tells(database: sqlite3.Connection) -> None:
    source = random.Random(7)
    for number in (1, 2, 3):
        put_cache(database, number)
    changes = (
        "UPDATE path SET hidden_at = 9, hidden_because = 'old' WHERE id % 7 = ?",
        f"UPDATE path SET hidden_at = 9, hidden_because = '{INCOMPLETE}' WHERE id % 7 = ?",  # noqa: S608  our own words
        f"UPDATE path SET hidden_because = '{DAMAGED}otherwise' WHERE hidden_at IS NOT NULL AND id % 7 = ?",  # noqa: S608
        "UPDATE path SET hidden_at = NULL, hidden_because = NULL WHERE id % 7 = ?",
        "UPDATE path SET signatures = 'k:s', nar_size = nar_size + 1 WHERE id % 7 = ?",
        "UPDATE path SET cache_id = 1 WHERE id % 7 = ? AND cache_id = 2",
        "DELETE FROM path WHERE id % 7 = ?",
    )
    seen: set[tuple[int, ...]] = set()
    for step in range(300):
        if source.random() < 0.6:
            put_path(database, source.choice((1, 2)), f"p{step}", source.randrange(1000), step)
        else:
            database.execute(source.choice(changes), (source.randrange(7),))
        told = database.execute(
            "SELECT cache_id, visible_paths, hidden_paths, damaged_paths, nar_bytes FROM cache_sum ORDER BY cache_id"
        ).fetchall()
        assert told == database.execute(_COUNTED, (DAMAGED,)).fetchall()
        seen.update(told)
    assert max(row[3] for row in seen) > 0
    assert min(row[0] for row in seen) == 1


def test_the_last_push_stays_known_when_its_path_is_gone(database: sqlite3.Connection) -> None:
    put_cache(database, 1)
    assert database.execute("SELECT last_push_at FROM cache_sum").fetchall() == [(None,)]
    for at in (5, 8, 6):
        put_path(database, 1, f"p{at}", 1, at)
    database.execute("DELETE FROM path")
    assert database.execute("SELECT last_push_at, visible_paths FROM cache_sum").fetchall() == [(8, 0)]
    database.execute("DELETE FROM cache")
    assert database.execute("SELECT * FROM cache_sum").fetchall() == []
