"""Traffic is counted in memory, written, added up over processes, rolled up and forgotten."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow, delete_cache
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.schema import traffic
from icehouse.services.traffic import KEEP_DAYS_SECONDS, KEEP_HOURS_SECONDS, CacheTraffic, TrafficCounts
from tests.services.publishing import Store

HOUR = 3_600
DAY = 86_400
NOW = 1_000 * DAY + 5 * HOUR + 100
APP = f"{'b' * 32}-app"


class World:
    """A cache, and two processes that count for it."""

    def __init__(self, store: Store, cache: CacheRow, access: Database) -> None:
        self.store = store
        self.cache = cache
        self.access = access
        self.now = NOW
        self.one, self.other = (TrafficCounts(store.database, access, lambda: self.now) for _ in range(2))

    async def rows(self) -> list[tuple[int, ...]]:
        def work(connection: Connection) -> list[tuple[int, ...]]:
            return [
                tuple(row) for row in connection.execute(select(traffic).where(traffic.c.cache_id == self.cache.id))
            ]

        return await self.access.read(work)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = Store.open(tmp_path)
    prepare_access_database(tmp_path / "access.db")
    with closing(Database.open(tmp_path / "access.db", revision=ACCESS_REVISION)) as access:
        yield World(store, await store.create_cache("main"), access)
    await store.close()


def count(counts: CacheTraffic, hits: int, misses: int = 0, sent_bytes: int = 0) -> None:
    counts.hits += hits
    counts.misses += misses
    counts.nars += 1
    counts.sent_bytes += sent_bytes


async def test_processes_add_up_and_sizes_are_noted_once_an_hour(world: World) -> None:
    name = world.cache.name
    await world.store.push(world.cache, (APP, b"something", []))
    count(world.one.of(name), 3, 1, 100)
    count(world.other.of(name), 4, 0, 50)
    kept = world.one.of(name)
    await world.one.flush()
    await world.other.flush()
    await world.other.flush()
    count(kept, 1)  # who kept it counts on
    await world.one.flush()
    (row,) = await world.rows()
    assert row[:7] == (world.cache.id, HOUR, NOW - 100, 8, 1, 3, 150)
    assert row[7] == len(b"something")
    world.now += HOUR
    await world.one.flush()
    assert (await world.rows())[1][:8] == (world.cache.id, HOUR, NOW - 100 + HOUR, 0, 0, 0, 0, len(b"something"))


async def test_what_cannot_be_written_is_written_later(world: World) -> None:
    count(world.one.of(world.cache.name), 3)
    await world.access.write(lambda connection: connection.exec_driver_sql("ALTER TABLE traffic RENAME TO away"))
    with pytest.raises(OperationalError):
        await world.one.flush()
    await world.access.write(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO traffic"))
    await world.one.flush()
    assert [row[3] for row in await world.rows()] == [3]


async def test_hours_become_days_and_days_are_forgotten(world: World) -> None:
    name = world.cache.name
    for hour in (0, 1, 30):
        world.now = NOW + hour * HOUR
        count(world.one.of(name), 1, 2, 10)
        await world.one.flush()
    world.now = NOW + KEEP_HOURS_SECONDS + DAY
    before = (await world.one.show(world.cache, "year")).points
    await world.one.roll_up()
    rows = await world.rows()
    assert [row[1:7] for row in rows] == [(HOUR, NOW + 30 * HOUR - 100, 1, 2, 1, 10), (DAY, 1_000 * DAY, 2, 4, 2, 20)]
    assert (await world.one.show(world.cache, "year")).points == before
    await world.one.roll_up()
    assert await world.rows() == rows
    world.now += DAY
    await world.one.roll_up()
    assert [row[1:4] for row in await world.rows()] == [(DAY, 1_000 * DAY, 2), (DAY, 1_001 * DAY, 1)]
    world.now = 1_000 * DAY + KEEP_DAYS_SECONDS + DAY
    await world.one.roll_up()
    assert [row[2] for row in await world.rows()] == [1_001 * DAY]


_ROLL_UP = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.engine import Database
from icehouse.db.traffic import roll_up

statements = 0

def die_after(*_):
    global statements
    statements += 1
    if statements == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

def work(connection):
    event.listen(connection, "after_cursor_execute", die_after)
    roll_up(connection, int(sys.argv[3]), int(sys.argv[4]))

Database.open(Path(sys.argv[1]), revision=ACCESS_REVISION).write_now(work)
"""


async def test_a_kill_while_hours_become_days_loses_and_doubles_nothing(world: World, tmp_path: Path) -> None:
    for hour in range(3):
        world.now = NOW + hour * HOUR
        count(world.one.of(world.cache.name), 5, 2, 10)
        await world.one.flush()
    before = await world.rows()
    killed = 0
    while True:
        arguments = [tmp_path / "access.db", str(killed + 1), str(world.cache.id), str(1_001 * DAY)]
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", _ROLL_UP, *arguments], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert await world.rows() == before
        killed += 1
    assert killed == 2  # after the days were written, and after the hours were deleted
    assert [row[1:7] for row in await world.rows()] == [(DAY, 1_000 * DAY, 15, 6, 3, 30)]


async def test_traffic_of_a_cache_that_is_gone_goes_too(world: World) -> None:
    count(world.one.of(world.cache.name), 1)
    await world.one.flush()
    await world.store.database.write(lambda connection: delete_cache(connection, world.cache.id))
    await world.one.roll_up()
    assert await world.rows() == []
    count(world.one.of(world.cache.name), 1)
    await world.one.flush()
    assert await world.rows() == []


async def test_points_have_no_gaps(world: World) -> None:
    count(world.one.of(world.cache.name), 5, 1)
    await world.one.flush()
    world.now += 3 * HOUR
    day = await world.one.show(world.cache, "day")
    assert (day.seconds, len(day.points)) == (HOUR, 24)
    assert [point.hits for point in day.points[-5:]] == [0, 5, 0, 0, 0]
    assert [point.nar_bytes for point in day.points[-5:]] == [None, 0, None, None, None]
    month = await world.one.show(world.cache, "month")
    assert (month.seconds, len(month.points), month.points[-1].hits) == (DAY, 30, 5)
    sums = await world.one.sum_days([world.cache.id, 99], 1)
    assert {number: (row.hits, row.misses, row.nars) for number, row in sums.items()} == {world.cache.id: (5, 1, 1)}
