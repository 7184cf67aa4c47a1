import contextlib
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from icehouse.db.audit import Change, count_exchanges, insert_change, look_back, page_changes, purge_exchanges
from icehouse.db.engine import Database, after_commit
from icehouse.db.migrate import prepare_database
from icehouse.rules.access import covers, matches
from icehouse.rules.audit import KEEP_EXCHANGES_SECONDS, ON_SERVER, Action, Actor, AuditFilter, AuditPlace
from tests.db.plans import steps_of

CHANGE = Change(Action.PIN_PUT, "main", "live", None, '{"a":1}')


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


def add(database: Database, *patterns: str, actor: Actor = ON_SERVER) -> None:
    def work(connection: Connection) -> None:
        for pattern in patterns:
            insert_change(connection, actor, Change(Action.TOKEN_CREATE, pattern, "1", None, None), now=1)

    database.write_now(work)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'somebody else'",
        "UPDATE audit SET id = 7",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit (id, at, action, cache_pattern, who) VALUES (1, 1, 'pin.put', 'main', 'x')",
        "REPLACE INTO audit (id, at, action, cache_pattern, who) VALUES (1, 1, 'pin.put', 'main', 'x')",
        "INSERT INTO audit VALUES (1, 1, '', '', '', '', 1, '', '', '', '') ON CONFLICT DO UPDATE SET id = 2",
    ],
)
def test_log_only_grows(database: Database, statement: str) -> None:
    database.write_now(lambda connection: insert_change(connection, ON_SERVER, CHANGE, now=5))
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as raw:
        before = raw.execute("SELECT * FROM audit").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="the audit log only grows"):
            raw.execute(statement)
        assert raw.execute("SELECT * FROM audit").fetchall() == before
    database.write_now(lambda connection: insert_change(connection, ON_SERVER, CHANGE, now=6))


def test_only_exchanges_that_are_90_days_old_may_be_deleted(database: Database) -> None:
    now = int(time.time())
    exchange = Change(Action.TOKEN_EXCHANGE, "main", "1", None, None)
    old = now - KEEP_EXCHANGES_SECONDS
    for change, at in ((exchange, now), (exchange, old + 60), (exchange, old), (exchange, 1), (CHANGE, 1)):
        database.write_now(partial(insert_change, actor=ON_SERVER, change=change, now=at))
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as raw:
        for number in (1, 2, 5):
            with pytest.raises(sqlite3.IntegrityError, match="the audit log only grows"):
                raw.execute("DELETE FROM audit WHERE id = ?", [number])
    counts = [database.write_now(partial(purge_exchanges, before=old + 1, limit=limit)) for limit in (1, 10, 10)]
    assert counts == [1, 1, 0]
    rows = database.read_now(partial(page_changes, reach=["*"], wanted=AuditFilter(), limit=10))
    assert [row.id for row in rows] == [5, 2, 1]


def test_exchanges_are_counted_and_found_by_their_index(database: Database) -> None:
    def work(connection: Connection) -> list[list[str]]:
        return [
            steps_of(connection, lambda: count_exchanges(connection, "main", since=5)),
            steps_of(connection, lambda: purge_exchanges(connection, before=5, limit=10)),
        ]

    counting, purging = database.write_now(work)
    assert counting == ["SEARCH audit USING INDEX audit_exchanges (cache_pattern=? AND at>?)"]
    assert "SCAN audit USING INDEX audit_exchanges" in " ".join(purging)


def test_change_comes_back_as_it_was_noted(database: Database) -> None:
    actor = Actor("CI", 7, "2001:db8::1", "id-1")
    database.write_now(lambda connection: insert_change(connection, actor, CHANGE, now=5))
    (row,) = database.read_now(lambda connection: page_changes(connection, ["*"], AuditFilter(), limit=10))
    assert (row.id, row.at, row.actor, row.change) == (1, 5, actor, CHANGE)


PATTERNS = ["a", "ab", "a*", "a-*", "*", "*b", "a*b", "b"]


@pytest.mark.parametrize("reach", [*PATTERNS, "a-b", "**"])
def test_reach_is_that_of_tokens(database: Database, reach: str) -> None:
    add(database, *PATTERNS)
    rows = database.read_now(lambda connection: page_changes(connection, [reach], AuditFilter(), limit=100))
    assert sorted(row.change.cache_pattern for row in rows) == sorted(p for p in PATTERNS if covers(reach, p))


@pytest.mark.parametrize("name", ["a", "ab", "a-b", "b", "c"])
def test_what_concerns_a_cache_are_patterns_that_match_it(database: Database, name: str) -> None:
    add(database, *PATTERNS)
    wanted = AuditFilter(cache_name=name)
    rows = database.read_now(lambda connection: page_changes(connection, "*", wanted, limit=100))
    assert sorted(row.change.cache_pattern for row in rows) == sorted(p for p in PATTERNS if matches(p, name))


@pytest.mark.parametrize(
    ("by", "found"), [("5", ["50 CI", "job 5", "x"]), ("job%", []), ("CI", ["50 CI"]), ("\u0665", [])]
)
def test_who_is_a_number_or_a_part_of_a_name(database: Database, by: str, found: list[str]) -> None:
    for who, token_id in (("x", 5), ("50 CI", 1), ("job 5", 2), ("y", 55)):
        add(database, "*", actor=Actor(who, token_id))
    rows = database.read_now(lambda connection: page_changes(connection, ["*"], AuditFilter(by=by), limit=100))
    assert sorted(row.actor.who for row in rows) == found


def test_notice_follows_the_commit_and_never_a_rollback(database: Database) -> None:
    told: list[str] = []

    def work(connection: Connection) -> None:
        insert_change(connection, ON_SERVER, CHANGE, now=5)
        with contextlib.closing(sqlite3.connect(database.path)) as other:
            count = "SELECT count(*) FROM audit"
            after_commit(connection, lambda: told.append(f"{len(told)} before, 1 row"))
            assert other.execute(count).fetchone() == (0,)
        assert told == []

    def fail(connection: Connection) -> None:
        work(connection)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  it is the one raised here
        database.write_now(fail)
    assert told == []
    database.write_now(work)
    assert told == ["0 before, 1 row"]
    database.write_now(lambda _: None)
    assert told == ["0 before, 1 row"]


def walk(database: Database, wanted: AuditFilter, *, rows: int, limit: int) -> list[tuple[int, str]]:
    """All that is wanted, stretch by stretch, as the page asks for it."""
    seen: list[tuple[int, str]] = []
    place: AuditPlace | None = None
    while True:
        found, last = database.read_now(
            partial(look_back, reach=["*"], wanted=wanted, before=place, rows=rows, limit=limit + 1)
        )
        seen += [(row.at, row.change.cache_pattern) for row in found[:limit]]
        place = AuditPlace(found[limit - 1].at, found[limit - 1].id) if len(found) > limit else last
        if place is None:
            return seen


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_log_is_walked_back_in_time_without_gap_or_repetition(database: Database, rows: int, limit: int) -> None:
    times = [5, 7, 7, 6, 9, 1, 7]  # The clock was set back twice.
    for number, at in enumerate(times):
        change = Change(Action.PIN_PUT, f"c{number}", None, None, None)
        database.write_now(partial(insert_change, actor=ON_SERVER, change=change, now=at))
    everything = [(9, "c4"), (7, "c6"), (7, "c2"), (7, "c1"), (6, "c3"), (5, "c0"), (1, "c5")]
    assert walk(database, AuditFilter(), rows=rows, limit=limit) == everything
    assert walk(database, AuditFilter(since=5, until=7), rows=rows, limit=limit) == everything[4:6]
    assert walk(database, AuditFilter(cache_name="c5"), rows=rows, limit=limit) == everything[6:]
    assert walk(database, AuditFilter(action="key."), rows=rows, limit=limit) == []


def test_looking_back_finds_its_place_in_the_index(database: Database) -> None:
    wanted = AuditFilter(since=1, until=9, cache_name="team")

    def work(connection: Connection) -> list[str]:
        place = AuditPlace(5, 5)
        return steps_of(connection, lambda: look_back(connection, ["team*"], wanted, before=place, rows=10, limit=5))

    steps = database.read_now(work)
    assert sum("ix_audit_at (at>? AND at<?)" in step for step in steps) == 2, steps


def test_changes_before_a_time_are_listed(database: Database) -> None:
    for at in (1, 2, 3):
        database.write_now(partial(insert_change, actor=ON_SERVER, change=CHANGE, now=at))
    rows = database.read_now(partial(page_changes, reach=["*"], wanted=AuditFilter(since=2, until=3), limit=9))
    assert [row.at for row in rows] == [2]
