"""Takes one log in place of another, and is killed at a step of that: once at each, in a folder of its own each time.

python -m tests.services.log_and_die TEMPLATE TARGET; steps and folders are as in `publish_and_die`.
"""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

from icehouse.nix.derivations import parse_derivation
from icehouse.services.logs import Logs
from icehouse.storage.local import LocalBlobStore
from tests.services.publish_and_die import SteppingBlobs, SteppingDatabase, Steps, find_cache
from tests.services.publishing import NOW, Store, in_pieces

DERIVATION: Final = parse_derivation(f"{'a' * 32}-hello.drv")
OLD: Final = b"the old log\n"
NEW: Final = b"".join(b"line %d of the new log\n" % number for number in range(100_000))


async def put_log(store: Store, text: bytes) -> None:
    cache = await find_cache(store)
    logs = Logs(store.database, store.blobs, store.workers, lambda: NOW)
    await logs.receive_log(cache, DERIVATION, in_pieces(text), token_id=None)


async def work_until_killed(folder: Path, fatal: int) -> None:
    steps = Steps(folder, fatal)
    blobs = SteppingBlobs(LocalBlobStore(folder / "blobs"), steps)
    store = Store(SteppingDatabase.open_with(folder / "icehouse.db", steps), blobs)
    await put_log(store, NEW)
    await store.close()


def main() -> None:
    template, target = map(Path, sys.argv[1:])
    number = 0
    status = -1
    while status != 0:
        number += 1
        folder = target / str(number)
        shutil.copytree(template, folder)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(work_until_killed(folder, number))
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in {0, -signal.SIGKILL}:
            sys.exit(f"step {number}: the child ended with {status}")


if __name__ == "__main__":
    main()
