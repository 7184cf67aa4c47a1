"""Starting on a data folder: making what is missing, and keeping a second server out.

Each step may be cut off by a crash; the next start carries on where it stood.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.engine import Database
from icehouse.db.files import file_errors, locked, read_small_file, sync_folder, write_private_file
from icehouse.db.keys import count_keys
from icehouse.db.leases import end_lease
from icehouse.db.migrate import prepare_access_database, prepare_database
from icehouse.db.tokens import has_tokens, insert_token
from icehouse.errors import Conflict, Corrupt
from icehouse.rules.access import TOKEN_RANDOM_BYTES, Permission, Token, hash_token, make_token, parse_token
from icehouse.rules.audit import THE_SERVER, Action
from icehouse.services.audit import record
from icehouse.services.secret_rotation import settle_secret
from icehouse.services.signing import SECRET_BYTES
from icehouse.services.signing_passes import LEASE
from icehouse.services.tokens import audited

FIRST_TOKEN_DESCRIPTION: Final = "first administrator"  # noqa: S105  a description, no secret


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where everything of a server with local storage is."""

    path: Path

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "icehouse.db"

    @property
    def access_database(self) -> Path:
        """The database of access times, which may be lost."""
        return self.path / "access.db"

    @property
    def secret(self) -> Path:
        """32 random bytes, which private signing keys are encrypted with."""
        return self.path / "secret"

    @property
    def admin_token(self) -> Path:
        """The first token, as text."""
        return self.path / "admin-token"

    @property
    def lock(self) -> Path:
        """Locked by the server that uses the folder."""
        return self.path / "lock"


@dataclass(frozen=True, slots=True)
class Started:
    """A data folder that is ready, and this process's alone."""

    folder: DataFolder
    secret: bytes = field(repr=False)
    first_token: Token | None = field(repr=False)
    """An administrator's token, made by this start, to be shown once; `None` at later starts."""


@contextlib.contextmanager
def start(folder: DataFolder, *, clock: Callable[[], int], draw: Callable[[int], bytes]) -> Generator[Started]:
    """Make *folder* ready for a server, and hold it for as long as the context lasts.

    To be called in the parent process, before workers start: it migrates the databases. *draw* gives so many random
    bytes, fit for secrets.

    Raises:
        Conflict: another server uses the folder; or its database is of a newer version; or its secret is gone.
        Corrupt: the database or the secret is damaged.
        OverQuota: the disk is full.
        Unavailable: the folder cannot be made, read or written.
    """
    with contextlib.ExitStack() as stack:
        with file_errors(folder.path):
            _make_folder(folder)
            stack.enter_context(locked(folder.lock, refusal=f"{folder.path} is in use by another server"))
            prepare_database(folder.database)
            _prepare_access_times(folder)
            with contextlib.closing(Database.open(folder.database)) as database:
                database.write_now(partial(end_lease, name=LEASE))  # of a server that was killed: it held this folder
                secret = _load_secret(folder, database, draw)
                first_token = _make_first_token(folder, database, clock(), draw)
        yield Started(folder, secret, first_token)


def open_databases(folder: DataFolder) -> tuple[Database, Database]:
    """The database and that of access times, of a folder that `start` made ready. Each process opens them itself."""
    database = Database.open(folder.database)
    try:
        return database, Database.open(folder.access_database, revision=ACCESS_REVISION)
    except BaseException:
        database.close()
        raise


def _make_folder(folder: DataFolder) -> None:
    is_first = not folder.database.exists()
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_first:
        # Also where the administrator made the empty folder. Later, its mode is their choice.
        folder.path.chmod(0o700)
        sync_folder(folder.path.parent)
    for name in ("packs", "journal"):
        (folder.path / name).mkdir(mode=0o700, exist_ok=True)


def _prepare_access_times(folder: DataFolder) -> None:
    path = folder.access_database
    try:
        prepare_access_database(path)
    except Corrupt:
        # Losing it loses no data, and it must not keep a server from starting.
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.rename(path.with_name(f"{path.name}.damaged"))
        prepare_access_database(path)


def _load_secret(folder: DataFolder, database: Database, draw: Callable[[int], bytes]) -> bytes:
    settle_secret(folder.secret, database)
    found = read_small_file(folder.secret)
    if found is None:
        if database.write_now(count_keys):
            raise Conflict(f"{folder.secret} is gone, and the signing keys are encrypted with it: put it back")
        found = draw(SECRET_BYTES)
        write_private_file(folder.secret, found)
    if len(found) != SECRET_BYTES:
        raise Corrupt(f"{folder.secret} has {len(found)} bytes, expected {SECRET_BYTES}")
    return found


def _make_first_token(folder: DataFolder, database: Database, now: int, draw: Callable[[int], bytes]) -> Token | None:
    """The first token: written to its file, then made valid. A file without a row is what a crash in between left."""
    if database.write_now(has_tokens):
        return None
    token = _find_token(folder) or make_token(draw(TOKEN_RANDOM_BYTES))
    write_private_file(folder.admin_token, f"{token}\n".encode())

    def work(connection: Connection) -> None:
        row = insert_token(
            connection,
            hash_token(token),
            description=FIRST_TOKEN_DESCRIPTION,
            permissions=[Permission.ADMIN],
            cache_pattern="*",
            created_by=None,
            expires_at=None,
            now=now,
        )
        record(connection, THE_SERVER, Action.TOKEN_CREATE, "*", str(row.id), new=audited(row), now=now)

    database.write_now(work)
    return token


def _find_token(folder: DataFolder) -> Token | None:
    try:
        return parse_token((read_small_file(folder.admin_token) or b"").decode().strip())
    except ValueError:
        return None
