"""A data folder as a server has it open, and what must hold in it whatever happened before."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from backports.zstd import decompress
from blake3 import blake3
from sqlalchemy import select

from icehouse.api.collection import CollectionReport
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.paths import load_paths
from icehouse.db.schema import build_log, nar, pack, path
from icehouse.nix import nix32
from icehouse.nix.decompress import Decompressor
from icehouse.nix.store_paths import HashPart
from icehouse.rules.journal import parse_journal_entry
from icehouse.services.aliases import RecompressedAlias
from icehouse.services.collect import Collector
from icehouse.services.contents import Contents
from icehouse.services.logs import Logs, log_key
from icehouse.services.pins import Pins
from icehouse.services.start import DataFolder, Started, start
from icehouse.services.trash import Trash
from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.nars import pack_key
from tests.services.publishing import Store, nar_of
from tests.services.uploading import NarUpload, StockNix

NOW: Final = int(time.time())
"""Files have the time of the machine, and so does all else here."""

DAY: Final = 86_400
CACHE: Final = "main"

_BIG: Final = random.Random(11).randbytes(1_200_000)


def base_name(letter: str, name: str) -> str:
    return f"{letter * 32}-{name}"


BASE, LIB, APP = base_name("0", "base"), base_name("a", "lib"), base_name("b", "app")
KEPT, KEEPER, UNUSED = base_name("c", "kept"), base_name("d", "keeper"), base_name("f", "unused")
PURGED, DELETED, DROPPED = base_name("g", "purged"), base_name("h", "deleted"), base_name("i", "dropped")
SMALL: Final = [base_name(letter, "small") for letter in "jklmnpqrs"]
_SIZES: Final = {BASE: 90_000, KEPT: 150_000, KEEPER: 50_000, UNUSED: 60_000, PURGED: 70_000, DELETED: 80_000}

NARS: Final = {
    **{name: nar_of(random.Random(size).randbytes(size)) for name, size in _SIZES.items()},
    **{name: nar_of(random.Random(name).randbytes(3_000)) for name in SMALL},
    DROPPED: nar_of(random.Random(8).randbytes(700_000)),
    LIB: nar_of(_BIG + b"/nix/store/" + LIB.encode() + b"/lib "),
    APP: nar_of(_BIG + b"/nix/store/" + LIB.encode() + b"/bin " + random.Random(12).randbytes(300_000)),
}
"""`LIB` and `APP` share their first chunks."""


def start_folder(folder: DataFolder) -> Started:
    """Start a server, and stop it."""
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes) as started:
        return started


class World:
    """An open data folder with a cache."""

    def __init__(self, folder: DataFolder, store: Store, cache: CacheRow) -> None:
        self.folder = folder
        self.store = store
        self.cache = cache
        self.nars = dict(NARS)
        self.access = Database.open(folder.access_database, revision=ACCESS_REVISION)
        self.nix = StockNix(store, cache)
        self.logs = Logs(store.database, store.blobs, store.workers, lambda: store.now)
        self.pins = Pins(
            store.database, Contents(store.database, store.nar_files, store.workers), clock=lambda: store.now
        )
        self.trash = Trash(store.database, lambda: store.now, note_use=lambda _path_id, _now: None)

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: DataFolder) -> AsyncGenerator[Self]:
        """What a server has open."""
        store = Store(Database.open(folder.database), LocalBlobStore(folder.path))
        store.now = NOW
        cache = await store.database.read(partial(get_cache, name=CACHE))
        world = cls(folder, store, cache)
        try:
            yield world
        finally:
            world.access.close()
            await store.close()

    def collect(self, now: int = NOW, *, is_dry_run: bool = False) -> CollectionReport:
        collector = Collector(
            self.store.database,
            self.access,
            self.store.blobs,
            lambda: now,
            started_by="a test",
            show_progress=lambda _: None,
        )
        return collector.collect(None, is_dry_run=is_dry_run)

    async def visible(self) -> set[str]:
        rows = await self.store.database.read(
            lambda connection: connection.execute(select(path.c.hash_part, path.c.name, path.c.hidden_at)).all()
        )
        return {f"{row.hash_part}-{row.name}" for row in rows if row.hidden_at is None}

    async def has_file(self, file: NarUpload) -> bool:
        """Whether a file that stock Nix uploaded is there, and gives the same NAR."""
        found = await self.nix.aliases.find(self.cache, file.name)
        if found is None:
            return False
        alias = await self.nix.aliases.open(found)
        assert not isinstance(alias, RecompressedAlias)
        data = b"".join([bytes(block) async for block in alias.blocks(0, alias.file_size)])
        decompressor = Decompressor(file.compression, max_bytes=len(file.nar))
        return b"".join(decompressor.feed(data)) == file.nar

    async def find_missing(self, names: Iterable[str]) -> list[str]:
        """Those of the paths that are not visible."""
        return [f"{name} is not visible" for name in sorted({*names} - await self.visible())]

    async def find_unserved(self, names: Iterable[str]) -> list[str]:
        """The same, and what is wrong with any path, whether it is visible or could be restored."""
        return [*await self.find_missing(names), *await self._check_paths()]

    async def find_faults(self, names: Iterable[str]) -> list[str]:
        """The same, and what is wrong with rows and objects."""
        faults = [*await self.find_unserved(names), *await self._check_objects()]
        verifier = Verifier(self.store.database, self.store.blobs, self.store.workers, lambda: NOW)
        report = await verifier.verify(VerifyOptions(), VerifyProgress())
        faults += [f"verify: {finding.place}: {finding.fault}: {finding.detail}" for finding in report.findings]
        return faults + [f"verify restored {place}" for place in report.restored]

    async def _check_paths(self) -> list[str]:
        rows = await self.store.database.read(
            lambda connection: connection.execute(select(path.c.hash_part)).scalars().all()
        )
        hash_parts = [HashPart(row) for row in rows]
        paths = await self.store.database.read(lambda connection: load_paths(connection, self.cache.id, hash_parts))
        visible = {hash_part for hash_part, row in paths.items() if row.hidden_at is None}
        told = {
            (each.store_path, each.nar_hash)
            for key in self.store.keys("journal/")
            for each in parse_journal_entry(self.store.read_blob(key)).paths
        }
        faults: list[str] = []
        for hash_part, row in paths.items():
            name = row.store_path.base_name
            contents = self.nars[name]
            if hash_part in visible and not {reference.hash_part for reference in row.references} <= visible:
                faults.append(f"{name} is visible, but not all that it refers to")
            if (name, row.nar_hash) not in told:
                faults.append(f"{name} is in no journal")
            file = await self.store.download(self.cache, contents)
            if decompress(file) != contents or hashlib.sha256(contents).digest() != row.nar_hash:
                faults.append(f"{name} has another NAR")
            if (row.file_hash, row.file_size) != (nix32.encode(hashlib.sha256(file).digest()), len(file)):
                faults.append(f"{name} has another file than its narinfo says")
        return faults

    async def _check_objects(self) -> list[str]:
        keys = [*self.store.keys("packs/"), *self.store.keys("logs/")]
        altered = [key for key in keys if blake3(self.store.read_blob(key)).hexdigest() != key.rpartition("/")[2]]
        absent = sorted(await self.known_objects() - {*keys})
        faults = [f"{key} is not what its name says" for key in altered]
        return faults + [f"{key} has a row and is absent" for key in absent]

    async def known_objects(self) -> set[str]:
        """The objects that rows name."""
        database = self.store.database
        packs = await database.read(lambda connection: connection.execute(select(pack.c.domain_id, pack.c.name)).all())
        logs = await database.read(lambda connection: connection.execute(select(build_log.c.blob_name)).scalars().all())
        return {*(pack_key(*row) for row in packs), *(log_key(self.cache.domain_id, name) for name in logs)}

    async def find_strays(self) -> list[str]:
        """What is still there that no row knows, once collections of the next days are done."""
        for days in (2, 4):
            await asyncio.to_thread(self.collect, NOW + days * DAY)
        there = {key for prefix in ("packs/", "logs/", "unfinished/") for key in self.store.keys(prefix)}
        return [f"{key} stays for ever" for key in sorted(there - await self.known_objects())]

    async def has_nar(self, name: str) -> bool:
        nar_hash = hashlib.sha256(NARS[name]).digest()
        found = await self.store.database.read(
            lambda connection: connection.execute(select(nar.c.id).where(nar.c.nar_hash == nar_hash)).first()
        )
        return found is not None and decompress(await self.store.download(self.cache, NARS[name])) == NARS[name]
