import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.api.caches import CacheCreate
from icehouse.db.access_times import load_uses
from icehouse.db.engine import Database
from icehouse.db.files import locked, read_small_file, write_private_file
from icehouse.db.tokens import list_tokens
from icehouse.errors import Conflict, Corrupt, Unavailable
from icehouse.rules.access import Grant, Permission, parse_token
from icehouse.services.access import Access, Credential
from icehouse.services.caches import Caches
from icehouse.services.signing import Sealer
from icehouse.services.start import DataFolder, open_databases, start
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import TESTER

NOW = 1_000


def clock() -> int:
    return NOW


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "icehouse-data")


async def identify(folder: DataFolder, token: str) -> frozenset[Permission]:
    database = Database.open(folder.database)
    try:
        grant = await Access(database, clock=clock).identify(Credential(f"Bearer {token}"))
    finally:
        database.close()
    assert grant is not None
    assert grant.cache_pattern == "*"
    return grant.permissions


async def test_the_first_start_makes_everything(folder: DataFolder) -> None:
    with start(folder, clock=clock, draw=secrets.token_bytes) as started:
        assert started.secret == folder.secret.read_bytes()
        assert started.first_token is not None
        assert folder.admin_token.read_text() == f"{started.first_token}\n"
        assert await identify(folder, started.first_token) == {Permission.ADMIN}
        assert started.first_token not in repr(started)
        assert "secret=" not in repr(started)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.path.iterdir() if path.is_dir()} == {"packs", "journal"}
    for path in folder.path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_folder_that_others_could_read_is_closed_at_the_first_start(folder: DataFolder) -> None:
    folder.path.mkdir(mode=0o755)
    with start(folder, clock=clock, draw=secrets.token_bytes):
        assert folder.path.stat().st_mode & 0o777 == 0o700


def test_later_starts_change_nothing(folder: DataFolder) -> None:
    with start(folder, clock=clock, draw=secrets.token_bytes) as first:
        pass
    with start(folder, clock=clock, draw=secrets.token_bytes) as second:
        assert second.secret == first.secret
        assert second.first_token is None


def test_both_databases_can_be_opened(folder: DataFolder) -> None:
    with start(folder, clock=clock, draw=secrets.token_bytes):
        for database in open_databases(folder):
            database.close()


def test_a_second_server_is_refused_while_the_first_runs(folder: DataFolder) -> None:
    with (
        start(folder, clock=clock, draw=secrets.token_bytes),
        pytest.raises(Conflict, match=re.escape(f"{folder.path} is in use by another server")),
        start(folder, clock=clock, draw=secrets.token_bytes),
    ):
        pass
    with start(folder, clock=clock, draw=secrets.token_bytes):
        pass


async def test_a_start_killed_after_writing_the_token_is_carried_on(folder: DataFolder) -> None:
    with start(folder, clock=clock, draw=secrets.token_bytes) as first:
        pass
    database = Database.open(folder.database)
    await database.write(lambda connection: connection.exec_driver_sql("DELETE FROM token"))
    database.close()
    with start(folder, clock=clock, draw=secrets.token_bytes) as second:
        assert second.first_token == first.first_token
        assert await identify(folder, folder.admin_token.read_text().strip()) == {Permission.ADMIN}


async def test_a_token_file_that_is_damaged_before_its_token_is_valid_is_made_again(folder: DataFolder) -> None:
    folder.path.mkdir()
    folder.admin_token.write_bytes(b"\xffno token")
    with start(folder, clock=clock, draw=secrets.token_bytes) as started:
        assert started.first_token == parse_token(folder.admin_token.read_text().strip())


def test_a_secret_of_wrong_length_is_refused(folder: DataFolder) -> None:
    folder.path.mkdir()
    folder.secret.write_bytes(b"short")
    with pytest.raises(Corrupt, match="has 5 bytes, expected 32"), start(folder, clock=clock, draw=secrets.token_bytes):
        pass


@pytest.mark.parametrize("has_keys", [False, True])
async def test_a_lost_secret_is_made_again_only_where_nothing_needs_it(folder: DataFolder, *, has_keys: bool) -> None:
    with start(folder, clock=clock, draw=secrets.token_bytes) as started:
        secret = started.secret
    if has_keys:
        await add_cache(folder, Sealer(secret))
    folder.secret.unlink()
    if has_keys:
        with pytest.raises(Conflict, match="put it back"), start(folder, clock=clock, draw=secrets.token_bytes):
            pass
        assert not folder.secret.exists()
    else:
        with start(folder, clock=clock, draw=secrets.token_bytes) as started:
            assert started.secret != secret


async def add_cache(folder: DataFolder, sealer: Sealer) -> None:
    database = Database.open(folder.database)
    caches = Caches(
        database, MemoryBlobStore(), sealer, public_url="http://localhost", clock=clock, draw=secrets.token_bytes
    )
    admin = Grant(1, "", frozenset({Permission.ADMIN}), "*")
    await caches.create_cache(CacheCreate(name="main", is_public=True), admin, TESTER)
    database.close()


def test_damaged_access_times_are_put_aside(folder: DataFolder) -> None:
    with start(folder, clock=clock, draw=secrets.token_bytes):
        pass
    folder.access_database.write_bytes(b"not a database" * 1_000)
    with start(folder, clock=clock, draw=secrets.token_bytes):
        database, access_database = open_databases(folder)
        assert access_database.write_now(lambda connection: load_uses(connection, [1])) == {}
        database.close()
        access_database.close()
    assert (folder.path / "access.db.damaged").read_bytes().startswith(b"not a database")


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = DataFolder(tmp_path / "file" / "data")
    with pytest.raises(Unavailable, match="file"), start(folder, clock=clock, draw=secrets.token_bytes):
        pass


DIE_AT_EACH_LINE = """
import os, secrets, signal, sys, threading
from pathlib import Path
from icehouse.services.start import DataFolder, start

OURS = ("services/start.py", "db/files.py", "db/migrate.py", "db/engine.py")
parent, stride = Path(sys.argv[1]), int(sys.argv[2])

def die_at(line):
    def trace(frame, event, argument):
        nonlocal line
        if not frame.f_code.co_filename.endswith(OURS):
            return None
        if event == "line":
            line -= 1
            if line == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    threading.settrace(trace)
    sys.settrace(trace)

line, status = 1, signal.SIGKILL
while status == signal.SIGKILL:
    child = os.fork()
    if child == 0:
        die_at(line)
        with start(DataFolder(parent / str(line)), clock=lambda: 1_000, draw=secrets.token_bytes):
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    line += stride
sys.exit(status)
"""


def die_at_lines(parent: Path, stride: int) -> list[DataFolder]:
    """One folder for each line, of those that a first start runs through, at which one was killed; the last was not."""
    subprocess.run([sys.executable, "-c", DIE_AT_EACH_LINE, str(parent), str(stride)], check=True)
    return [DataFolder(path) for path in parent.iterdir()]


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.long)])
async def test_a_start_killed_at_any_line_is_carried_on_by_the_next(tmp_path: Path, stride: int) -> None:
    folders = die_at_lines(tmp_path, stride)
    assert len(folders) > 100 // stride
    for folder in folders:
        files = [path.read_bytes() if path.exists() else None for path in (folder.secret, folder.admin_token)]
        with start(folder, clock=clock, draw=secrets.token_bytes):
            token = folder.admin_token.read_text().strip()
            assert await identify(folder, token) == {Permission.ADMIN}
            found = [folder.secret.read_bytes(), folder.admin_token.read_bytes()]
            assert [then or now for then, now in zip(files, found, strict=True)] == found
            assert list(folder.path.glob("*.unfinished")) == []
            database = Database.open(folder.database)
            assert len(await database.read(list_tokens)) == 1
            database.close()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name("file.unfinished").write_bytes(b"left by a crash")
    write_private_file(path, b"one")
    write_private_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4097))
    with pytest.raises(Corrupt):
        read_small_file(tmp_path / "file")


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(Corrupt), locked(tmp_path / "lock", refusal="held"):
        raise Corrupt("something else")
    with locked(tmp_path / "lock", refusal="held"):
        pass
