"""Answers are kept only while they are true, and no more of them than may be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from icehouse.db.engine import connect
from icehouse.db.migrate import prepare_database
from icehouse.db.serving import NarRow, ServingQueries
from icehouse.http.asgi import Head
from icehouse.http.recent_answers import KeptNar, RecentAnswers, Subject
from icehouse.services.traffic import CacheTraffic

FOUND = b"StorePath: ".ljust(1000)
TRAFFIC = CacheTraffic()
SUBJECT = Subject(1, TRAFFIC)


Change = Callable[[sqlite3.Connection], object]


def change(statement: str) -> Change:
    return lambda connection: connection.execute(statement)


def insert_path(hash_part: str, hidden_at: int | None = None) -> Change:
    statement = (
        'INSERT INTO path (cache_id, hash_part, name, nar_id, nar_hash, nar_size, file_hash, file_size, "references", '
        "signatures, created_at, hidden_at) VALUES (1, ?, 'n', 1, 'h', 1, 'f', 1, '', '', 0, ?)"
    )
    return lambda connection: connection.execute(statement, (hash_part, hidden_at))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recent") / "icehouse.db"
    prepare_database(path)
    with closing(connect(path)) as writer:
        writer.execute(
            "INSERT INTO nar (id, domain_id, nar_hash, nar_size, file_hash, file_size, created_at) "
            "VALUES (1, 1, x'00', 1, x'00', 1, 0)"
        )
        writer.executemany(
            "INSERT INTO cache (id, name, domain_id, is_public, store_dir, priority, want_mass_query, created_at) "
            "VALUES (?, ?, 1, 1, '/nix/store', 1, 1, 0)",
            [(1, "open"), (2, "empty")],
        )
        insert_path("visible")(writer)
        insert_path("hidden", 5)(writer)
    return path


@pytest.fixture
def writer(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class Turns:
    """Takes the place of an event loop: a turn ends when somebody says so."""

    def __init__(self, database: Path, *, max_bytes: int = 1_000_000) -> None:
        self.reader = connect(database, is_read_only=True)
        self.given: list[tuple[int, int]] = []
        self._due: list[Callable[[], None]] = []
        self.answers = RecentAnswers(
            ServingQueries(self.reader),
            self._due.append,
            lambda subject, count, _: self.given.append((subject.path_id, count)),
            max_bytes=max_bytes,
            max_nar_bytes=100_000,
            max_absent_bytes=15_000,
        )

    def end_turn(self) -> None:
        due, self._due[:] = list(self._due), []
        for call in due:
            call()

    def has(self, raw_path: bytes) -> bool:
        return self.answers.find(raw_path) is not None or self.answers.find_absent(raw_path) is not None

    def close(self) -> None:
        self.reader.close()


@pytest.fixture
def turns(database: Path) -> Iterator[Turns]:
    with closing(Turns(database)) as made:
        assert not made.has(b"/found")
        assert not made.has(b"/absent")
        made.answers.keep(b"/found", FOUND, SUBJECT)
        made.answers.keep_absent(b"/absent", b"no", TRAFFIC)
        made.end_turn()
        yield made


def test_an_answer_is_kept_with_its_path(turns: Turns) -> None:
    for _ in range(2):
        assert turns.answers.find(b"/found") == FOUND
        assert turns.answers.find_absent(b"/found") is None
        assert turns.answers.find(b"/absent") is None
        assert turns.answers.find_absent(b"/absent") == b"no"
        assert not turns.has(b"/other")
        turns.end_turn()


@pytest.mark.parametrize(
    ("made", "found_stays", "absent_stays"),
    [
        pytest.param(insert_path("new"), True, False, id="a path is added"),
        pytest.param(change("UPDATE path SET hidden_at = 1 WHERE hash_part = 'visible'"), False, False, id="hidden"),
        pytest.param(change("UPDATE path SET hidden_at = NULL WHERE hash_part = 'hidden'"), False, False, id="back"),
        pytest.param(change("UPDATE path SET signatures = 's' WHERE hash_part = 'visible'"), False, False, id="signed"),
        pytest.param(change("UPDATE path SET hidden_because = 'x' WHERE hash_part = 'hidden'"), True, True, id="trash"),
        pytest.param(change("DELETE FROM path WHERE hash_part = 'visible'"), False, False, id="deleted"),
        pytest.param(change("DELETE FROM path WHERE hash_part = 'hidden'"), True, True, id="purged from the trash"),
        pytest.param(change("UPDATE cache SET is_public = 0 WHERE id = 1"), False, False, id="made private"),
        pytest.param(change("UPDATE cache SET name = 'other' WHERE id = 1"), False, False, id="renamed"),
        pytest.param(change("UPDATE cache SET store_dir = '/gnu/store' WHERE id = 1"), False, False, id="store"),
        pytest.param(change("UPDATE cache SET generation = generation + 1"), True, True, id="a generation"),
        pytest.param(change("DELETE FROM cache WHERE name = 'empty'"), False, False, id="a cache deleted"),
        pytest.param(change("INSERT INTO domain (created_at) VALUES (1)"), True, True, id="something else"),
    ],
)
def test_an_answer_goes_when_it_may_not_be_true_any_more(
    database: Path, tmp_path: Path, made: Change, *, found_stays: bool, absent_stays: bool
) -> None:
    copy = tmp_path / "icehouse.db"
    copy.write_bytes(database.read_bytes())
    with closing(Turns(copy)) as turns, closing(connect(copy)) as writer:
        assert not turns.has(b"/found")
        turns.answers.keep(b"/found", FOUND, SUBJECT)
        turns.answers.keep_absent(b"/absent", b"no", TRAFFIC)
        made(writer)
        turns.end_turn()
        assert (turns.has(b"/found"), turns.has(b"/absent")) == (found_stays, absent_stays)


def test_what_is_not_committed_changes_nothing(turns: Turns, writer: sqlite3.Connection) -> None:
    change("UPDATE path SET hidden_at = 1")(writer)
    assert turns.has(b"/found")
    writer.execute("ROLLBACK")
    turns.end_turn()
    assert turns.has(b"/found")


def test_what_was_kept_in_the_turn_of_a_change_goes_with_the_next(database: Path, tmp_path: Path) -> None:
    copy = tmp_path / "icehouse.db"
    copy.write_bytes(database.read_bytes())
    with closing(Turns(copy)) as turns, closing(connect(copy)) as writer:
        assert not turns.has(b"/found")
        change("UPDATE path SET hidden_at = 1")(writer)
        turns.answers.keep(b"/found", FOUND, SUBJECT)
        turns.end_turn()
        assert not turns.has(b"/found")


def test_the_database_is_asked_once_in_a_turn(turns: Turns) -> None:
    asked: list[str] = []
    turns.reader.set_trace_callback(asked.append)
    for _ in range(5):
        assert turns.has(b"/found")
    assert len(asked) == 1
    turns.end_turn()
    assert turns.has(b"/found")
    assert len(asked) == 2


def test_what_was_given_is_noted_when_the_answer_goes_or_somebody_asks(database: Path, tmp_path: Path) -> None:
    copy = tmp_path / "icehouse.db"
    copy.write_bytes(database.read_bytes())
    with closing(Turns(copy)) as turns, closing(connect(copy)) as writer:
        assert not turns.has(b"/found")
        turns.answers.keep(b"/found", FOUND, SUBJECT)
        assert [turns.has(b"/found") for _ in range(3)] == [True] * 3
        assert not turns.answers.settle(100)
        assert turns.given == [(1, 3)]
        assert turns.has(b"/found")
        change("UPDATE path SET hidden_at = 1")(writer)
        turns.end_turn()
        assert not turns.has(b"/found")
        assert not turns.answers.settle(100)
        assert turns.given == [(1, 3), (1, 1)]


def test_an_answer_that_is_too_large_is_not_kept(database: Path) -> None:
    with closing(Turns(database, max_bytes=1_000)) as turns:
        assert not turns.has(b"/0")
        turns.answers.keep(b"/0", FOUND, SUBJECT)
        assert not turns.has(b"/0")


def test_nars_have_room_of_their_own_for_those_that_were_used_last(turns: Turns) -> None:
    row = NarRow(1, 1, 60_000, bytes(32), 1, None)
    nars = [KeptNar(bytes(40_000), row, Head(200)) for _ in range(3)]
    for number in range(2):
        assert turns.answers.find_nar(b"/nar/%d" % number) is None
        turns.answers.keep_nar(b"/nar/%d" % number, nars[number])
    assert turns.answers.find_nar(b"/nar/0") is nars[0]
    turns.answers.keep_nar(b"/nar/2", nars[2])
    assert [turns.answers.find_nar(b"/nar/%d" % number) for number in range(3)] == [nars[0], None, nars[2]]
    assert turns.has(b"/found")


def test_a_nar_goes_with_a_change_that_nobody_has_seen_yet(database: Path, tmp_path: Path) -> None:
    copy = tmp_path / "icehouse.db"
    copy.write_bytes(database.read_bytes())
    with closing(Turns(copy)) as turns, closing(connect(copy)) as writer:
        assert turns.answers.find_nar(b"/nar") is None
        turns.answers.keep_nar(b"/nar", KeptNar(b"", NarRow(1, 1, 60_000, bytes(32), 1, None), Head(200)))
        change("UPDATE path SET hidden_at = 1")(writer)
        turns.end_turn()
        assert turns.answers.find_nar(b"/nar") is None


def test_absent_paths_have_room_of_their_own(turns: Turns) -> None:
    assert not turns.has(b"/other")
    for number in range(100):
        turns.answers.keep_absent(b"/%d" % number, b"no", TRAFFIC)
    kept = [turns.has(b"/%d" % number) for number in range(100)].count(True)
    assert 50 < kept < 100
    assert turns.has(b"/found")


def test_what_is_missed_is_counted_when_somebody_asks(turns: Turns) -> None:
    assert not turns.answers.settle(100)
    misses = TRAFFIC.misses
    assert [turns.has(b"/absent") for _ in range(3)] == [True] * 3
    assert not turns.answers.settle(100)
    assert TRAFFIC.misses == misses + 3


def test_nothing_is_kept_of_which_nobody_knows_whether_it_is_there(database: Path) -> None:
    with closing(Turns(database)) as turns:
        turns.answers.keep(b"/found", FOUND, SUBJECT)
        turns.answers.keep_absent(b"/absent", b"no", TRAFFIC)
        assert not turns.has(b"/found")
        assert not turns.has(b"/absent")


def test_a_database_that_cannot_be_read_is_no_answer(database: Path) -> None:
    with closing(Turns(database)) as turns:
        turns.reader.close()
        with pytest.raises(sqlite3.Error):
            turns.has(b"/found")
