"""Repair takes bytes from wherever the very same NAR is, and from nowhere else."""

import hashlib
import lzma
import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select, update

from icehouse.db.caches import get_cache, insert_upstream
from icehouse.db.schema import nar, path, recipe
from icehouse.errors import Unavailable
from icehouse.nix.narinfo import NarInfo
from icehouse.nix.store_paths import NIX_STORE, HashPart, StorePath
from icehouse.services.repair import Repair, RepairReport
from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress
from icehouse.storage.blobs import BlobKey
from tests.services.publishing import KEY, NOW, Store, nar_of

LIB, APP = f"{'a' * 32}-lib", f"{'b' * 32}-app"
NARS = {
    LIB: nar_of(random.Random(1).randbytes(700_000) + f"/nix/store/{LIB} ".encode() * 3),
    APP: nar_of(random.Random(2).randbytes(2_100_000) + f"/nix/store/{LIB} ".encode()),
}


class Elsewhere:
    """A binary cache in memory, that packs in xz."""

    def __init__(self, url: str, files: dict[str, bytes]) -> None:
        self.url = url
        self.files = files
        self.infos = {name: self.describe(name, nar) for name, nar in files.items()}

    @staticmethod
    def describe(name: str, nar: bytes) -> NarInfo:
        digest = hashlib.sha256(nar).digest()
        return NarInfo(StorePath.parse(name), NIX_STORE, f"nar/{name}.nar.xz", "xz", None, None, digest, len(nar), ())

    async def find(self, hash_part: HashPart) -> NarInfo | None:
        return next((info for name, info in self.infos.items() if name.startswith(hash_part)), None)

    async def read(self, info: NarInfo) -> AsyncGenerator[bytes]:
        data = lzma.compress(self.files[info.store_path.base_name], preset=0)
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]


class Down(Elsewhere):
    """One that cannot be reached."""

    async def find(self, hash_part: HashPart) -> NarInfo | None:
        raise Unavailable(f"no answer about {hash_part}")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    store = Store.open(tmp_path)
    cache = await store.create_cache("main")
    await store.database.write(lambda c: insert_upstream(c, cache.id, "https://upstream", [KEY.public_key]))
    await store.push(cache, (LIB, NARS[LIB], [LIB]), (APP, NARS[APP], [LIB]))
    yield store
    await store.close()


def lose_packs(store: Store) -> None:
    for key in store.keys("packs/"):
        store.blobs.delete(BlobKey(key))


async def verify(store: Store) -> int:
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    return (await verifier.verify(VerifyOptions(), VerifyProgress())).finding_count


async def repair(store: Store, *sources: Elsewhere, more: tuple[str, ...] = ()) -> RepairReport:
    known = {source.url: source for source in sources}
    repairing = Repair(store.database, store.blobs, store.workers, store.nars, lambda: NOW, known.__getitem__)
    return await repairing.repair(None, more)


async def test_what_an_upstream_has_is_healed_and_what_reaches_it_is_visible_again(store: Store) -> None:
    lose_packs(store)
    assert await verify(store)
    report = await repair(store, Elsewhere("https://upstream", NARS))
    assert report.healed == {f"main/{LIB}": "https://upstream", f"main/{APP}": "https://upstream"}
    assert (report.failed, report.restored) == ({}, [f"main/{LIB}", f"main/{APP}"])
    assert await verify(store) == 0
    cache = await store.database.read(lambda c: get_cache(c, "main"))
    await store.download(cache, NARS[APP])


async def test_only_damaged_chunks_are_stored_again(store: Store) -> None:
    before = set(store.keys("packs/"))
    key = max(before, key=lambda each: store.blobs.size(BlobKey(each)))
    data = bytearray(store.read_blob(key))
    data[-200_000] ^= 1
    store.blobs.put(BlobKey(key), bytes(data))
    await verify(store)
    await repair(store, Elsewhere("https://upstream", NARS))
    (new,) = set(store.keys("packs/")) - before
    assert store.blobs.size(BlobKey(new)) < 1_100_000
    assert await verify(store) == 0


async def test_a_broken_recipe_is_made_anew(store: Store) -> None:
    await store.database.write(lambda c: c.execute(update(recipe).values(body=b"broken")))
    assert await verify(store)
    assert await verify(store)  # Sound chunks alone do not make it whole.
    report = await repair(store, Elsewhere("https://upstream", NARS))
    assert len(report.healed) == 2
    assert await verify(store) == 0
    visible = await store.database.read(
        lambda c: c.execute(select(path.c.name).where(path.c.hidden_at.is_(None))).scalars().all()
    )
    assert sorted(visible) == ["app", "lib"]


async def test_another_build_and_wrong_bytes_and_silence_heal_nothing(store: Store) -> None:
    lose_packs(store)
    await verify(store)
    other_build = Elsewhere("https://other", {LIB: NARS[APP]})
    liar = Elsewhere("https://liar", {LIB: NARS[LIB][:-8] + b"changed!", APP: NARS[APP]})
    liar.infos[LIB] = replace(liar.infos[LIB], nar_hash=hashlib.sha256(NARS[LIB]).digest())
    liar.infos.pop(APP)
    sources = (other_build, liar, Down("https://down", {}), Elsewhere("https://upstream", {}))
    report = await repair(store, *sources, more=("https://other", "https://liar", "https://down"))
    assert report.healed == {}
    assert report.failed[f"main/{LIB}"] == (
        "https://other has another build of it; https://liar gives another NAR than its narinfo says; "
        f"https://down: no answer about {LIB[:32]}; https://upstream does not have it"
    )
    assert await verify(store)


async def test_without_damage_nothing_is_fetched(store: Store) -> None:
    assert await repair(store) == RepairReport({}, {}, [])


class Purging(Elsewhere):
    """One that answers so slowly that a collection purges everything meanwhile."""

    store: Store

    async def read(self, info: NarInfo) -> AsyncGenerator[bytes]:
        def purge(connection: Connection) -> None:
            for table in (path, recipe, nar):
                connection.execute(delete(table))

        await self.store.database.write(purge)
        async for piece in super().read(info):
            yield piece


async def test_what_is_purged_while_it_is_fetched_is_nobodys_any_more(store: Store) -> None:
    lose_packs(store)
    await verify(store)
    source = Purging("https://upstream", NARS)
    source.store = store
    report = await repair(store, source)
    assert report.failed == {}
    assert report.restored == []
    assert await store.count(path) == 0
