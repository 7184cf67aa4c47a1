"""What a folder would look like after the power failed: without what nobody synced.

What SQLite writes into its databases and logs is taken as it stands: it is trusted to sync what it needs. Names are
another matter, its own too.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Final

from tests.crashes.disk_calls import DiskCall, Watcher

_OF_SQLITE: Final = re.compile(r"(icehouse|access)\.db(-wal|-shm|-journal)?")


class PowerCut(Watcher):
    """Knows what of *folder* is on the disk: names that their folder was synced with, and bytes that were synced.

    Whatever lost its name since, which may come back, is kept in *attic*, on the same file system.
    """

    def __init__(self, folder: Path, attic: Path) -> None:
        self._folder = folder
        self._attic = attic
        self._unsynced: set[int] = set()
        self._names: dict[int, dict[str, int]] = {}
        for place, _, _ in os.walk(folder):
            self._note_names(Path(place))

    def before(self, call: DiskCall) -> bool:
        lost = call.target if call.name.startswith("rename") else call.path
        if call.name.startswith(("rename", "unlink")) and lost is not None and lost.is_file():
            self._keep(lost)
        return True

    def after(self, call: DiskCall) -> None:
        try:
            status = call.path.stat()
        except FileNotFoundError:
            return
        if call.is_write and _OF_SQLITE.fullmatch(call.path.name) is None:
            self._unsynced.add(status.st_ino)
        elif call.is_sync and stat.S_ISDIR(status.st_mode):
            self._note_names(call.path)
        elif call.is_sync:
            self._unsynced.discard(status.st_ino)

    def cut(self, *, loses_names: bool) -> None:
        """Take from the folder the bytes that are not on the disk.

        *loses_names*: and the names; a file system may have written those by itself, or not.
        """
        files = [Path(place, name) for place, _, names in os.walk(self._folder) for name in names]
        if loses_names:
            for file in files:
                self._keep(file)
            self._restore_names(self._folder)
        for place, _, names in os.walk(self._folder):
            for file in (Path(place, name) for name in names):
                if file.stat().st_ino in self._unsynced:
                    os.truncate(file, 0)

    def _note_names(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            self._names[folder.stat().st_ino] = {entry.name: entry.inode() for entry in entries}

    def _keep(self, file: Path) -> None:
        kept = self._attic / str(file.stat().st_ino)
        if not kept.exists():
            os.link(file, kept)

    def _restore_names(self, folder: Path) -> None:
        known = self._names.get(folder.stat().st_ino, {})
        for path in folder.iterdir():
            if known.get(path.name) == path.stat().st_ino:
                if path.is_dir():
                    self._restore_names(path)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name, inode in known.items():
            if not (folder / name).exists():
                os.link(self._attic / str(inode), folder / name)
