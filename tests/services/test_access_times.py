import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

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
    for path_id in range(12_345):
        times.note(path_id, path_id)
    await times.flush()
    assert await uses_of(database, 0, 4_999, 5_000, 12_344) == [PathUse(n, n, 1) for n in (0, 4_999, 5_000, 12_344)]


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
