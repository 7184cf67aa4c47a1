"""Publishes two paths, or heals or collects, and is killed at a step of that: once at each, in a folder of its own.

python -m tests.services.publish_and_die publish|heal|copy|collect STRIDE TEMPLATE TARGET

A step is what stands before and after every call on the blob store and its writers, and before, inside (all done, not
committed) and after every write of the database. For N = 1, 1 + STRIDE, … the folder TEMPLATE is copied to TARGET/N,
and a child that works on it is killed at its N-th step, whose name it leaves in TARGET/N/step. The last child lives:
it has fewer steps.
"""

import asyncio
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self, TypeVar

from sqlalchemy import Connection

from icehouse.api.collection import CollectionReport
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.nix.compression import Compression
from icehouse.services.collect import Collector
from icehouse.storage.blobs import BlobInfo, BlobKey, BlobStore, BlobWriter
from icehouse.storage.local import LocalBlobStore
from tests.services.publishing import NOW, Store, nar_of
from tests.services.uploading import NarUpload, StockNix

T = TypeVar("T")

COLLECTED_AT: Final = NOW + 365 * 86_400

CACHE: Final = "main"
LIB, APP = f"{'a' * 32}-lib", f"{'b' * 32}-app"
_BIG: Final = random.Random(11).randbytes(1_200_000)
LIB_NAR: Final = nar_of(_BIG + b"/nix/store/" + LIB.encode() + b"/lib ")
APP_NAR: Final = nar_of(_BIG + b"/nix/store/" + LIB.encode() + b"/bin " + random.Random(12).randbytes(300_000))
"""Shares its first chunks with `LIB_NAR`."""


class Steps:
    """Counts, and kills this process at the fatal one. Any thread may step."""

    def __init__(self, folder: Path, fatal: int) -> None:
        self._folder = folder
        self._fatal = fatal
        self._count = 0
        self._lock = threading.Lock()

    def step(self, name: str) -> None:
        with self._lock:
            self._count += 1
            if self._count == self._fatal:
                (self._folder / "step").write_text(name)
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, work: Callable[[], T]) -> T:
        self.step(f"before {name}")
        result = work()
        self.step(f"after {name}")
        return result


class SteppingBlobs:
    """A `BlobStore` over another, with steps."""

    def __init__(self, blobs: BlobStore, steps: Steps) -> None:
        self._blobs = blobs
        self._steps = steps

    def create(self) -> BlobWriter:
        return self._steps.around("create", lambda: SteppingWriter(self._blobs.create(), self._steps))

    def put(self, key: BlobKey, data: bytes) -> None:
        self._steps.around(f"put {key.partition('/')[0]}", lambda: self._blobs.put(key, data))

    def size(self, key: BlobKey) -> int:
        return self._steps.around("size", lambda: self._blobs.size(key))

    def describe(self, key: BlobKey) -> BlobInfo:
        return self._steps.around("describe", lambda: self._blobs.describe(key))

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        self._steps.around("read_into", lambda: self._blobs.read_into(key, offset, buffer))

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        return self._steps.around("read_warm", lambda: self._blobs.read_warm(key, offset, buffer))

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        return self._blobs.list(prefix)

    def delete(self, key: BlobKey) -> None:
        self._steps.around("delete", lambda: self._blobs.delete(key))

    def delete_unchanged(self, info: BlobInfo) -> bool:
        return self._steps.around("delete_unchanged", lambda: self._blobs.delete_unchanged(info))


class SteppingWriter:
    """A `BlobWriter` over another, with steps."""

    def __init__(self, writer: BlobWriter, steps: Steps) -> None:
        self._writer = writer
        self._steps = steps

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._steps.around("write", lambda: self._writer.write(data))

    def read_back(self, offset: int, size: int) -> bytes:
        return self._steps.around("read_back", lambda: self._writer.read_back(offset, size))

    def commit(self, key: BlobKey) -> None:
        self._steps.around("commit", lambda: self._writer.commit(key))

    def abort(self) -> None:
        self._steps.around("abort", self._writer.abort)


class SteppingDatabase(Database):
    """A `Database` with steps around and inside its writes."""

    steps: Steps

    @classmethod
    def open_with(cls, path: Path, steps: Steps) -> Self:
        database = cls.open(path)
        database.steps = steps
        return database

    def write_now(self, work: Callable[[Connection], T]) -> T:
        def stepping(connection: Connection) -> T:
            result = work(connection)
            self.steps.step("before the commit of a write")
            return result

        self.steps.step("before a write")
        result = super().write_now(stepping)
        self.steps.step("after a write")
        return result

    async def write(self, work: Callable[[Connection], T]) -> T:
        def stepping(connection: Connection) -> T:
            result = work(connection)
            self.steps.step("before the commit of a write")
            return result

        self.steps.step("before a write")
        result = await super().write(stepping)
        self.steps.step("after a write")
        return result


async def find_cache(store: Store) -> CacheRow:
    return await store.database.read(lambda connection: get_cache(connection, CACHE))


async def publish_both(store: Store) -> None:
    """The whole of what a client does, for one path after the other."""
    cache = await find_cache(store)
    await store.push(cache, (LIB, LIB_NAR, [LIB]))
    await store.push(cache, (APP, APP_NAR, [LIB]))


async def heal_both(store: Store) -> None:
    """What `push --verify` does for the two paths."""
    cache = await find_cache(store)
    for contents in (LIB_NAR, APP_NAR):
        state = ""
        for _ in range(3):
            body = await store.nar_body(cache, contents)
            (result,) = await store.register(cache, body, verify=True)
            state = result.state
            if state == "stored":
                break
        assert state == "stored"


async def copy_both(store: Store) -> None:
    """What stock Nix does, but with the narinfo of the referrer first: it waits, and the other completes it."""
    nix = StockNix(store, await find_cache(store))
    lib, app = NarUpload.make(LIB_NAR, Compression.LZ4), NarUpload.make(APP_NAR, Compression.ZSTD)
    for file in (lib, app):
        await nix.put_nar(file)
    await nix.put_narinfo(app.narinfo(APP, [LIB]))
    assert await nix.put_narinfo(lib.narinfo(LIB, [LIB])) == []


async def collect_all(store: Store) -> None:
    """One collection, a year later. It finds something for each of its steps."""
    await asyncio.to_thread(run_collection, store)


def run_collection(store: Store, now: int = COLLECTED_AT, *, is_dry_run: bool = False) -> CollectionReport:
    """The same, or what it would do."""
    access = Database.open(store.database.path.with_name("access.db"), revision=ACCESS_REVISION)
    collector = Collector(
        store.database,
        access,
        store.blobs,
        lambda: now,
        started_by="a test",
        show_progress=lambda _: None,
    )
    try:
        return collector.collect(CACHE, is_dry_run=is_dry_run)
    finally:
        access.close()


JOBS: Final = {"publish": publish_both, "heal": heal_both, "copy": copy_both, "collect": collect_all}


async def work_until_killed(job: str, folder: Path, fatal: int) -> None:
    steps = Steps(folder, fatal)
    blobs = SteppingBlobs(LocalBlobStore(folder / "blobs"), steps)
    store = Store(SteppingDatabase.open_with(folder / "icehouse.db", steps), blobs)
    await JOBS[job](store)
    await store.close()


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
                asyncio.run(work_until_killed(job, folder, number))
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in {0, -signal.SIGKILL}:
            sys.exit(f"step {number}: the child ended with {status}")


if __name__ == "__main__":
    main()
