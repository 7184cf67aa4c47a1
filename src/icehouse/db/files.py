"""Small files beside the database: read, written durably, locked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

from icehouse.errors import Conflict, Corrupt, OverQuota, Unavailable

_SMALL_FILE_BYTES: Final = 4096


@contextlib.contextmanager
def file_errors(path: Path) -> Generator[None]:
    """Turn the system's errors inside, about files at *path*, into errors of ours."""
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OverQuota(f"{exc.filename or path}: the disk is full") from exc
        raise Unavailable(f"{exc.filename or path}: {exc.strerror or exc}") from exc


def make_private_file(path: Path) -> None:
    """Make an empty file that only its owner may read; one that is there stays as it is."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def read_small_file(path: Path) -> bytes | None:
    """The whole of a file of at most 4 KiB, or `None` if there is none.

    Raises:
        Corrupt: it is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_SMALL_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > _SMALL_FILE_BYTES:
        raise Corrupt(f"{path} has more than {_SMALL_FILE_BYTES} bytes")
    return content


def write_private_file(path: Path, content: bytes) -> None:
    """Put *content* under *path*, for its owner only: durably, and after a crash it is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123  a Path opens no descriptor
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make the bytes of a file survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextlib.contextmanager
def locked(path: Path, *, refusal: str | None = None) -> Generator[None]:
    """Hold a lock on *path*, an empty file that stays. The lock ends with the process, however that ends.

    Raises:
        Conflict: someone else holds it and *refusal*, then the message, is given; without that, wait.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal is not None else 0))
        except BlockingIOError as exc:
            raise Conflict(refusal) from exc
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
