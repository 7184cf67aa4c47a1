"""Backs up, restores or rebuilds, and is killed at a line of that: in a folder of its own each time.

python -m tests.services.run_and_die backup|restore|rebuild STRIDE TEMPLATE TARGET

The lines are those that run in the modules that do it, in any thread. For N = 1, 1 + STRIDE, … the folder TEMPLATE is
copied to TARGET/N, and a child that works on it is killed before its N-th line, which it leaves in TARGET/N.line. The
last child lives: it has fewer lines.
"""

import asyncio
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, Final

from icehouse.db import backup as db_backup
from icehouse.db import rebuilding as db_rebuilding
from icehouse.db.engine import Database
from icehouse.services import backup, rebuild
from icehouse.services.backup import Backups
from icehouse.services.rebuild import Rebuild, RebuildProgress
from icehouse.services.signing import Sealer
from icehouse.services.start import DataFolder, start
from icehouse.services.workers import Workers
from icehouse.storage.local import LocalBlobStore
from tests.services.publishing import NOW

FILES: Final = frozenset(str(module.__file__) for module in (backup, rebuild, db_backup, db_rebuilding))


async def back_up(folder: DataFolder) -> None:
    await Backups(folder, LocalBlobStore(folder.path), lambda: NOW + 100).back_up(keep=1)


async def restore(folder: DataFolder) -> None:
    backup.restore(folder, LocalBlobStore(folder.path), "latest", now=NOW)


async def rebuild_all(folder: DataFolder) -> None:
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes) as started:
        database, workers = Database.open(folder.database), Workers(2)
        rebuilding = Rebuild(
            database,
            LocalBlobStore(folder.path),
            workers,
            Sealer(started.secret),
            marker=folder.path / "rebuild.unfinished",
            public_url="https://cache.example.org",
            clock=lambda: NOW,
            draw=secrets.token_bytes,
        )
        await rebuilding.run(RebuildProgress())
        workers.close()
        database.close()


JOBS: Final[dict[str, Callable[[DataFolder], Coroutine[Any, Any, None]]]] = {
    "backup": back_up,
    "restore": restore,
    "rebuild": rebuild_all,
}


def die_at(fatal: int, note: Path) -> None:
    """Have this process killed before the line of that number."""
    lock = threading.Lock()
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:  # noqa: ANN401  as sys.settrace has it
        nonlocal count
        del arg
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            with lock:
                count += 1
                if count == fatal:
                    note.write_text(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                    os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def main() -> None:
    job, stride = sys.argv[1], int(sys.argv[2])
    template, target = map(Path, sys.argv[3:])
    number = 1 - stride
    status = -1
    while status != 0:
        number += stride
        folder = target / str(number)
        shutil.copytree(template, folder)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_at(number, target / f"{number}.line")
                asyncio.run(JOBS[job](DataFolder(folder)))
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in {0, -signal.SIGKILL}:
            sys.exit(f"line {number}: the child ended with {status}")


if __name__ == "__main__":
    main()
