"""How the database is reached: one writing thread, a few reading threads, and plain connections for the hot routes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar, cast
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from icehouse.errors import Conflict, Corrupt, NotFound, OverQuota, Unavailable
from icehouse.rules.durations import QueueCounts

SCHEMA_REVISION: Final = "0028"
"""What `migrations/versions/icehouse` brings a database to; this code works with no other."""

READER_THREADS: Final = 4
BUSY_TIMEOUT_SECONDS: Final = 30.0
HOT_BUSY_TIMEOUT_SECONDS: Final = 1.0
"""Readers wait only for the recovery after a crash; in the event loop that must stay short."""

_WRITER_CACHE_KIB: Final = 32 * 1024
_READER_CACHE_KIB: Final = 8 * 1024
_MMAP_BYTES: Final = 256 * 1024 * 1024
_WAL_KEPT_BYTES: Final = 64 * 1024 * 1024  # A long transaction's log shrinks to this once it is in the database.
_LITTLE_SPACE_BYTES: Final = 1024 * 1024
_AFTER_COMMIT: Final = "icehouse after commit"

T = TypeVar("T")


class Database:
    """An SQLite database that other processes may have open too. Any task of one event loop may use it.

    A work that `read` or `write` is given runs in a thread, in one transaction, and must not keep the connection or an
    unread result of it. If the task that waits for it is cancelled, a work that has not begun is dropped; one that has
    begun is carried to its end first, so that nothing it uses is taken away from it and nothing is half done.
    """

    def __init__(self, path: Path, *, busy_timeout_seconds: float) -> None:
        self.path = path
        self._writer = _make_engine(
            lambda: connect(path, busy_timeout_seconds=busy_timeout_seconds), begin="BEGIN IMMEDIATE", connections=1
        )
        self._readers = _make_engine(
            lambda: connect(path, busy_timeout_seconds=busy_timeout_seconds, is_read_only=True),
            begin="BEGIN",
            connections=READER_THREADS,
        )
        self.reads = QueueCounts()
        """Transactions of `read`, and what waits for a thread that reads."""
        self.writes = QueueCounts()
        """The same of `write`. What waits for another process to end its transaction is at work."""
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-writer")
        self._reader_threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix=f"{path.stem}-reader")

    @classmethod
    def open(
        cls, path: Path, *, revision: str = SCHEMA_REVISION, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> Self:
        """Open the database at *path*, which `migrate` made and brought to *revision*.

        Raises:
            NotFound: there is no database.
            Conflict: its schema is another than this code's.
            Corrupt: it is damaged, or no SQLite database.
            Unavailable: it cannot be read now.
        """
        if not path.exists():
            raise NotFound(f"{path}: there is no database")
        with database_errors(path), contextlib.closing(connect(path, busy_timeout_seconds=busy_timeout_seconds)) as raw:
            found = read_revision(raw)
        if found != revision:
            raise Conflict(f"{path}: the schema is at revision {found}, expected {revision}")
        return cls(path, busy_timeout_seconds=busy_timeout_seconds)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run *work* in a transaction that cannot write, and give its result. It sees one state of the database.

        Raises:
            Unavailable: the database stayed busy, or could not be read.
            Corrupt: it is damaged.
        """
        return await _finish(self._submit_read(work))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run *work* in a writing transaction, and give its result once that is committed and on the disk.

        If *work* raises, nothing that it did remains.

        Raises:
            OverQuota: the disk is full; nothing was written.
            Unavailable: the database stayed busy, or could not be written.
            Corrupt: it is damaged.
        """
        return await _finish(self._submit_write(work))

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """As `write`, for who runs no event loop: waits in the calling thread."""
        return self._submit_write(work).result()

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """As `read`, for who runs no event loop: waits in the calling thread."""
        return self._submit_read(work).result()

    def open_reader(self) -> sqlite3.Connection:
        """A plain connection in which every statement is its own short reading transaction. The caller closes it.

        Only the thread that opened it may use it. Its errors are SQLite's own; `database_errors` translates them.
        """
        with database_errors(self.path):
            return connect(
                self.path,
                busy_timeout_seconds=HOT_BUSY_TIMEOUT_SECONDS,
                is_read_only=True,
                is_for_one_thread=True,
            )

    def close(self) -> None:
        """Finish what was handed in, and close every connection except those of `open_reader`."""
        self._writer_thread.shutdown()
        self._reader_threads.shutdown()
        self._readers.dispose()
        self._writer.dispose()

    def _submit_read(self, work: Callable[[Connection], T]) -> Future[T]:
        return self._submit(self._reader_threads, self.reads, partial(self._run, self._readers, work))

    def _submit_write(self, work: Callable[[Connection], T]) -> Future[T]:
        return self._submit(self._writer_thread, self.writes, partial(self._run, self._writer, work))

    def _submit(self, threads: ThreadPoolExecutor, counts: QueueCounts, work: Callable[[], T]) -> Future[T]:
        queued = time.perf_counter()

        def timed() -> T:
            began = time.perf_counter()
            counts.begin(began - queued)
            try:
                return work()
            finally:
                counts.works.add(time.perf_counter() - began)

        counts.enter()
        future = threads.submit(timed)
        future.add_done_callback(lambda done: counts.give_up() if done.cancelled() else None)
        return future

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        with database_errors(self.path):
            with engine.begin() as connection:
                waiting: list[Callable[[], None]] = []
                connection.info[_AFTER_COMMIT] = waiting  # Each engine's connections outlive their transactions.
                result = work(connection)
            for notice in waiting:
                notice()
            return result


def after_commit(connection: Connection, notice: Callable[[], None]) -> None:
    """Have *notice* called, in the thread of the transaction that *connection* is in, once that is committed.

    It must not raise, and is not called if the process dies in between.
    """
    cast("list[Callable[[], None]]", connection.info[_AFTER_COMMIT]).append(notice)


def connect(
    path: Path,
    *,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    is_read_only: bool = False,
    is_for_one_thread: bool = False,
) -> sqlite3.Connection:
    """A plain connection to an existing database, set up as every connection of ours is, in autocommit mode.

    Errors are SQLite's own.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={'ro' if is_read_only else 'rw'}",
        uri=True,
        timeout=busy_timeout_seconds,
        isolation_level=None,  # Transactions begin where we say, and never by themselves.
        check_same_thread=is_for_one_thread,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA mmap_size = {_MMAP_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB if is_read_only else _WRITER_CACHE_KIB}")
        if is_read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def read_revision(connection: sqlite3.Connection) -> str | None:
    """The revision that Alembic noted in the database, or `None` where it noted none."""
    has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_table else None
    return None if row is None else str(row[0])


@contextlib.contextmanager
def database_errors(path: Path) -> Generator[None]:
    """Turn what SQLite raises inside about the database at *path* into errors of ours.

    A row that another one needs and that was deleted meanwhile is a `Conflict`. Other faults of a statement (another
    constraint, a wrong column) are no state of the database and pass as they are.
    """
    try:
        yield
    except DBAPIError as exc:
        if not isinstance(exc.orig, sqlite3.Error):
            raise
        _raise_ours(path, exc.orig)
        raise
    except sqlite3.Error as exc:
        _raise_ours(path, exc)
        raise


def _raise_ours(path: Path, error: sqlite3.Error) -> None:
    code = getattr(error, "sqlite_errorcode", None)  # Absent where Python itself found the fault.
    if not isinstance(code, int):
        return
    if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        raise Conflict("what this belongs to was deleted meanwhile") from error
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            raise OverQuota(f"{path}: the disk is full") from error
        case sqlite3.SQLITE_IOERR if _is_disk_full(path):
            raise OverQuota(f"{path}: the disk is full ({error.sqlite_errorname})") from error
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            raise Unavailable(f"{path}: another transaction did not end in time") from error
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            raise Corrupt(f"{path}: the database is damaged: {error}") from error
        case (
            sqlite3.SQLITE_IOERR
            | sqlite3.SQLITE_CANTOPEN
            | sqlite3.SQLITE_READONLY
            | sqlite3.SQLITE_PERM
            | sqlite3.SQLITE_NOMEM
            | sqlite3.SQLITE_INTERRUPT
            | sqlite3.SQLITE_PROTOCOL
        ):
            raise Unavailable(f"{path}: {error} ({error.sqlite_errorname})") from error
        case _:
            return


def _is_disk_full(path: Path) -> bool:
    # A full disk or a quota shows as a failed write, sync or shared memory, which alone do not say why they failed.
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE_SPACE_BYTES
    except OSError:
        return False


def _make_engine(creator: Callable[[], sqlite3.Connection], *, begin: str, connections: int) -> Engine:
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=creator, poolclass=QueuePool, pool_size=connections, max_overflow=0
    )

    # SQLite's driver would begin a transaction at its first change only, after the facts for it were read.
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", begin_transaction)
    return engine


async def _finish(future: Future[T]) -> T:
    """The result of *future*; when cancelled, drop it if it has not begun, and else wait for its end first."""
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting])
    except asyncio.CancelledError:
        if not future.cancel():
            while not waiting.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([waiting])
            waiting.exception()  # Seen: nobody is left who could be told.
        raise
    return waiting.result()
