"""The folder into which the post-build hook puts the names of what was built, and from which the daemon takes them.

``SPOOL/tmp`` is where the hook writes a file, and ``SPOOL/new`` where it renames it to: whole, or not at all. Where the
hook runs as root and the daemon as somebody else, ``SPOOL`` and ``tmp`` are root's and ``new`` is the daemon's. So the
daemon's user can put nothing in the way of what root writes, and a rename follows no symlink. What the daemon finds it
opens without following symlinks, reads up to a limit, and takes for store paths only if it parses as such.
"""

import contextlib
import os
import stat
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from icehouse.errors import Conflict, Denied, InvalidFormat, Unavailable
from icehouse.nix.derivations import is_derivation
from icehouse.nix.store_paths import StoreDir, StorePath, parse_full

SYSTEM_SPOOL: Final = Path("/var/spool/icehouse")
MAX_FILE_BYTES: Final = 1024 * 1024
"""The outputs of one derivation: some hundred bytes each."""

_MINE: Final = 0o700
_ROOTS: Final = 0o755
_WRITABLE_BY_OTHERS: Final = 0o022


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """A file that was read."""

    name: str
    derivation: StorePath | None
    """What was built."""
    outputs: tuple[StorePath, ...]
    """What came of it. None: the hook was not told, as by Nix 2.8."""


@dataclass(frozen=True, slots=True)
class Spool:
    """A spool that is there."""

    folder: Path

    @property
    def new(self) -> Path:
        """Where whole files are."""
        return self.folder / "new"

    def read(self, store_dir: StoreDir, limit: int) -> list[SpoolFile]:
        """At most *limit* files. A file that is none of the hook's names nothing.

        Raises:
            Unavailable: the folder cannot be read.
        """
        try:
            with os.scandir(self.new) as entries:
                names = [entry.name for entry in islice(entries, limit)]
        except OSError as exc:
            raise Unavailable(f"{self.new} cannot be read: {exc.strerror}") from exc
        return [_read(self.new, name, store_dir) for name in names]

    def remove(self, file: SpoolFile) -> bool:
        """Remove a file that was taken; whether that could be. One that stays is taken again, which changes nothing."""
        try:
            (self.new / file.name).unlink()
        except OSError:
            return False
        return True


def make_spool(folder: Path, *, daemon_user: int, daemon_group: int) -> Spool:
    """The spool in *folder*, made if it is not there, for a hook that runs as we do, and a daemon that need not.

    Raises:
        Conflict: what is there could be tampered with.
        Denied: it may not be made.
    """
    is_shared = daemon_user != os.geteuid()
    try:
        _make(folder, _ROOTS if is_shared else _MINE)
        _make(folder / "tmp", _MINE)
        _make(folder / "new", _MINE, owners=(os.geteuid(), daemon_user))
        os.chown(folder / "new", daemon_user, daemon_group, follow_symlinks=False)
    except PermissionError as exc:
        raise Denied(f"{exc.filename or folder}: {exc.strerror}; whose folder is it?") from exc
    except OSError as exc:
        raise Unavailable(f"{exc.filename or folder}: {exc.strerror}") from exc
    return Spool(folder)


def _make(folder: Path, mode: int, *, owners: tuple[int, ...] = ()) -> None:
    with contextlib.suppress(FileExistsError):
        if not folder.parent.exists():
            folder.parent.mkdir(parents=True)
        folder.mkdir(mode=_MINE)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise Conflict(f"{folder} is no folder; move it away, or give another with --spool")
    if found.st_uid not in (owners or (os.geteuid(),)) or found.st_mode & _WRITABLE_BY_OTHERS:
        raise Conflict(
            f"{folder} belongs to user {found.st_uid} and has mode {stat.S_IMODE(found.st_mode):o}: others could "
            "tamper with it; move it away, or give another with --spool"
        )
    folder.chmod(mode)


def _read(folder: Path, name: str, store_dir: StoreDir) -> SpoolFile:
    paths = _paths_in(folder / name, store_dir)
    derivation = next((path for path in paths if is_derivation(path)), None)
    return SpoolFile(name, derivation, tuple(path for path in paths if path != derivation))


def _paths_in(file: Path, store_dir: StoreDir) -> tuple[StorePath, ...]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            return ()
        data = os.read(descriptor, MAX_FILE_BYTES)
    except OSError:
        return ()
    finally:
        os.close(descriptor)
    paths: list[StorePath] = []
    for word in data.decode(errors="replace").split():
        with contextlib.suppress(InvalidFormat):
            paths.append(parse_full(word, store_dir))
    return tuple(paths)
