import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select

from icehouse.db.engine import Database, connect, database_errors
from icehouse.db.migrate import prepare_database
from icehouse.db.schema import domain
from icehouse.errors import Conflict, Corrupt, NotFound, OverQuota, Unavailable

COUNT = select(func.count()).select_from(domain)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    prepare_database(tmp_path / "icehouse.db")
    return tmp_path / "icehouse.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database.open(path, busy_timeout_seconds=0.05)
    yield database
    database.close()


def add(name: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(insert(domain).values(name=name, created_at=0))

    return work


def names(connection: Connection) -> list[str]:
    return [str(name) for name in connection.execute(select(domain.c.name).order_by(domain.c.id)).scalars()]


async def test_what_was_written_is_read(database: Database) -> None:
    await database.write(add("team"))
    assert await database.read(names) == ["public", "team"]


async def test_a_work_that_raises_leaves_nothing(database: Database) -> None:
    def work(connection: Connection) -> None:
        add("team")(connection)
        raise NotFound("something else")

    with pytest.raises(NotFound):
        await database.write(work)
    assert await database.read(names) == ["public"]
    await database.write(add("next"))
    assert await database.read(names) == ["public", "next"]


async def test_a_reading_transaction_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        await database.read(add("team"))


async def test_a_reading_transaction_sees_one_state(database: Database) -> None:
    begun, written = threading.Event(), threading.Event()

    def work(connection: Connection) -> tuple[int, int]:
        first = connection.execute(COUNT).scalar_one()
        begun.set()
        written.wait()
        return first, connection.execute(COUNT).scalar_one()

    reading = asyncio.create_task(database.read(work))
    await asyncio.to_thread(begun.wait)
    await database.write(add("team"))
    written.set()
    assert await reading == (1, 1)


async def test_row_whose_owner_was_deleted_meanwhile_is_a_conflict(database: Database) -> None:
    with pytest.raises(Conflict, match="deleted meanwhile"):
        await database.write(lambda connection: connection.exec_driver_sql("INSERT INTO recipe VALUES (1, x'00')"))


@pytest.mark.parametrize("is_read_only", [False, True])
def test_every_connection_is_set_up(path: Path, *, is_read_only: bool) -> None:
    with closing(connect(path, is_read_only=is_read_only)) as raw:
        assert raw.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA synchronous").fetchone() == (2,)
        assert raw.execute("PRAGMA busy_timeout").fetchone() == (30_000,)


async def test_the_hot_reader_sees_each_commit_at_once_and_cannot_write(database: Database) -> None:
    with closing(database.open_reader()) as raw:
        assert raw.execute("SELECT count(*) FROM domain").fetchone() == (1,)
        await database.write(add("team"))
        assert raw.execute("SELECT count(*) FROM domain").fetchone() == (2,)
        with pytest.raises(sqlite3.OperationalError):
            raw.execute("DELETE FROM domain")


async def test_a_busy_database_is_unavailable_and_nothing_is_read_before_the_lock_is_held(
    path: Path, database: Database
) -> None:
    entered: list[bool] = []
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await database.write(lambda _connection: entered.append(True))
    assert entered == []
    await database.write(add("team"))


async def test_a_full_disk_is_over_quota_and_nothing_is_written(database: Database) -> None:
    def work(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        try:
            connection.execute(insert(domain), [{"name": f"{n:0100}", "created_at": 0} for n in range(10_000)])
        finally:
            connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")

    with pytest.raises(OverQuota):
        await database.write(work)
    assert await database.read(names) == ["public"]
    await database.write(add("team"))


async def test_a_damaged_database_is_corrupt(path: Path) -> None:
    sound = path.read_bytes()  # noqa: ASYNC240  nothing else runs in this loop
    path.write_bytes(sound[:4096] + b"\xa5" * (len(sound) - 4096))  # noqa: ASYNC240
    with pytest.raises(Corrupt):
        await read_all(path)


async def read_all(path: Path) -> None:
    database = Database.open(path)
    try:
        await database.read(names)
    finally:
        database.close()


def test_an_unknown_fault_passes_as_it_is(path: Path) -> None:
    with closing(connect(path)) as raw, pytest.raises(sqlite3.OperationalError), database_errors(path):
        raw.execute("SELECT no_such_column FROM domain")


def test_an_absent_database_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Database.open(tmp_path / "icehouse.db")
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_schema_is_not_opened(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "icehouse.db")) as raw, raw:
        raw.execute("CREATE TABLE anything (id INTEGER)")
    with pytest.raises(Conflict, match="at revision None"):
        Database.open(tmp_path / "icehouse.db")


async def test_a_cancelled_write_that_has_begun_is_carried_to_its_end_first(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        begun.set()
        go_on.wait()
        add("team")(connection)

    writing = asyncio.create_task(database.write(work))
    await asyncio.to_thread(begun.wait)
    writing.cancel()
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.sleep(0)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await database.read(names) == ["public", "team"]


async def test_a_cancelled_write_that_has_not_begun_is_dropped(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(_connection: Connection) -> None:
        begun.set()
        go_on.wait()

    first = asyncio.create_task(database.write(work))
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(database.write(add("team")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    assert await database.read(names) == ["public"]


async def test_a_cancelled_write_that_fails_is_only_cancelled(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(_connection: Connection) -> None:
        begun.set()
        go_on.wait()
        raise NotFound("nobody waits for this")

    writing = asyncio.create_task(database.write(work))
    await asyncio.to_thread(begun.wait)
    writing.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing


WRITER = """
import asyncio, pathlib, sys
from sqlalchemy import func, insert, select, update
from icehouse.db.engine import Database
from icehouse.db.schema import domain

def count_up(connection):
    # What is read decides what is written: with a deferred transaction this fails, or loses counts.
    value = connection.execute(select(domain.c.created_at).where(domain.c.id == 1)).scalar_one()
    connection.execute(update(domain).where(domain.c.id == 1).values(created_at=value + 1))
    return value + 1

async def main():
    database = Database.open(pathlib.Path(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        print(await database.write(count_up), flush=True)
    database.close()

asyncio.run(main())
"""


def counter(path: Path) -> int:
    with closing(connect(path)) as raw:
        return int(raw.execute("SELECT created_at FROM domain WHERE id = 1").fetchone()[0])


@pytest.fixture
def counted(path: Path) -> Path:
    with closing(connect(path)) as raw:
        raw.execute("UPDATE domain SET created_at = 0")
    return path


def test_processes_that_write_at_once_lose_nothing(counted: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(counted), "100"], stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert counter(counted) == 300


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_a_killed_writer_keeps_what_it_acknowledged_and_blocks_nobody(counted: Path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(counted), "1000000"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = lines + len(process.stdout.readlines())
    assert counter(counted) in {acknowledged, acknowledged + 1}
    with closing(connect(counted)) as raw:
        raw.execute("UPDATE domain SET created_at = 0")


async def test_transactions_and_what_waits_for_the_writer_are_counted(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(_: Connection) -> None:
        begun.set()
        go_on.wait()

    first = asyncio.create_task(database.write(work))
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(database.write(add("team")))
    third = asyncio.create_task(database.write(add("none")))
    await asyncio.sleep(0)
    assert database.writes.waiting == 2
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    assert database.writes.waiting == 1
    go_on.set()
    await asyncio.gather(first, second)
    with pytest.raises(Unavailable, match="readonly"):
        await database.read(add("team"))
    assert database.writes.waiting == database.reads.waiting == 0
    assert [sum(each.read()[0]) for each in (database.writes.waits, database.writes.works)] == [2, 2]
    assert [sum(each.read()[0]) for each in (database.reads.waits, database.reads.works)] == [1, 1]
