import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from icehouse.db.access_times import ACCESS_REVISION, PathUse, load_uses
from icehouse.db.engine import Database, connect
from icehouse.db.migrate import prepare_access_database
from icehouse.errors import Unavailable
from icehouse.services.access_times import AccessTimes
from icehouse.services.flushing import flush_regularly


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_access_database(tmp_path / "access.db")
    database = Database.open(tmp_path / "access.db", revision=ACCESS_REVISION, busy_timeout_seconds=0.05)
    yield database
    database.close()


async def uses_of(database: Database, *path_ids: int) -> list[PathUse]:
    return list((await database.read(lambda connection: load_uses(connection, path_ids))).values())


async def test_uses_are_added_up_and_the_last_one_stays(database: Database) -> None:
    times = AccessTimes(database)
    times.note(1, 100)
    times.note(2, 100)
    times.note(1, 110)
    await times.flush()
    times.note(1, 120)
    await times.flush()
    await times.flush()
    assert await uses_of(database, 1, 2, 3) == [PathUse(1, 120, 3), PathUse(2, 100, 1)]


async def test_a_later_use_that_another_process_noted_stays(database: Database) -> None:
    times, others = AccessTimes(database), AccessTimes(database)
    times.note(1, 100)
    others.note(1, 200)
    await others.flush()
    await times.flush()
    assert await uses_of(database, 1) == [PathUse(1, 200, 2)]


async def test_many_paths_are_written(database: Database) -> None:
    times = AccessTimes(database)
    for path_id in range(112_345):
        times.note(path_id, path_id)
    await times.flush()
    some = (0, 49_999, 50_000, 112_344)
    assert await uses_of(database, *some) == [PathUse(n, n, 1) for n in some]


async def test_what_is_counted_elsewhere_is_noted_before_anybody_looks(database: Database) -> None:
    times = AccessTimes(database)
    counted = [(1, 100, 4), (1, 99, 1)]

    def settle(most: int) -> bool:
        assert most > 1
        if counted:
            times.note(*counted.pop())
        return bool(counted)

    times.settle_first(settle)
    times.note(1, 101)
    assert await times.last_use(1) == 101
    counted.append((1, 102, 2))
    await times.flush()
    assert await uses_of(database, 1) == [PathUse(1, 102, 8)]
    assert await times.last_use(1) is None
    counted.append((1, 103, 1))
    assert await times.last_use(1) == 103


async def test_what_is_noted_while_it_is_written_is_written_next(database: Database) -> None:
    times = AccessTimes(database)
    for path_id in range(60_000):
        times.note(path_id, 100)
    flush = asyncio.create_task(times.flush())
    await asyncio.sleep(0)
    for path_id in (0, 59_999):  # the first is being written, the last is not
        times.note(path_id, 101)
    await asyncio.gather(flush, times.flush())
    await times.flush()
    assert await uses_of(database, 0, 1, 59_999) == [PathUse(0, 101, 2), PathUse(1, 100, 1), PathUse(59_999, 101, 2)]


async def test_what_could_not_be_written_is_kept_for_the_next_time(database: Database) -> None:
    times = AccessTimes(database)
    times.note(1, 100)
    with closing(connect(database.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await times.flush()
    times.note(1, 110)
    await times.flush()
    assert await uses_of(database, 1) == [PathUse(1, 110, 2)]


async def test_nothing_of_many_is_lost_when_the_disk_fails(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    times = AccessTimes(database)
    for path_id in range(120_000):
        times.note(path_id, 100)
    write, failures = database.write, iter([False, True])

    async def fail_at_the_second(work: Callable[[Connection], None]) -> None:
        if next(failures):
            times.note(70_000, 110)  # of the batch that fails
            times.note(119_999, 110)  # of one that is not begun
            raise Unavailable("the disk is full")
        await write(work)

    monkeypatch.setattr(database, "write", fail_at_the_second)
    with pytest.raises(Unavailable):
        await times.flush()
    monkeypatch.undo()
    times.note(60_000, 120)
    await times.flush()
    expected = [PathUse(1, 100, 1), PathUse(60_000, 120, 2), PathUse(70_000, 110, 2), PathUse(119_999, 110, 2)]
    assert await uses_of(database, 1, 60_000, 70_000, 119_999) == expected


async def test_memory_is_bounded(database: Database) -> None:
    times = AccessTimes(database, max_noted=2)
    for path_id in (1, 2, 3, 1):
        times.note(path_id, 100)
    await times.flush()
    assert await uses_of(database, 1, 2, 3) == [PathUse(1, 100, 2), PathUse(2, 100, 1)]


async def test_what_was_noted_is_written_at_the_end(database: Database) -> None:
    times = AccessTimes(database)
    times.note(1, 100)
    task = asyncio.create_task(flush_regularly(times.flush, interval_seconds=1_000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await uses_of(database, 1) == [PathUse(1, 100, 1)]


async def test_flushing_goes_on_after_a_failure() -> None:
    calls: list[int] = []
    enough = asyncio.Event()

    async def flush() -> None:
        calls.append(1)
        if len(calls) == 3:
            enough.set()
        raise Unavailable("the disk is busy")

    task = asyncio.create_task(flush_regularly(flush, interval_seconds=0))
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
