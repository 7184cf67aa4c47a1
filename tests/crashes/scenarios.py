"""What is killed: for each kind of work a folder to begin with, the work itself, and what must be there afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from blake3 import blake3
from sqlalchemy import func, select, update

from icehouse.api.pins import PinPut
from icehouse.api.publish import PathsRequest
from icehouse.api.revocations import RevocationCreate
from icehouse.db.caches import get_cache
from icehouse.db.engine import Database
from icehouse.db.schema import cache as cache_table
from icehouse.db.schema import chunk, pack, path
from icehouse.errors import NotFound, OverQuota
from icehouse.nix.compression import Compression
from icehouse.nix.derivations import parse_derivation
from icehouse.nix.narinfo import NarInfo
from icehouse.nix.store_paths import NIX_STORE, HashPart, StorePath
from icehouse.rules.audit import Actor
from icehouse.services.backup import Backups
from icehouse.services.backup import restore as restore_backup
from icehouse.services.nar_copies import NarCopies
from icehouse.services.promote import Promotions
from icehouse.services.rebuild import Rebuild, RebuildProgress
from icehouse.services.repair import Repair
from icehouse.services.revocations import Revocations
from icehouse.services.signing import Sealer
from icehouse.services.start import DataFolder
from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress
from icehouse.services.workers import Workers
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.nars import pack_key
from tests.crashes.world import (
    APP,
    BASE,
    CACHE,
    DAY,
    DELETED,
    DROPPED,
    KEEPER,
    KEPT,
    LIB,
    NARS,
    NOW,
    PURGED,
    SMALL,
    UNUSED,
    World,
    start_folder,
)
from tests.services.publishing import TESTER, Store, cut, identity_of, in_pieces, path_body
from tests.services.uploading import NarUpload

Acknowledge = Callable[[str, str], None]
"""Tells, by a kind and a name, what a client was just told is done."""

PIN: Final = "release"
STAGING: Final = "pr"
DERIVATION: Final = parse_derivation(f"{'a' * 32}-hello.drv")
OLD_LOG: Final = b"the old log\n"
NEW_LOG: Final = b"".join(b"line %d of the new log\n" % number for number in range(20_000))
UPLOADS: Final = {
    LIB: NarUpload.make(NARS[LIB], Compression.LZ4),
    APP: NarUpload.make(NARS[APP], Compression.ZSTD),
}
URL: Final = "https://cache.example.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of work. All of it may be repeated."""

    make: Callable[[DataFolder], Coroutine[Any, Any, None]]
    work: Callable[[World, Acknowledge], Coroutine[Any, Any, None]] | None = None
    """What a server does."""
    offline: Callable[[DataFolder, Acknowledge], Coroutine[Any, Any, None]] | None = None
    """In its place, what is done while no server runs."""
    before: frozenset[str] = frozenset({BASE})
    """The paths that are visible before, during and after it. `BASE` is pinned."""
    after: frozenset[str]
    """Those that are when it is done."""
    is_damaged: bool = False
    """The folder is, until the work is done."""
    has_database: bool = True
    check: Callable[[World, bool], Coroutine[Any, Any, list[str]]] | None = None
    """What else must hold; the flag tells whether the work is done."""

    async def run(self, folder: DataFolder, acknowledge: Acknowledge) -> None:
        """Do the work."""
        if self.offline is not None:
            await self.offline(folder, acknowledge)
        if self.work is not None:
            async with World.open(folder) as world:
                await self.work(world, acknowledge)


def no_one(_kind: str, _name: str) -> None:
    """Hears nothing."""


async def make_empty(folder: DataFolder) -> None:
    """A cache with one path, which is pinned."""
    start_folder(folder)
    store = Store(Database.open(folder.database), LocalBlobStore(folder.path))
    await store.create_cache(CACHE)
    await store.close()
    async with World.open(folder) as world:
        await world.store.push(world.cache, (BASE, NARS[BASE], []))
        await world.pins.put_pin(world.cache, PIN, PinPut(store_path=BASE, keep_forever=True), TESTER)


async def publish(world: World, acknowledge: Acknowledge) -> None:
    """What our client does, for one path after the other."""
    for name, references in ((LIB, [LIB]), (APP, [LIB])):
        body = await world.store.nar_body(world.cache, NARS[name])
        acknowledge("chunks", name)
        (result,) = await world.store.register(world.cache, body)
        assert result.state == "stored", result
        acknowledge("nar", name)
        request = PathsRequest([path_body(name, NARS[name], references)])
        answer = await world.store.publisher.publish_paths(world.cache, request, token_id=None)
        assert not answer.refused, answer
        acknowledge("path", name)


async def copy(world: World, acknowledge: Acknowledge) -> None:
    """What stock Nix does, but with the narinfo of the referrer first: it waits, and the other completes it."""
    for name, upload in UPLOADS.items():
        await world.nix.put_nar(upload)
        acknowledge("file", name)
    await world.nix.put_narinfo(UPLOADS[APP].narinfo(APP, [LIB]))
    absent = await world.nix.put_narinfo(UPLOADS[LIB].narinfo(LIB, [LIB]))
    assert absent == []
    acknowledge("path", LIB)
    acknowledge("path", APP)


async def make_full(folder: DataFolder) -> None:
    await make_empty(folder)
    async with World.open(folder) as world:
        await publish(world, no_one)


async def make_damaged(folder: DataFolder) -> None:
    """One pack is empty, and another one gone."""
    await make_full(folder)
    async with World.open(folder) as world:
        whole = {pack_key(world.cache.domain_id, name) for name in await packs_of(world, BASE)}
        first, second = sorted({*world.store.keys("packs/")} - whole)
    os.truncate(folder.path / first, 0)
    (folder.path / second).unlink()


async def packs_of(world: World, name: str) -> list[bytes]:
    identities = [identity_of(piece) for piece in cut(NARS[name])]
    statement = select(pack.c.name).join(chunk).where(chunk.c.identity.in_(identities))
    return list(await world.store.database.read(lambda connection: connection.execute(statement).scalars().all()))


async def heal(world: World, acknowledge: Acknowledge) -> None:
    """What `push --verify` does."""
    for name, references in ((LIB, [LIB]), (APP, [LIB])):
        state = ""
        for _ in range(3):
            body = await world.store.nar_body(world.cache, NARS[name])
            (result,) = await world.store.register(world.cache, body, verify=True)
            state = result.state
            if state == "stored":
                break
        assert state == "stored"
        acknowledge("nar", name)
        request = PathsRequest([path_body(name, NARS[name], references)])
        assert not (await world.store.publisher.publish_paths(world.cache, request, token_id=None)).refused
        acknowledge("path", name)


class Elsewhere:
    """Another binary cache, with everything."""

    url: str = "https://elsewhere"

    async def find(self, hash_part: HashPart) -> NarInfo | None:
        (name,) = [name for name in NARS if name.startswith(hash_part)]
        digest = hashlib.sha256(NARS[name]).digest()
        size = len(NARS[name])
        return NarInfo(StorePath.parse(name), NIX_STORE, f"nar/{name}.nar", "none", None, None, digest, size, ())

    async def read(self, info: NarInfo) -> AsyncGenerator[bytes]:
        yield NARS[info.store_path.base_name]


async def repair(world: World, acknowledge: Acknowledge) -> None:
    """Verification, which quarantines and hides, and then repair from another cache."""
    store = world.store
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    await verifier.verify(VerifyOptions(), VerifyProgress())
    repairing = Repair(store.database, store.blobs, store.workers, store.nars, lambda: NOW, lambda _: Elsewhere())
    report = await repairing.repair(None, [Elsewhere.url])
    if report.failed:
        raise OverQuota(f"repair tells {report.failed}")
    for place in report.restored:
        acknowledge("path", place.partition("/")[2])


async def set_cache(world: World, **values: int) -> None:
    await world.store.database.write(
        lambda connection: connection.execute(update(cache_table).values(**values)) and None
    )


async def hide(world: World, *names: str, at: int) -> None:
    same = path.c.hash_part.in_([name[:32] for name in names])
    await world.store.database.write(
        lambda connection: connection.execute(update(path).where(same).values(hidden_at=at)) and None
    )


async def set_file_times(world: World) -> None:
    """Give each pack's file the time of its row, which the clocks of a template made up."""
    rows = await world.store.database.read(lambda connection: connection.execute(select(pack)).all())
    for row in rows:
        os.utime(world.folder.path / pack_key(row.domain_id, row.name), (row.created_at, row.created_at))


async def make_to_collect(folder: DataFolder) -> None:
    """A collection hides, purges, condemns, deletes and compacts something, and finds a stray."""
    await make_empty(folder)
    async with World.open(folder) as world:
        store, cache = world.store, world.cache
        await set_cache(world, keep_unused_seconds=30 * DAY)
        store.now = NOW - 100 * DAY
        await store.push(cache, (DELETED, NARS[DELETED], []))
        await asyncio.to_thread(world.collect, NOW - 50 * DAY)
        store.now = NOW - 35 * DAY
        await store.send_chunks(cache, [*cut(NARS[KEPT]), *cut(NARS[DROPPED])])  # in one pack
        await store.push(cache, (PURGED, NARS[PURGED], []), (DROPPED, NARS[DROPPED], []))
        store.now = NOW - 31 * DAY
        await store.push(cache, (UNUSED, NARS[UNUSED], []))
        await hide(world, PURGED, DROPPED, at=NOW - 8 * DAY)
        store.now = NOW - 2 * DAY
        await store.push(cache, (KEPT, NARS[KEPT], []), (KEEPER, NARS[KEEPER], [KEEPER, KEPT]))
        await asyncio.to_thread(world.collect, NOW - 3 * DAY // 2)
        key = pack_key(cache.domain_id, blake3(b"left by a crash").digest())
        await set_file_times(world)
        store.blobs.put(key, b"left by a crash")
        os.utime(folder.path / key, (NOW - 3 * DAY, NOW - 3 * DAY))
        report = await asyncio.to_thread(partial(world.collect, is_dry_run=True))
        (mark,), (sweep,) = report.marks, report.sweeps
        assert [hidden.store_path for hidden in mark.hidden] == [UNUSED]
        assert (sweep.purged_paths, sweep.purged_nars, sweep.condemned_packs, sweep.deleted_packs) == (2, 2, 1, 1)
        assert (sweep.compacted_packs, sweep.deleted_strays) == (1, 1)


async def make_to_compact(folder: DataFolder) -> None:
    """Nine small packs wait to become one."""
    await make_empty(folder)
    async with World.open(folder) as world:
        world.store.now = NOW - 10 * DAY
        for name in SMALL:
            await world.store.push(world.cache, (name, NARS[name], []))
        await set_file_times(world)
        (sweep,) = (await asyncio.to_thread(partial(world.collect, is_dry_run=True))).sweeps
        assert sweep.compacted_packs == len(SMALL)


async def collect(world: World, acknowledge: Acknowledge) -> None:
    await asyncio.to_thread(world.collect)
    acknowledge("collection", "")


async def check_collected(world: World, is_done: bool) -> list[str]:  # noqa: FBT001  as `Scenario.check`
    """The work is done; and what was hidden can still be restored."""
    if not is_done:
        return []
    report = await asyncio.to_thread(partial(world.collect, is_dry_run=True))
    left = [f"{mark.cache}: {len(mark.hidden)} to hide" for mark in report.marks if mark.hidden]
    for sweep in report.sweeps:
        numbers = (sweep.purged_paths, sweep.purged_nars, sweep.condemned_packs, sweep.lifted_packs)
        numbers += (sweep.deleted_packs, sweep.compacted_packs, sweep.deleted_strays)
        left += [f"left to collect: {numbers}"] if any(numbers) else []
    with suppress(NotFound):
        await world.trash.restore(world.cache, HashPart(UNUSED[:32]), TESTER)
        left += await world.find_unserved([UNUSED])
    return left


async def make_backed_up(folder: DataFolder) -> None:
    """A backup, and two paths since."""
    await make_empty(folder)
    await Backups(folder, LocalBlobStore(folder.path), lambda: NOW - 10).back_up()
    async with World.open(folder) as world:
        await publish(world, no_one)


async def back_up(world: World, acknowledge: Acknowledge) -> None:
    backup = await Backups(world.folder, world.store.blobs, lambda: NOW).back_up(keep=1)
    acknowledge("backup", backup.name)


async def check_backups(world: World, is_done: bool) -> list[str]:  # noqa: FBT001  as `Scenario.check`
    """Each is whole, and the older one is there until the newer one is."""
    backups = await Backups(world.folder, world.store.blobs, lambda: NOW).list_backups()
    faults = [] if backups and len(backups) <= 1 + (not is_done) else [f"{len(backups)} backups"]
    for backup in backups:
        with TemporaryDirectory(dir=world.folder.path.parent) as place:
            copy = DataFolder(Path(place))
            restore_backup(copy, world.store.blobs, str(world.folder.path / "backups" / backup.name), now=NOW)
            database = Database.open(copy.database)
            count = await database.read(lambda connection: connection.execute(select(func.count(path.c.id))).scalar())
            database.close()
            if count != (3 if backup.made_at == NOW else 1):
                faults.append(f"backup {backup.name} has {count} paths")
    return faults


async def restore(folder: DataFolder, acknowledge: Acknowledge) -> None:
    await asyncio.to_thread(restore_backup, folder, LocalBlobStore(folder.path), "latest", now=NOW)
    acknowledge("restore", "")


async def check_restored(world: World, is_done: bool) -> list[str]:  # noqa: FBT001  as `Scenario.check`
    """What the backup did not have yet, the journal has."""
    if not is_done:
        return []
    await rebuild(world.folder, no_one)
    return await world.find_unserved([BASE, LIB, APP])


async def make_without_database(folder: DataFolder) -> None:
    await make_full(folder)
    for file in folder.path.glob("icehouse.db*"):
        file.unlink()


async def rebuild(folder: DataFolder, acknowledge: Acknowledge) -> None:
    started = start_folder(folder)
    database, workers = Database.open(folder.database), Workers(2)
    try:
        report = await Rebuild(
            database,
            LocalBlobStore(folder.path),
            workers,
            Sealer(started.secret),
            marker=folder.path / "rebuild.unfinished",
            public_url=URL,
            clock=lambda: NOW,
            draw=os.urandom,
        ).run(RebuildProgress())
    finally:
        workers.close()
        database.close()
    assert (report.lost, report.damaged_objects) == ({}, [])
    for name in (BASE, LIB, APP):
        acknowledge("path", name)


async def make_logged(folder: DataFolder) -> None:
    await make_empty(folder)
    async with World.open(folder) as world:
        await put_log(world, OLD_LOG)


async def put_log(world: World, text: bytes) -> None:
    await world.logs.receive_log(world.cache, DERIVATION, in_pieces(text), token_id=None)


async def replace_log(world: World, acknowledge: Acknowledge) -> None:
    await put_log(world, NEW_LOG)
    acknowledge("log", "")


async def read_log(world: World) -> bytes:
    text = (await world.logs.open_log(world.cache, DERIVATION)).as_text()
    return b"".join([bytes(block) async for block in text.blocks(0, text.file_size)])


async def pin_and_delete(world: World, acknowledge: Acknowledge) -> None:
    """What people do by hand."""
    await world.pins.put_pin(world.cache, "other", PinPut(store_path=LIB, keep_revisions=1), TESTER)
    acknowledge("pin", "other")
    await world.trash.delete(world.cache, HashPart(APP[:32]), TESTER, with_referrers=True)
    await world.trash.restore(world.cache, HashPart(APP[:32]), TESTER)
    acknowledge("path", APP)
    await world.pins.put_pin(world.cache, "other", PinPut(store_path=APP), TESTER)
    acknowledge("pin", "other")


async def check_log(world: World, is_done: bool) -> list[str]:  # noqa: FBT001  as `Scenario.check`
    text = await read_log(world)
    return [] if text == NEW_LOG or (text == OLD_LOG and not is_done) else ["another log"]


async def make_nothing(folder: DataFolder) -> None:
    folder.path.mkdir()


async def start_first(folder: DataFolder, acknowledge: Acknowledge) -> None:
    token = start_folder(folder).first_token
    if token is not None:
        acknowledge("token", str(token))


ALL: Final = frozenset({BASE, LIB, APP})


async def make_staged(folder: DataFolder) -> None:
    """Another cache has what is to be promoted."""
    await make_empty(folder)
    async with World.open(folder) as world:
        staging = await world.store.create_cache(STAGING)
        await world.store.push(staging, (LIB, NARS[LIB], [LIB]))
        await world.store.push(staging, (APP, NARS[APP], [LIB]))


async def make_staged_apart(folder: DataFolder) -> None:
    """A cache of another domain has what is to be promoted."""
    await make_empty(folder)
    async with World.open(folder) as world:
        staging = await world.store.create_cache(STAGING, domain_id=await world.store.create_domain())
        await world.store.push(staging, (LIB, NARS[LIB], [LIB]))
        await world.store.push(staging, (APP, NARS[APP], [LIB]))


async def promote(world: World, acknowledge: Acknowledge) -> None:
    store = world.store
    staging = await store.database.read(partial(get_cache, name=STAGING))
    copies = NarCopies(store.database, store.blobs, store.workers, store.nars, lambda: NOW)
    promotions = Promotions(store.database, store.publisher, copies, lambda: NOW)
    await promotions.promote(world.cache, staging, HashPart(APP[:32]), Actor("a test"))
    for name in (LIB, APP):
        acknowledge("path", name)


async def make_published(folder: DataFolder) -> None:
    """The administrator's token published one path, which another one reaches."""
    await make_full(folder)
    async with World.open(folder) as world:
        statement = update(path).where(path.c.hash_part == LIB[:32]).values(published_by=1)
        await world.store.database.write(lambda connection: connection.execute(statement))


async def revoke(world: World, _acknowledge: Acknowledge) -> None:
    """Revoke, and undo all that is in force."""
    revocations = Revocations(world.store.database, world.access, lambda: NOW, flush_uses=_flush_nothing)
    await revocations.revoke(RevocationCreate(by={"token": "1"}, since=0), Actor("a test"))
    for view in await revocations.list_revocations():
        if view.undone_at is None:
            await revocations.undo(view.id, Actor("a test"))


async def _flush_nothing() -> None:
    pass


SCENARIOS: Final = {
    "first start": Scenario(
        make=make_nothing, offline=start_first, before=frozenset(), after=frozenset(), has_database=False
    ),
    "publish": Scenario(make=make_empty, work=publish, after=ALL),
    "publish by stock Nix": Scenario(make=make_empty, work=copy, after=ALL),
    "heal by a push": Scenario(make=make_damaged, work=heal, after=ALL, is_damaged=True),
    "verify and repair": Scenario(make=make_damaged, work=repair, after=ALL, is_damaged=True),
    "pin, delete, restore": Scenario(make=make_full, work=pin_and_delete, before=ALL - {APP}, after=ALL),
    "replace a log": Scenario(make=make_logged, work=replace_log, after=frozenset({BASE}), check=check_log),
    "promote": Scenario(make=make_staged, work=promote, after=ALL),
    "promote to another domain": Scenario(make=make_staged_apart, work=promote, after=ALL),
    "revoke and undo": Scenario(make=make_published, work=revoke, before=ALL - {LIB, APP}, after=ALL),
    "collect": Scenario(
        make=make_to_collect,
        work=collect,
        before=frozenset({BASE, KEPT, KEEPER}),
        after=frozenset({BASE, KEPT, KEEPER}),
        check=check_collected,
    ),
    "compact": Scenario(
        make=make_to_compact,
        work=collect,
        before=frozenset({BASE, *SMALL}),
        after=frozenset({BASE, *SMALL}),
        check=check_collected,
    ),
    "back up": Scenario(make=make_backed_up, work=back_up, before=ALL, after=ALL, check=check_backups),
    "restore a backup": Scenario(make=make_backed_up, offline=restore, after=frozenset({BASE}), check=check_restored),
    "rebuild": Scenario(make=make_without_database, offline=rebuild, before=frozenset(), after=ALL, has_database=False),
}
