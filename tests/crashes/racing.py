"""One of several processes that use a data folder at once: it pushes what others collect.

python -m tests.crashes.racing FOLDER push|collect SEED BEGAN_AT PUSHES

Time runs quickly: a day of it is a fifth of a second. So a pushed path is hidden after that, then purged, and its packs
are condemned and deleted within two more, while the next push of it is already under way. To a listing the files have
the machine's own time, which is later than all that: none is old enough to be a stray. A collector goes on until its
input ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import select
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from backports.zstd import decompress

from icehouse.api.publish import NarsRequest, PathsRequest
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.paths import find_visible
from icehouse.errors import IcehouseError, Unavailable
from icehouse.nix.store_paths import HashPart
from icehouse.services.collect import Collector
from icehouse.services.start import DataFolder
from icehouse.storage.blobs import BlobInfo, BlobKey
from icehouse.storage.local import LocalBlobStore
from tests.crashes.world import CACHE, DAY
from tests.services.publishing import Store, nar_of, path_body

BASE_TIME: Final = 1_500_000_000
DAY_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 0.1

_BIG: Final = random.Random(21).randbytes(1_100_000)
_SMALL: Final = [nar_of(random.Random(seed).randbytes(40_000)) for seed in range(5)]
_SHARING: Final = [nar_of(_BIG + random.Random(seed).randbytes(200_000)) for seed in range(30, 33)]
PATHS: Final = {
    f"{letter * 32}-{number}": nar
    for letter, (number, nar) in zip(
        "abcdfghijklmnpqr", enumerate([*_SMALL, *_SMALL, *_SHARING, *_SHARING]), strict=True
    )
}
"""Each NAR under two names, and the larger ones share most of their chunks."""


class QuickTime:
    """The time that runs quickly."""

    def __init__(self, began_at: float) -> None:
        self._began_at = began_at

    def __call__(self) -> int:
        return int(self.at(time.time()))

    def at(self, real: float) -> float:
        return BASE_TIME + (real - self._began_at) / DAY_SECONDS * DAY


class QuickBlobs(LocalBlobStore):
    """Says of an object when it was written in quick time, and pauses where the others may come in between."""

    def __init__(self, folder: Path, clock: QuickTime, chooser: random.Random) -> None:
        super().__init__(folder)
        self._clock = clock
        self._chooser = chooser
        self._real: dict[BlobInfo, BlobInfo] = {}

    def describe(self, key: BlobKey) -> BlobInfo:
        real = super().describe(key)
        told = replace(real, modified_at=self._clock.at(real.modified_at))
        self._real[told] = real
        self._pause()
        return told

    def delete_unchanged(self, info: BlobInfo) -> bool:
        self._pause()
        return super().delete_unchanged(self._real.pop(info, info))

    def publish(self, path: Path, key: BlobKey) -> None:
        super().publish(path, key)
        self._pause()

    def _pause(self) -> None:
        time.sleep(self._chooser.random() * LONGEST_PAUSE_SECONDS)


class Pusher:
    """Pushes paths again and again, and looks whether each is there."""

    def __init__(self, store: Store, cache: CacheRow, clock: QuickTime) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self.losses: list[str] = []
        self.counts: Counter[str] = Counter()

    async def push(self, name: str) -> None:
        """Push until it succeeds; then the path must be whole for as long as it is visible."""
        while not await self._try(name):
            self.counts["tries that met a collection"] += 1
        self.counts["pushes"] += 1
        path_id = await self._find(name)
        try:
            found = decompress(await self._store.download(self._cache, PATHS[name])) == PATHS[name]
        except (IcehouseError, KeyError) as exc:
            found, reason = False, repr(exc)
        else:
            reason = "other bytes"
        if not found and path_id is not None and await self._find(name) == path_id:
            self.losses.append(f"{name}: {reason}")

    async def _try(self, name: str) -> bool:
        try:
            return await self._try_once(name)
        except Unavailable:  # The clock went half a day further between a pack and its rows.
            return False

    async def _try_once(self, name: str) -> bool:
        self._store.now = self._clock()
        body = await self._store.nar_body(self._cache, PATHS[name])
        self._store.now = self._clock()
        (result,) = (await self._store.nars.register_nars(self._cache, NarsRequest([body]))).results
        if result.state != "stored":
            return False
        self._store.now = self._clock()
        request = PathsRequest([path_body(name, PATHS[name])])
        answer = await self._store.publisher.publish_paths(self._cache, request, token_id=None)
        return not answer.refused

    async def _find(self, name: str) -> int | None:
        hash_part = HashPart(name[:32])
        visible = partial(find_visible, cache_id=self._cache.id, hash_parts=[hash_part])
        return (await self._store.database.read(visible)).get(hash_part)


async def push(folder: DataFolder, clock: QuickTime, seed: int, count: int) -> dict[str, object]:
    chooser = random.Random(seed)
    store = Store(Database.open(folder.database), QuickBlobs(folder.path, clock, random.Random(seed)))
    cache = await store.database.read(partial(get_cache, name=CACHE))
    pusher = Pusher(store, cache, clock)
    for _ in range(count):
        await asyncio.gather(*(pusher.push(name) for name in chooser.sample(sorted(PATHS), 2)))
    await store.close()
    return {"losses": pusher.losses, **pusher.counts}


def collect(folder: DataFolder, clock: QuickTime, seed: int) -> dict[str, object]:
    database = Database.open(folder.database)
    access = Database.open(folder.access_database, revision=ACCESS_REVISION)
    collector = Collector(
        database,
        access,
        QuickBlobs(folder.path, clock, random.Random(seed)),
        clock,
        started_by="a test",
        show_progress=lambda _: None,
    )
    counts: Counter[str] = Counter()
    while not select.select([sys.stdin], [], [], 0)[0]:
        (sweep,) = collector.collect(CACHE, is_dry_run=False).sweeps
        counts["collections"] += 1
        counts["lifted packs"] += sweep.lifted_packs
        counts["compacted packs"] += sweep.compacted_packs
        counts["deleted packs"] += sweep.deleted_packs
    access.close()
    database.close()
    return dict(counts)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    folder, clock = DataFolder(Path(sys.argv[1])), QuickTime(float(sys.argv[4]))
    if sys.argv[2] == "push":
        result = asyncio.run(push(folder, clock, int(sys.argv[3]), int(sys.argv[5])))
    else:
        result = collect(folder, clock, int(sys.argv[3]))
    print(json.dumps(result))  # noqa: T201  its result


if __name__ == "__main__":
    main()
