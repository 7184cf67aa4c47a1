"""A database that is made again from packs and journal has every path byte for byte."""

import asyncio
import hashlib
import random
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from backports.zstd import decompress
from sqlalchemy import delete, select, update

from icehouse.api.caches import CacheConfigure, CacheCreate, UpstreamBody
from icehouse.api.publish import PathBody, PathsRequest
from icehouse.db.cache_settings import load_required_keys
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.keys import list_keys
from icehouse.db.paths import load_paths
from icehouse.db.schema import chunk, external, pack, path
from icehouse.nix.signing import PathInfo, PublicKey, SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import NIX_STORE, HashPart, StorePath
from icehouse.rules.access import Grant, Permission
from icehouse.services.caches import Caches
from icehouse.services.rebuild import Rebuild, RebuildProgress, RebuildReport
from icehouse.services.signing import Sealer, Signer
from icehouse.services.start import DataFolder, start
from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress
from icehouse.services.workers import Workers
from icehouse.storage.local import LocalBlobStore
from tests.services.publishing import NOW, TESTER, Store, nar_hash_of, nar_of

URL = "https://cache.example.org"
ROOT = Path(__file__).parents[2]
ADMIN = Grant(1, "admin", frozenset({Permission.ADMIN}), "*")
UPSTREAM_KEY = SecretKey.generate("up-1", bytes(32))
LIB, LIB2, APP, APP2 = (
    f"{letter * 32}-{name}" for letter, name in zip("abcd", ("lib", "lib", "app", "app"), strict=True)
)
FAR = f"{'f' * 32}-far"
NOISE = random.Random(5).randbytes(2_500_000)


def app(lib: str, own: str) -> bytes:
    """The same program against another library: only store hashes differ."""
    text = b" ".join(b"/nix/store/" + name.encode() for name in (lib, own))
    return nar_of(NOISE[:1_400_000] + text + NOISE[1_400_000:])


NARS = {
    LIB: nar_of(b"lib one " * 10_000),
    LIB2: nar_of(b"lib two " * 10_000),
    APP: app(LIB, APP),
    APP2: app(LIB2, APP2),
    FAR: nar_of(b"far"),
}


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


def open_store(folder: DataFolder) -> Store:
    database = Database.open(folder.database)
    keys = Signer(database, Sealer(folder.secret.read_bytes()))
    return Store(database, LocalBlobStore(folder.path), keys=keys)


async def find(store: Store, name: str) -> CacheRow:
    return await store.database.read(lambda c: get_cache(c, name))


async def fill(folder: DataFolder) -> None:
    """Two public caches and a private one, a rebuild of a program, and a path that rests on an upstream."""
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes) as started:
        store = open_store(folder)
        caches = Caches(
            store.database,
            store.blobs,
            Sealer(started.secret),
            public_url=URL,
            clock=lambda: NOW,
            draw=secrets.token_bytes,
        )
        upstream = UpstreamBody(url="https://up.example", public_keys=[UPSTREAM_KEY.public_key.render()])
        for name, is_public in (("main", True), ("second", True), ("secret", False)):
            request = CacheCreate(name=name, is_public=is_public, upstreams=[upstream])
            await caches.create_cache(request, ADMIN, TESTER)
        main, second, secret = [await find(store, name) for name in ("main", "second", "secret")]
        await store.push(main, (LIB, NARS[LIB], []), (APP, NARS[APP], [LIB, APP]))
        await store.push(main, (LIB2, NARS[LIB2], []), (APP2, NARS[APP2], [LIB2, APP2]))
        await store.push(second, (LIB, NARS[LIB], []))
        body = await store.nar_body(secret, NARS[APP])
        await store.register(secret, body)
        far = PathInfo(StorePath.parse(FAR), hashlib.sha256(NARS[FAR]).digest(), len(NARS[FAR]), ())
        signature = UPSTREAM_KEY.sign(fingerprint(far, NIX_STORE)).render()
        request = PathsRequest(
            [path_body(APP, [FAR])],
            [
                PathBody(
                    store_path=FAR,
                    nar_hash=nar_hash_of(NARS[FAR]),
                    nar_size=len(NARS[FAR]),
                    references=[],
                    signatures=[signature],
                )
            ],
        )
        assert not (await store.publisher.publish_paths(secret, request, token_id=None)).refused
        await store.close()


def path_body(name: str, references: list[str]) -> PathBody:
    return PathBody(store_path=name, nar_hash=nar_hash_of(NARS[name]), nar_size=len(NARS[name]), references=references)


def lose_database(folder: DataFolder) -> None:
    for file in folder.path.glob("icehouse.db*"):
        file.unlink()


async def rebuild(folder: DataFolder) -> RebuildReport:
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes) as started:
        database, workers = Database.open(folder.database), Workers(2)
        try:
            return await Rebuild(
                database,
                LocalBlobStore(folder.path),
                workers,
                Sealer(started.secret),
                marker=folder.path / "rebuild.unfinished",
                public_url=URL,
                clock=lambda: NOW + 9,
                draw=secrets.token_bytes,
            ).run(RebuildProgress())
        finally:
            workers.close()
            database.close()


ALL = {"main": {LIB, APP, LIB2, APP2}, "second": {LIB}, "secret": {APP}}


async def assert_whole(store: Store, caches: dict[str, set[str]] = ALL) -> None:
    """Every path is visible, downloads byte for byte, and verifies under the cache's present key."""
    for name, base_names in caches.items():
        cache = await find(store, name)
        rows = await store.database.read(
            lambda c, i=cache.id: c.execute(select(path).where(path.c.cache_id == i)).all()
        )
        assert {f"{row.hash_part}-{row.name}" for row in rows if row.hidden_at is None} == base_names
        (own,) = await store.database.read(lambda c, i=cache.id: list_keys(c, i))
        parts = [HashPart(base_name[:32]) for base_name in base_names]
        for row in (await store.database.read(lambda c, i=cache.id, p=parts: load_paths(c, i, p))).values():
            contents = NARS[row.store_path.base_name]
            assert decompress(await store.download(cache, contents)) == contents
            text = fingerprint(row, NIX_STORE)
            signatures = [Signature.parse(signature) for signature in row.signatures]
            assert any(own.public_key.verify(text, signature) for signature in signatures)
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    assert (await verifier.verify(VerifyOptions(), VerifyProgress())).findings == []


@pytest.fixture
async def filled(folder: DataFolder) -> DataFolder:
    await fill(folder)
    return folder


async def test_a_lost_database_comes_back_with_all_its_paths(filled: DataFolder) -> None:
    lose_database(filled)
    report = await rebuild(filled)
    assert (report.lost, report.damaged_objects) == ({}, [])
    assert (report.paths, report.nars) == (6, 5)
    made = {cache.name: cache for cache in report.caches}
    assert {name: cache.is_public for name, cache in made.items()} == {"main": True, "second": True, "secret": False}
    assert made["secret"].upstreams_without_keys == ["https://up.example"]
    assert made["main"].public_key.startswith("main.cache.example.org-2:")  # The lost key had the name before.
    store = open_store(filled)
    await assert_whole(store)
    assert await store.count(external) == 1
    assert (await find(store, "secret")).domain_id != (await find(store, "main")).domain_id
    await store.close()


async def test_repeating_it_adds_nothing(filled: DataFolder) -> None:
    lose_database(filled)
    await rebuild(filled)
    again = await rebuild(filled)
    assert (again.packs, again.chunks, again.nars, again.paths, again.caches, again.lost) == (0, 0, 0, 0, [], {})
    assert not (filled.path / "rebuild.unfinished").exists()


async def test_a_database_that_lacks_nothing_is_left_as_it_is(filled: DataFolder) -> None:
    report = await rebuild(filled)
    assert (report.packs, report.nars, report.paths, report.caches) == (0, 0, 0, [])


async def test_an_old_database_gets_what_is_newer_and_keeps_its_keys(filled: DataFolder) -> None:
    store = open_store(filled)
    before = await store.database.read(lambda c: list_keys(c, 1))
    old = (filled.database.read_bytes(), filled.database.with_name("icehouse.db-wal").read_bytes())
    await store.push(await find(store, "second"), (LIB2, NARS[LIB2], []), (APP2, NARS[APP2], [LIB2, APP2]))
    await store.close()
    lose_database(filled)
    filled.database.write_bytes(old[0])
    filled.database.with_name("icehouse.db-wal").write_bytes(old[1])
    report = await rebuild(filled)
    assert (report.paths, report.caches, report.lost) == (2, [], {})
    store = open_store(filled)
    assert await store.database.read(lambda c: list_keys(c, 1)) == before
    await store.close()


async def test_a_path_that_was_hidden_or_purged_long_ago_stays_away(filled: DataFolder) -> None:
    store = open_store(filled)
    await store.database.write(lambda c: c.execute(update(path).where(path.c.name == "app").values(hidden_at=NOW + 5)))
    await store.database.write(lambda c: c.execute(update(path).values(created_at=NOW + 200_000)))
    await store.database.write(lambda c: c.execute(delete(path).where(path.c.cache_id == 2)))
    await store.close()
    report = await rebuild(filled)
    assert (report.paths, report.lost) == (0, {})


async def test_paths_whose_chunks_are_gone_stay_out_with_what_refers_to_them(filled: DataFolder) -> None:
    store = open_store(filled)
    name = await store.database.read(
        lambda c: (
            c.execute(
                select(pack.c.name).join(chunk).where(chunk.c.raw_bytes == len(NARS[LIB]), chunk.c.domain_id == 1)
            )
            .scalars()
            .first()
        )
    )
    assert name is not None
    (key,) = [key for key in store.keys("packs/1/") if key.endswith(name.hex())]
    await store.close()
    lose_database(filled)
    (filled.path / key).unlink()
    report = await rebuild(filled)
    assert report.lost_count == len(report.lost)
    assert report.lost[f"main/{LIB}"] == report.lost[f"second/{LIB}"] == "its chunks are gone, or do not give its NAR"
    assert report.lost[f"main/{APP}"] in {
        "a path that it refers to did not come back",
        "its chunks are gone, or do not give its NAR",
    }
    store = open_store(filled)
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    assert (await verifier.verify(VerifyOptions(), VerifyProgress())).findings == []
    await store.close()


async def test_what_is_sound_of_an_altered_pack_is_used(filled: DataFolder) -> None:
    lose_database(filled)
    files = [file for file in (filled.path / "packs/1").rglob("*") if file.is_file()]
    file = max(files, key=lambda each: each.stat().st_size)
    data = bytearray(file.read_bytes())
    data[data.index(NOISE[2_000_000:2_000_016])] ^= 1
    file.write_bytes(data)
    (filled.path / "packs/1/00").mkdir(exist_ok=True)
    (filled.path / f"packs/1/00/{'0' * 64}").write_bytes(b"no pack at all")
    report = await rebuild(filled)
    assert [text.rpartition(";")[2][-6:] for text in report.damaged_objects if "altered" in text] == [" sound"]
    assert len(report.damaged_objects) == 2
    assert report.lost.keys() == {f"main/{APP}", f"main/{APP2}"}
    store = open_store(filled)
    await assert_whole(store, {"main": {LIB, LIB2}, "second": {LIB}, "secret": {APP}})
    cache = await find(store, "main")
    await store.push(cache, (APP, NARS[APP], [LIB, APP]), (APP2, NARS[APP2], [LIB2, APP2]))
    await assert_whole(store)
    await store.close()


async def test_a_damaged_object_of_the_journal_is_told_and_the_others_count(filled: DataFolder) -> None:
    lose_database(filled)
    file = next(iter((filled.path / "journal/1").iterdir()))
    file.write_bytes(file.read_bytes()[:-9])
    report = await rebuild(filled)
    assert len(report.damaged_objects) == 1
    assert 3 <= report.paths < 6
    store = open_store(filled)
    assert await store.count(path) == report.paths
    await store.close()


async def demand(folder: DataFolder, now: int, *keys: SecretKey) -> None:
    with start(folder, clock=lambda: now, draw=secrets.token_bytes) as started:
        store = open_store(folder)
        sealer = Sealer(started.secret)
        caches = Caches(
            store.database, store.blobs, sealer, public_url=URL, clock=lambda: now, draw=secrets.token_bytes
        )
        required = [key.public_key.render() for key in keys]
        await caches.configure_cache(await find(store, "main"), CacheConfigure(required_keys=required), None, TESTER)
        await store.close()


async def demanded(folder: DataFolder) -> tuple[PublicKey, ...]:
    database = Database.open(folder.database)
    try:
        return await database.read(lambda c: load_required_keys(c, get_cache(c, "main").id))
    finally:
        database.close()


async def test_demand_comes_back_with_what_was_visible_before_it(filled: DataFolder) -> None:
    await demand(filled, NOW + 1, UPSTREAM_KEY)
    lose_database(filled)
    report = await rebuild(filled)
    assert report.required_keys == {"main": [UPSTREAM_KEY.public_key.render()]}
    assert await demanded(filled) == (UPSTREAM_KEY.public_key,)
    store = open_store(filled)
    await assert_whole(store)
    await store.close()
    assert (await rebuild(filled)).required_keys == {}


async def test_demand_that_was_taken_back_does_not_come_back(filled: DataFolder) -> None:
    await demand(filled, NOW + 1, UPSTREAM_KEY)
    await demand(filled, NOW + 2)
    lose_database(filled)
    assert (await rebuild(filled)).required_keys == {}
    assert await demanded(filled) == ()


async def test_demand_of_after_the_backup_comes_back(filled: DataFolder) -> None:
    backup = filled.database.read_bytes()
    await demand(filled, NOW + 1, UPSTREAM_KEY)
    lose_database(filled)
    filled.database.write_bytes(backup)
    assert (await rebuild(filled)).required_keys == {"main": [UPSTREAM_KEY.public_key.render()]}
    assert await demanded(filled) == (UPSTREAM_KEY.public_key,)


KILLED_BEFORE = {
    "the row, when demanding": ("Database.write = lambda *_: os._exit(9)", True, ()),
    "the journal, when taking back": ("Caches._tell_journal = lambda *_: os._exit(9)", False, (UPSTREAM_KEY,)),
}


@pytest.mark.parametrize(("patch", "is_demanding", "before"), KILLED_BEFORE.values(), ids=KILLED_BEFORE)
async def test_demand_whose_change_was_cut_off_by_a_kill_holds_after_a_rebuild(
    filled: DataFolder, patch: str, before: tuple[SecretKey, ...], *, is_demanding: bool
) -> None:
    await demand(filled, NOW + 1, *before)
    script = f"""
import asyncio, os, sys
from pathlib import Path
from icehouse.db.engine import Database
from icehouse.services.caches import Caches
from icehouse.services.start import DataFolder
from tests.services.test_rebuild import NOW, UPSTREAM_KEY, demand
{patch}
asyncio.run(demand(DataFolder(Path(sys.argv[1])), NOW + 2, *[UPSTREAM_KEY][: {int(is_demanding)}]))
"""
    command = [sys.executable, "-c", script, str(filled.path)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert await demanded(filled) == ()  # the row says what it said, or what it was to say
    lose_database(filled)
    await rebuild(filled)
    assert await demanded(filled) == (UPSTREAM_KEY.public_key,)
    await demand(filled, NOW + 20)
    assert await demanded(filled) == ()
