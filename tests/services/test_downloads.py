"""Who downloaded what is counted in memory, written now and then, and forgotten after its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.downloads import Downloader, DownloadRow, count_downloads, forget_downloads, load_downloads
from icehouse.db.engine import Database, connect
from icehouse.db.migrate import prepare_access_database
from icehouse.errors import Unavailable
from icehouse.services.downloads import Downloads

DAY = 86_400
TOKEN, HERE, THERE = Downloader(7, ""), Downloader(None, "192.0.2.1"), Downloader(None, "2001:db8::1")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_access_database(tmp_path / "access.db")
    database = Database.open(tmp_path / "access.db", revision=ACCESS_REVISION, busy_timeout_seconds=0.05)
    yield database
    database.close()


def make(
    database: Database, *, now: int = 0, keep_days: int = 30, max_noted: int = 1_000, max_rows: int = 1_000
) -> Downloads:
    return Downloads(database, lambda: now, keep_days=keep_days, max_noted=max_noted, max_rows=max_rows)


def noted(database: Database, *path_ids: int) -> list[DownloadRow]:
    return database.read_now(lambda connection: load_downloads(connection, path_ids))


async def test_downloads_are_added_up_by_token_or_address(database: Database) -> None:
    downloads, others = make(database), make(database)
    downloads.note(1, 7, "192.0.2.9", 100)
    downloads.note(1, 7, "192.0.2.8", 110)  # with a token, the address does not matter
    downloads.note(1, None, "192.0.2.1", 105)
    downloads.note(2, None, "2001:db8::1", 120)
    await downloads.flush()
    others.note(1, 7, "", 90)
    others.note(1, None, "2001:db8::1", 130)
    for each in (others, downloads):
        await each.flush()
    assert noted(database, 1) == [
        DownloadRow(1, THERE, 1, 130, 130),
        DownloadRow(1, TOKEN, 3, 90, 110),
        DownloadRow(1, HERE, 1, 105, 105),
    ]
    assert noted(database, 2, 3) == [DownloadRow(2, THERE, 1, 120, 120)]


async def test_what_could_not_be_written_is_kept_for_the_next_time(database: Database) -> None:
    downloads = make(database)
    downloads.note(1, 7, "", 100)
    with closing(connect(database.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await downloads.flush()
        downloads.note(1, 7, "", 110)
        other.execute("ROLLBACK")
    await downloads.flush()
    assert noted(database, 1) == [DownloadRow(1, TOKEN, 2, 100, 110)]


async def test_memory_holds_only_so_many_and_goes_on_with_those(database: Database) -> None:
    downloads = make(database, max_noted=2)
    for path_id in (1, 2, 3, 1):
        downloads.note(path_id, 7, "", 100)
    await downloads.flush()
    assert [(row.path_id, row.downloads) for row in noted(database, 1, 2, 3)] == [(1, 2), (2, 1)]


async def test_what_is_old_is_forgotten_with_whom_it_named(database: Database) -> None:
    downloads = make(database, now=40 * DAY)
    for path_id, by, at in ((1, HERE, 9 * DAY), (1, THERE, 11 * DAY), (2, HERE, 10 * DAY)):
        downloads.note(path_id, None, by.address, at)
    await downloads.flush()
    await downloads.purge()
    assert [row.by for row in noted(database, 1, 2)] == [THERE]
    with closing(connect(database.path)) as raw:
        assert raw.execute("SELECT address FROM downloader").fetchall() == [(THERE.address,)]


async def test_where_there_are_too_many_the_oldest_go(database: Database) -> None:
    downloads = make(database, max_rows=10)
    for path_id in range(11):
        downloads.note(path_id, 7, "", 100 - path_id)
    await downloads.flush()
    assert [row.path_id for row in noted(database, *range(11))] == list(range(9))


async def test_nothing_is_noted_where_that_is_turned_off_and_what_was_is_forgotten(database: Database) -> None:
    before, off = make(database, now=100), make(database, now=100, keep_days=0)
    before.note(1, 7, "", 100)
    await before.flush()
    off.note(2, 7, "", 100)
    await off.flush()
    await off.purge()
    assert database.read_now(count_downloads) == 0


async def test_paths_that_are_gone_are_forgotten(database: Database) -> None:
    downloads = make(database)
    for path_id in (1, 2):
        downloads.note(path_id, 7, "", 100)
    await downloads.flush()
    database.write_now(lambda connection: forget_downloads(connection, [1]))
    assert [row.path_id for row in noted(database, 1, 2)] == [2]
