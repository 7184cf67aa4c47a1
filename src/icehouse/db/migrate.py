"""Bringing a database to the present schema, before anything else opens it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, event
from sqlalchemy.pool import NullPool

from icehouse.db import schema
from icehouse.db.engine import connect, database_errors, read_revision
from icehouse.db.files import file_errors, locked, make_private_file, sync_file, sync_folder
from icehouse.errors import Conflict, Corrupt

_MIGRATIONS: Final = Path(__file__).with_name("migrations")


def prepare_database(path: Path) -> None:
    """Make the database at *path*, or bring it to the present schema; where it is there already, do nothing.

    Before a change the database is copied to ``<path>.before-<revision>``, which names the revision that it is about to
    get. The change is one transaction: after an error or a crash the database is as it was. May be called by several
    processes at once.

    Raises:
        Conflict: the database was made by a newer version of this program, or by another program.
        Corrupt: it is damaged, or it is no SQLite database.
        OverQuota: the disk is full.
        Unavailable: it is in use, or cannot be read or written.
    """
    _prepare(path, "icehouse", schema.metadata)


def prepare_access_database(path: Path) -> None:
    """The same for the database of access times."""
    _prepare(path, "access", schema.access_metadata)


def migrations_of(name: str) -> ScriptDirectory:
    """The migrations of the database called *name*: ``icehouse`` or ``access``."""
    return ScriptDirectory.from_config(_config(name))


def _config(name: str) -> Config:
    config = Config()
    for option, value in {
        "script_location": str(_MIGRATIONS),
        "version_locations": str(_MIGRATIONS / "versions" / name),
        "path_separator": "newline",
    }.items():
        config.set_main_option(option, value.replace("%", "%%"))
    return config


def _prepare(path: Path, name: str, metadata: MetaData) -> None:
    with file_errors(path), locked(path.with_name(f"{path.name}.migrating")), database_errors(path):
        head = migrations_of(name).get_current_head()
        assert head is not None  # noqa: S101  the migrations are part of this package and make one line
        is_new = not path.exists() or path.stat().st_size == 0
        if is_new:
            # The first connection would make it too, but readable by others; its log gets the database's mode.
            make_private_file(path)
        with contextlib.closing(connect(path)) as raw:
            revision = read_revision(raw)
            if revision == head:
                return
            tables = raw.execute("SELECT count(*) FROM sqlite_master WHERE name <> 'alembic_version'").fetchone()[0]
            _check_known(path, name, revision, has_tables=tables > 0)
            if tables:
                _copy(raw, path.with_name(f"{path.name}.before-{head}"))
        _upgrade(path, name, metadata)
        sync_folder(path.parent)


def _check_known(path: Path, name: str, revision: str | None, *, has_tables: bool) -> None:
    if revision is None:
        if has_tables:
            raise Conflict(f"{path}: a database of another program, expected one of Icehouse")
        return
    known = [script.revision for script in migrations_of(name).walk_revisions()]
    if revision not in known:
        raise Conflict(
            f"{path}: made by a newer Icehouse (revision {revision}; this one knows revisions up to {known[0]}); "
            "start that version, or put back the copy that it made before it changed the database"
        )


def _upgrade(path: Path, name: str, metadata: MetaData) -> None:
    def connect_unchecked() -> sqlite3.Connection:
        raw = connect(path)
        # A migration may rebuild a table that others refer to. All references are checked before the commit.
        raw.execute("PRAGMA foreign_keys = OFF")
        return raw

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine = sqlalchemy.create_engine("sqlite://", creator=connect_unchecked, poolclass=NullPool)
    event.listen(engine, "begin", begin)
    config = _config(name)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        config.attributes["metadata"] = metadata
        command.upgrade(config, "head")
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise Corrupt(f"{path}: row {broken[1]} of {broken[0]} refers to a row of {broken[2]} that is not there")


def _copy(source: sqlite3.Connection, target: Path) -> None:
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        make_private_file(unfinished)
        with contextlib.closing(sqlite3.connect(unfinished)) as copy:
            source.backup(copy)
        sync_file(unfinished)
        unfinished.rename(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
