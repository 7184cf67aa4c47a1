"""Verification finds what is damaged, hides what it hits, and leaves alone what is whole."""

import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select, update

from icehouse.db.caches import PUBLIC_DOMAIN_ID, CacheRow, get_cache
from icehouse.db.collection import list_packs
from icehouse.db.keys import insert_key
from icehouse.db.schema import chunk, nar, pack, path, recipe
from icehouse.db.verification import restore_referrers
from icehouse.errors import NotFound
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.rules.verification import Fault
from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress, VerifyReport
from icehouse.storage.blobs import BlobKey
from tests.services.publishing import KEY, NOW, Store, cut, identity_of, nar_of

LIB, APP, TOP, OTHER = (
    f"{letter * 32}-{name}" for letter, name in zip("abcd", ("lib", "app", "top", "x"), strict=True)
)


def contents(seed: int, *references: str) -> bytes:
    text = b"".join(b"/nix/store/" + reference.encode() + b" " for reference in references)
    return nar_of(random.Random(seed).randbytes(1_200_000) + text)


NARS = {LIB: contents(1), APP: contents(2, LIB), TOP: contents(3, APP), OTHER: contents(4)}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    """APP refers to LIB, TOP to APP; each has a pack of its own, and OTHER stands alone."""
    store = Store.open(tmp_path)
    cache = await store.create_cache("main")
    await store.database.write(lambda c: insert_key(c, cache.id, KEY.public_key, b"sealed", now=NOW))
    for base_name, references in ((LIB, []), (APP, [LIB]), (TOP, [APP]), (OTHER, [OTHER])):
        await store.push(cache, (base_name, NARS[base_name], references))
    yield store
    await store.close()


async def verify(store: Store, **options: object) -> VerifyReport:
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    return await verifier.verify(VerifyOptions(**options), VerifyProgress())  # type: ignore[arg-type]


async def visible(store: Store) -> set[str]:
    rows = await store.database.read(
        lambda c: c.execute(select(path.c.hash_part, path.c.name).where(path.c.hidden_at.is_(None))).all()
    )
    return {f"{row.hash_part}-{row.name}" for row in rows}


async def key_of(store: Store, base_name: str) -> BlobKey:
    """The pack that has the path's chunks."""
    (identity, *_) = [identity_of(piece) for piece in cut(NARS[base_name])]
    name = await store.database.read(
        lambda c: c.execute(select(pack.c.name).join(chunk).where(chunk.c.identity == identity)).scalar_one()
    )
    (key,) = [key for key in store.keys("packs/") if key.endswith(name.hex())]
    return BlobKey(key)


async def alter(store: Store, base_name: str, *, at: int) -> None:
    """Change one byte of the path's pack."""
    key = await key_of(store, base_name)
    data = bytearray(store.read_blob(key))
    data[at] ^= 1
    store.blobs.put(key, bytes(data))


def faults(report: VerifyReport) -> list[Fault]:
    return [finding.fault for finding in report.findings]


async def test_a_whole_store_has_nothing_to_find(store: Store) -> None:
    report = await verify(store)
    assert report.findings == []
    assert (report.packs, report.nars, report.paths) == (4, 4, 4)
    assert report.nar_bytes == sum(map(len, NARS.values()))
    assert report.pack_bytes == sum(len(store.read_blob(key)) for key in store.keys("packs/"))
    assert await visible(store) == NARS.keys()


async def test_an_altered_frame_hides_the_path_and_all_that_reaches_it(store: Store) -> None:
    await alter(store, LIB, at=100)
    report = await verify(store)
    assert faults(report) == [Fault.PACK_ALTERED, Fault.CHUNK_DAMAGED, Fault.NAR_UNREADABLE]
    assert report.findings[-1].paths == (f"main/{LIB}",)
    assert report.hidden == [f"main/{LIB}"]
    assert report.hidden_referrers == {f"main/{APP}": LIB, f"main/{TOP}": LIB}
    assert await visible(store) == {OTHER}
    reasons = await store.database.read(
        lambda c: {name: reason for name, reason in c.execute(select(path.c.name, path.c.hidden_because))}  # noqa: C416
    )
    assert reasons == {
        "lib": "damaged: its NAR cannot be read whole",
        "app": f"damaged: it reaches {LIB}",
        "top": f"damaged: it reaches {LIB}",
        "x": None,
    }
    assert await store.count(chunk) == await store.database.read(_count_sound) + 1


def _count_sound(connection: Connection) -> int:
    return len(connection.execute(select(chunk.c.number).where(chunk.c.quarantined_at.is_(None))).all())


async def test_a_push_heals_and_the_next_look_shows_what_reaches_the_healed(store: Store) -> None:
    await alter(store, LIB, at=100)
    await verify(store)
    cache = await _cache(store)
    await store.push(cache, (LIB, NARS[LIB], []))
    report = await verify(store)
    assert report.restored == sorted([f"main/{APP}", f"main/{TOP}"])
    assert await visible(store) == NARS.keys()
    assert faults(report) == []


async def _cache(store: Store) -> CacheRow:
    return await store.database.read(lambda c: get_cache(c, "main"))


@pytest.mark.parametrize("metadata_only", [False, True])
async def test_a_missing_pack_is_found(store: Store, *, metadata_only: bool) -> None:
    store.blobs.delete(await key_of(store, APP))
    report = await verify(store, is_metadata_only=metadata_only)
    assert faults(report) == [Fault.PACK_MISSING, Fault.NAR_UNREADABLE]
    assert await visible(store) == {LIB, OTHER}


async def test_a_pack_that_was_cut_off_is_found_by_its_metadata(store: Store) -> None:
    key = await key_of(store, APP)
    store.blobs.put(key, store.read_blob(key)[:-500_000])
    report = await verify(store, is_metadata_only=True)
    assert {Fault.PACK_ALTERED, Fault.CHUNK_DAMAGED, Fault.NAR_UNREADABLE} == set(faults(report))
    assert await visible(store) == {LIB, OTHER}


async def test_an_altered_index_is_told_and_hides_nothing(store: Store) -> None:
    key = await key_of(store, APP)
    await alter(store, APP, at=len(store.read_blob(key)) - 5)
    assert faults(await verify(store)) == [Fault.PACK_ALTERED]
    assert await visible(store) == NARS.keys()


async def test_a_chunk_row_that_points_elsewhere_is_found(store: Store) -> None:
    identity = identity_of(cut(NARS[TOP])[1])
    await store.database.write(
        lambda c: c.execute(update(chunk).where(chunk.c.identity == identity).values(pack_offset=7))
    )
    report = await verify(store)
    assert faults(report) == [Fault.CHUNK_DAMAGED, Fault.CHUNK_MISPLACED, Fault.NAR_UNREADABLE]
    assert await visible(store) == {LIB, APP, OTHER}


async def test_a_recipe_that_names_an_absent_chunk_is_found(store: Store) -> None:
    number = await store.database.write(
        lambda c: c.execute(
            delete(chunk).where(chunk.c.identity == identity_of(cut(NARS[TOP])[0])).returning(chunk.c.number)
        ).scalar_one()
    )
    report = await verify(store)
    assert faults(report) == [Fault.RECIPE_BROKEN]
    assert report.findings[0].detail == f"chunk {number} is not there"
    assert await visible(store) == {LIB, APP, OTHER}


async def test_a_recipe_that_gives_another_hash_is_found_and_not_taken_for_healed(store: Store) -> None:
    def swap(connection: Connection) -> None:
        rows = connection.execute(
            select(chunk.c.number, chunk.c.identity).where(
                chunk.c.identity.in_([identity_of(piece) for piece in cut(NARS[OTHER])])
            )
        ).all()
        numbers = {row.identity: row.number for row in rows}
        order = [numbers[identity_of(piece)] for piece in cut(NARS[OTHER])]
        nar_id = connection.execute(select(path.c.nar_id).where(path.c.name == "x")).scalar_one()
        body = render_recipe(make_recipe(reversed(order), []))
        connection.execute(update(recipe).where(recipe.c.nar_id == nar_id).values(body=body))

    await store.database.write(swap)
    assert faults(await verify(store)) == [Fault.NAR_ALTERED]
    assert await visible(store) == {LIB, APP, TOP}
    assert faults(await verify(store)) == [Fault.NAR_ALTERED]
    assert await visible(store) == {LIB, APP, TOP}
    await store.push(await _cache(store), (OTHER, NARS[OTHER], [OTHER]))
    assert faults(await verify(store)) == []


async def test_a_path_that_disagrees_with_its_nar_is_found(store: Store) -> None:
    await store.database.write(lambda c: c.execute(update(path).where(path.c.name == "x").values(nar_size=1)))
    report = await verify(store)
    assert faults(report) == [Fault.PATH_DISAGREES]
    assert report.findings[0].paths == (f"main/{OTHER}",)
    assert await visible(store) == {LIB, APP, TOP}


async def test_a_signature_that_the_caches_key_did_not_make_is_found(store: Store) -> None:
    signature = await store.database.read(
        lambda c: c.execute(select(path.c.signatures).where(path.c.name == "lib")).scalar_one()
    )
    await store.database.write(lambda c: c.execute(update(path).where(path.c.name == "x").values(signatures=signature)))
    assert faults(await verify(store)) == [Fault.SIGNATURE_WRONG]
    assert await visible(store) == NARS.keys()


async def test_a_closure_with_a_hole_is_hidden_from_there_on(store: Store) -> None:
    await store.database.write(lambda c: c.execute(update(path).where(path.c.name == "lib").values(hidden_at=NOW)))
    report = await verify(store)
    assert faults(report) == [Fault.CLOSURE_BROKEN]
    assert report.hidden == [f"main/{APP}"]
    assert report.hidden_referrers == {f"main/{TOP}": APP}
    assert await visible(store) == {OTHER}


async def test_damage_in_a_shared_chunk_hides_the_paths_of_every_cache_that_has_it(store: Store) -> None:
    second = await store.create_cache("second")
    await store.push(second, (LIB, NARS[LIB], []))
    await alter(store, LIB, at=100)
    report = await verify(store, cache="second")
    assert report.hidden == [f"main/{LIB}", f"second/{LIB}"]
    assert report.hidden_referrers.keys() == {f"main/{APP}", f"main/{TOP}"}


async def test_a_cache_is_verified_without_what_only_others_need(store: Store) -> None:
    second = await store.create_cache("second")
    await store.push(second, (LIB, NARS[LIB], []))
    await alter(store, OTHER, at=100)
    report = await verify(store, cache="second")
    assert (report.findings, report.packs, report.nars, report.paths) == ([], 1, 1, 1)
    with pytest.raises(NotFound):
        await verify(store, cache="third")


async def test_a_fraction_reads_some_packs_and_every_row(store: Store) -> None:
    counts = [(await verify(store, fraction=0.5, salt=bytes([salt]))).packs for salt in range(12)]
    assert min(counts) < max(counts) <= 4
    assert (await verify(store, fraction=0.0)).paths == 4


async def test_a_condemned_pack_is_nobodys_concern(store: Store) -> None:
    await alter(store, OTHER, at=100)
    await store.database.write(lambda c: c.execute(delete(path).where(path.c.name == "x")))
    await store.database.write(lambda c: c.execute(update(pack).values(condemned_at=NOW)))
    await store.database.write(
        lambda c: c.execute(update(pack).where(pack.c.id.in_([1, 2, 3])).values(condemned_at=None))
    )
    assert faults(await verify(store)) == []


async def test_another_pack_that_got_the_number_of_a_deleted_one_is_not_taken_for_it(store: Store) -> None:
    """A look at all packs may take days, and one that it has still to come to may be gone by then."""
    newest = (await store.database.read(partial(list_packs, domain_id=PUBLIC_DOMAIN_ID)))[-1]
    gone = replace(newest, name=bytes(32))
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    for is_deep in (False, True):
        assert (await verifier.check_pack(PUBLIC_DOMAIN_ID, gone, is_deep=is_deep)).faults == []


async def test_a_file_whose_healed_chunk_has_another_frame_gets_its_hash_noted(store: Store) -> None:
    await store.database.write(lambda c: c.execute(update(nar).values(file_size=5)))
    assert faults(await verify(store)) == []
    rows = await store.database.read(lambda c: c.execute(select(path.c.file_size, nar.c.file_size).join(nar)).all())
    assert all(row[0] == row[1] > 5 for row in rows)


async def test_who_makes_a_healed_path_visible_can_show_what_reaches_it_at_once(store: Store) -> None:
    await alter(store, LIB, at=100)
    await alter(store, OTHER, at=100)
    await verify(store)
    cache = await _cache(store)
    await store.push(cache, (LIB, NARS[LIB], []))
    restore = partial(restore_referrers, cache_id=cache.id)
    assert await store.database.write(lambda c: restore(c, base_names=[OTHER])) == []
    assert sorted(await store.database.write(lambda c: restore(c, base_names=[LIB]))) == [APP, TOP]
    assert await visible(store) == {LIB, APP, TOP}
