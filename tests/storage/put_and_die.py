"""Puts one blob and dies by SIGKILL just before the N-th call of the operating system, counted while it puts.

python put_and_die.py FOLDER KEY SIZE N; with an N beyond the last call it lives.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from icehouse.storage.blobs import BlobKey
from icehouse.storage.local import LocalBlobStore


def main() -> None:
    folder, key, size, fatal_call = sys.argv[1:]
    calls = 0

    def count(_frame: FrameType, event: str, called: object) -> None:
        nonlocal calls
        if event == "c_call" and getattr(called, "__module__", None) == "posix":
            calls += 1
            if calls == int(fatal_call):
                os.kill(os.getpid(), signal.SIGKILL)

    data = bytes(int(size))
    sys.setprofile(count)
    LocalBlobStore(Path(folder)).put(BlobKey(key), data)
    sys.setprofile(None)


if __name__ == "__main__":
    main()
