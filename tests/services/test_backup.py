"""Backups: made while the server runs, put back while it does not."""

import secrets
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest
from backports.zstd import decompress
from sqlalchemy import func, select

from icehouse.db.caches import insert_cache
from icehouse.db.engine import SCHEMA_REVISION, Database
from icehouse.db.files import locked
from icehouse.db.schema import cache, domain
from icehouse.errors import Conflict, Corrupt, InvalidFormat, NotFound
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.backups import PREAMBLE_BYTES, BackupHead, parse_preamble, render_head
from icehouse.services.backup import Backups, restore
from icehouse.services.start import DataFolder, start
from icehouse.storage.blobs import BlobKey
from icehouse.storage.memory import MemoryBlobStore

NOW = 1_795_391_821
DAY = 86_400


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes):
        pass
    return folder


@pytest.fixture
def database(folder: DataFolder) -> Generator[Database]:
    database = Database.open(folder.database)
    yield database
    database.close()


def add_cache(folder: DataFolder, name: str) -> None:
    database = Database.open(folder.database)
    database.write_now(
        lambda connection: insert_cache(
            connection,
            name=name,
            domain_id=1,
            is_public=True,
            store_dir=NIX_STORE,
            priority=41,
            want_mass_query=True,
            now=NOW,
        )
    )
    database.close()


def cache_names(folder: DataFolder) -> list[str]:
    database = Database.open(folder.database)
    try:
        return database.write_now(lambda c: list(c.execute(select(cache.c.name).order_by(cache.c.name)).scalars()))
    finally:
        database.close()


async def test_a_backup_brings_back_what_was_there_when_it_was_made(folder: DataFolder) -> None:
    blobs = MemoryBlobStore()
    (folder.path / "icehouse.toml").write_text("port = 7\n")
    add_cache(folder, "before")
    backup = await Backups(folder, blobs, lambda: NOW).back_up()
    assert backup.name == f"20261122t235701z-{SCHEMA_REVISION}.zst"
    assert blobs.size(BlobKey(f"backups/{backup.name}")) == backup.stored_bytes
    add_cache(folder, "after")
    (folder.path / "icehouse.toml").unlink()
    secret = folder.secret.read_bytes()

    done = restore(folder, blobs, "latest", now=NOW + 5)
    assert (done.name, done.made_at, done.has_secret) == (backup.name, NOW, True)
    assert cache_names(folder) == ["before"]
    assert (folder.path / "icehouse.toml").read_text() == "port = 7\n"
    assert folder.secret.read_bytes() == secret
    assert done.kept == f"icehouse.db.before-restore-{NOW + 5}"
    assert folder.database.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(folder.path / str(done.kept)) as kept:
        assert kept.execute("SELECT count(*) FROM cache").fetchone() == (2,)
    kept.close()
    leftovers = {path.name for path in folder.path.iterdir()}
    assert not {name for name in leftovers if "unfinished" in name or "restoring" in name}


async def test_a_backup_is_made_while_the_server_writes(folder: DataFolder, database: Database) -> None:
    blobs = MemoryBlobStore()
    add_cache(folder, "before")
    await database.read(lambda connection: connection.execute(select(func.count()).select_from(cache)).scalar())
    await Backups(folder, blobs, lambda: NOW).back_up()
    add_cache(folder, "after")


async def test_zstd_alone_gives_the_database_and_no_secret_is_in_it(folder: DataFolder, tmp_path: Path) -> None:
    blobs = MemoryBlobStore()
    backup = await Backups(folder, blobs, lambda: NOW).back_up()
    buffer = bytearray(backup.stored_bytes)
    blobs.read_into(BlobKey(f"backups/{backup.name}"), 0, memoryview(buffer))
    assert folder.secret.read_bytes() not in buffer
    plain = decompress(bytes(buffer))
    assert plain.startswith(b"SQLite format 3\0")
    (tmp_path / "copy.zst").write_bytes(buffer)
    assert restore(folder, MemoryBlobStore(), str(tmp_path / "copy.zst"), now=NOW).name == "copy.zst"


async def test_so_many_are_kept_and_one_a_day_is_made(folder: DataFolder) -> None:
    blobs, clock = MemoryBlobStore(), Clock()
    backups = Backups(folder, blobs, clock)
    for step in range(5):
        clock.now = NOW + step * DAY // 2
        assert (await backups.back_up_if_due(keep=2) is not None) == (step % 2 == 0)
    assert [backup.made_at for backup in await backups.list_backups()] == [NOW + 2 * DAY, NOW + DAY]
    blobs.put(BlobKey("backups/of-another-program.zst"), b"x")
    await backups.back_up(keep=1)
    assert len(await backups.list_backups()) == 1
    with pytest.raises(InvalidFormat):
        await backups.back_up(keep=0)


async def test_a_folder_in_use_is_refused(folder: DataFolder) -> None:
    blobs = MemoryBlobStore()
    await Backups(folder, blobs, lambda: NOW).back_up()
    with locked(folder.lock), pytest.raises(Conflict, match="in use by a server"):
        restore(folder, blobs, "latest", now=NOW)


def test_what_is_not_there_is_not_found(folder: DataFolder, tmp_path: Path) -> None:
    for text in ("latest", "20261122t235701z-0003.zst", str(tmp_path / "none.zst")):
        with pytest.raises(NotFound):
            restore(folder, MemoryBlobStore(), text, now=NOW)


@pytest.mark.parametrize("cut", [3, 20, 500, -1])
async def test_a_backup_that_was_cut_off_changes_nothing(folder: DataFolder, tmp_path: Path, cut: int) -> None:
    blobs = MemoryBlobStore()
    add_cache(folder, "before")
    backup = await Backups(folder, blobs, lambda: NOW).back_up()
    buffer = bytearray(backup.stored_bytes)
    blobs.read_into(BlobKey(f"backups/{backup.name}"), 0, memoryview(buffer))
    file = tmp_path / "copy.zst"
    file.write_bytes(buffer[:cut])
    with pytest.raises((Corrupt, InvalidFormat)):
        restore(folder, blobs, str(file), now=NOW)
    middle = len(buffer) // 2
    buffer[middle] ^= 0xFF
    file.write_bytes(buffer)
    with pytest.raises(Corrupt):
        restore(folder, blobs, str(file), now=NOW)
    assert cache_names(folder) == ["before"]
    assert not list(folder.path.glob("*restor*"))


async def test_a_backup_of_a_newer_version_is_refused(folder: DataFolder, tmp_path: Path) -> None:
    blobs = MemoryBlobStore()
    raw = sqlite3.connect(folder.database)
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    await Backups(folder, blobs, lambda: NOW).back_up()
    with pytest.raises(Conflict, match="use a newer one"):
        restore(folder, blobs, "latest", now=NOW)
    later = render_head(BackupHead(version=2, revision="x", made_at=1, database_bytes=1, settings=None))
    assert parse_preamble(later[:PREAMBLE_BYTES])
    (tmp_path / "later.zst").write_bytes(later)
    with pytest.raises(InvalidFormat, match="version 2"):
        restore(folder, blobs, str(tmp_path / "later.zst"), now=NOW)


async def test_what_is_newer_is_told_and_its_domain_number_is_not_given_again(folder: DataFolder) -> None:
    blobs = MemoryBlobStore()
    await Backups(folder, blobs, lambda: 0).back_up()
    for key in ("packs/7/aa/" + "a" * 64, "journal/9/123-abc", "journal/1/124-abc"):
        blobs.put(BlobKey(key), b"x")
    done = restore(folder, blobs, "latest", now=NOW)
    assert (done.newer_packs, done.newer_publishes) == (1, 2)
    database = Database.open(folder.database)
    made = database.write_now(
        lambda c: c.execute(domain.insert().values(name=None, created_at=NOW).returning(domain.c.id)).scalar_one()
    )
    database.close()
    assert made == 10


async def test_a_damaged_database_is_replaced_too(folder: DataFolder) -> None:
    blobs = MemoryBlobStore()
    add_cache(folder, "before")
    await Backups(folder, blobs, lambda: NOW).back_up()
    folder.database.write_bytes(b"not a database at all" * 500)
    assert restore(folder, blobs, "latest", now=NOW).kept is not None
    assert cache_names(folder) == ["before"]
    folder.database.unlink()
    assert restore(folder, blobs, "latest", now=NOW).kept is None
    assert cache_names(folder) == ["before"]
