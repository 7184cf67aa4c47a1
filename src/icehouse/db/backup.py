"""Copies of the database: made from a running one, checked, and put in its place."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

from icehouse.db.engine import connect, database_errors, read_revision
from icehouse.db.files import file_errors, make_private_file, sync_file, sync_folder
from icehouse.db.migrate import migrations_of
from icehouse.errors import Conflict, Corrupt


def copy_database(source: Path, target: Path) -> str:
    """Copy the database to *target*, as it is at one time, and give its revision. Writers go on meanwhile.

    It is one reading transaction, since a copy in pieces would begin anew after each write: for as long as it takes,
    the log of the database grows by what is written.

    Raises:
        OverQuota: the disk is full.
        Corrupt, Unavailable: the database cannot be read, or *target* cannot be written.
    """
    with file_errors(target), database_errors(source):
        target.unlink(missing_ok=True)
        make_private_file(target)
        with (
            contextlib.closing(connect(source, is_read_only=True)) as reader,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            reader.backup(copy)
            # The copy stands alone: no log of its own is left beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            revision = read_revision(copy)
        if revision is None:
            raise Corrupt(f"{source}: no revision is noted in it")
        return revision


def check_copy(path: Path) -> None:
    """Check that the file is a whole database that this program can use or bring to its own schema.

    Raises:
        Corrupt: it is damaged, or no database.
        Conflict: it is of a newer version of this program.
    """
    with file_errors(path), database_errors(path), contextlib.closing(sqlite3.connect(path)) as raw:
        faults = [row[0] for row in raw.execute("PRAGMA integrity_check(3)")]
        if faults != ["ok"]:
            raise Corrupt(f"{path}: the database in the backup is damaged: {'; '.join(map(str, faults))}")
        revision = read_revision(raw)
    known = [script.revision for script in migrations_of("icehouse").walk_revisions()]
    if revision not in known:
        raise Conflict(
            f"the backup is of revision {revision}; this program knows revisions up to {known[0]}: use a newer one"
        )


def skip_domains(path: Path, used: Collection[int]) -> None:
    """Let no later domain get one of these numbers: bytes of a domain that the database does not know have them."""
    with file_errors(path), database_errors(path), contextlib.closing(sqlite3.connect(path)) as raw, raw:
        highest = max(used, default=0)
        changed = raw.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'domain'", (highest,))
        if not changed.rowcount:
            raw.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('domain', ?)", (highest,))


def replace_database(present: Path, new: Path, kept: Path) -> None:
    """Put *new* in the place of the database, durably, and keep the present one, if there is one, as *kept*.

    Nobody has it open. After a crash one of the two is in place, whole.
    """
    with file_errors(present):
        sync_file(new)
        if present.exists():
            _fold_log(present)
            kept.unlink(missing_ok=True)
            os.link(present, kept)
            # What a damaged database left of its log stays with it, and must not be played into the new one.
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    present.with_name(present.name + suffix).rename(kept.with_name(kept.name + suffix))
            sync_folder(present.parent)
        new.rename(present)
        sync_folder(present.parent)


def _fold_log(path: Path) -> None:
    """Write the log of a database into it, as far as it can be read."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
