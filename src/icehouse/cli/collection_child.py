"""The process in which a server has a collection carried out: ``python -m icehouse.cli.collection_child …``.

Its arguments are the data folder, the level and the format of the log, and the request.
It prints events, a line of JSON each. It has its own memory, yields to those that serve, and ends with who started it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn, cast

import msgspec

from icehouse.api.collections import CollectionEvent
from icehouse.cli.data_folder import clock, open_folder
from icehouse.config import LogFormat, LogLevel
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.engine import Database
from icehouse.errors import IcehouseError, NotFound
from icehouse.log_output import configure_logging
from icehouse.services.collection_run import RunRequest, run_collection

_NICENESS: Final = 10
_SET_PARENT_DEATH_SIGNAL: Final = 1  # Linux, prctl(2)


def main() -> None:
    """Collect, and print how it goes."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGTERM, _leave)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    data_dir, level, log_format, request = sys.argv[1:]
    try:
        with open_folder(Path(data_dir)) as opened:
            configure_logging(cast("LogLevel", level), cast("LogFormat", log_format))
            access_database = Database.open(opened.folder.access_database, revision=ACCESS_REVISION)
            try:
                result = run_collection(
                    opened.database,
                    access_database,
                    opened.blobs,
                    clock,
                    msgspec.json.decode(request, type=RunRequest),
                    lambda text: _tell(CollectionEvent(progress=text)),
                )
            finally:
                access_database.close()
        _tell(CollectionEvent(result=result))
    except IcehouseError as error:
        _tell(CollectionEvent(error=str(error), is_not_found=isinstance(error, NotFound)))


def _tell(event: CollectionEvent) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def _leave(number: int, frame: object) -> NoReturn:
    # An exception, so that the lease is given back.
    del number, frame
    raise SystemExit(1)


if __name__ == "__main__":
    main()
