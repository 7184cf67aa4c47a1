"""A server is ready while its database answers and its storage can be written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.errors import OverQuota, Unavailable
from icehouse.services.readiness import Readiness
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.memory import MemoryBlobStore, MemoryBlobWriter


class FailingBlobStore(MemoryBlobStore):
    """One that can no longer be written."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def create(self) -> MemoryBlobWriter:
        raise self._error


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


async def find_fault(database: Database, blobs: BlobStore) -> str | None:
    workers = Workers(1)
    try:
        return await Readiness(database, blobs, workers).find_fault()
    finally:
        workers.close()


async def test_a_look_at_a_sound_server_leaves_nothing(database: Database, tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "store")
    assert await find_fault(database, blobs) is None
    assert list(blobs.list()) == []


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OverQuota("/secret/place: the disk is full"), "the disk is full"),
        (Unavailable("/secret/place: read-only file system"), "the storage cannot be written"),
    ],
)
async def test_why_it_is_not_ready_is_told_without_places(database: Database, error: Exception, fault: str) -> None:
    assert await find_fault(database, FailingBlobStore(error)) == fault


async def test_a_database_that_a_newer_version_changed_is_not_served(database: Database) -> None:
    def change(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    await database.write(change)
    assert "at revision 9999" in str(await find_fault(database, MemoryBlobStore()))


async def test_a_database_that_does_not_answer_is_told(database: Database) -> None:
    path = database.path
    path.write_bytes(b"no database any more" * 1000)
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
    assert await find_fault(database, MemoryBlobStore()) == "the database does not answer"
