"""The data folder of a server, for commands that run on the server's machine, beside the server or without it."""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.db.engine import Database
    from icehouse.services.start import DataFolder
    from icehouse.services.workers import Workers
    from icehouse.storage.local import LocalBlobStore

FolderOption = Annotated[
    Path | None,
    typer.Option(
        help="The server's data folder; this runs on the server's machine.",
        show_default="$ICEHOUSE_DATA_DIR, or ./icehouse-data",
    ),
]


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """The parts of a server that commands work with."""

    folder: "DataFolder"
    database: "Database"
    blobs: "LocalBlobStore"
    workers: "Workers"


def clock() -> int:
    """Seconds since the epoch."""
    return int(time.time())


def find_folder(data_dir: Path | None) -> "DataFolder":
    """The folder that is meant, which need not be there."""
    from icehouse.config import DEFAULT_DATA_DIR
    from icehouse.services.start import DataFolder

    return DataFolder(data_dir or Path(os.environ.get("ICEHOUSE_DATA_DIR") or DEFAULT_DATA_DIR))


def log_to_stderr() -> None:
    """Have services tell of trouble on stderr: stdout is for results, and what went well they tell the server's log."""
    import structlog

    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
    )


@contextmanager
def open_folder(data_dir: Path | None) -> Generator[OpenFolder]:
    """Open a folder that a server was started on before. The server may run meanwhile.

    Raises:
        NotFound: there is no database in it.
        Conflict: the database is of another version.
    """
    from icehouse.db.engine import Database
    from icehouse.services.workers import Workers
    from icehouse.storage.local import LocalBlobStore

    log_to_stderr()
    folder = find_folder(data_dir)
    if not folder.database.exists():
        raise NotFound(f"{folder.database} is not there; expected the data folder of a server that was started before")
    database = Database.open(folder.database)
    workers = Workers()
    try:
        yield OpenFolder(folder, database, LocalBlobStore(folder.path), workers)
    finally:
        workers.close()
        database.close()
