"""Registering NARs: recipes that lie, frames that were damaged on the disk and are healed, and requests at once."""

import asyncio
import os
import random
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backports.zstd import decompress
from sqlalchemy import select

from icehouse.api.publish import NarBody, NarResult
from icehouse.db.caches import CacheRow
from icehouse.db.chunks import load_chunks, quarantine
from icehouse.db.nars import find_nars
from icehouse.db.schema import chunk, nar, pack, path
from icehouse.errors import InvalidFormat, NotFound, RateLimited, TooLarge, Unavailable
from icehouse.nix import nix32
from icehouse.nix.hashes import parse_sha256
from icehouse.rules.recipes import Recipe, Run, parse_recipe, render_recipe
from icehouse.services.nars import MAX_CHUNKS, MAX_NARS, MAX_WAITING_NARS
from icehouse.storage.blobs import BlobInfo, BlobKey, BlobStore, BlobWriter, FilePart
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import (
    NOW,
    Store,
    Upload,
    cut,
    identity_of,
    in_pieces,
    make_chunk,
    nar_hash_of,
    nar_of,
)

BIG = random.Random(7).randbytes(700_000) + b"/nix/store/" + b"a" * 32 + b"-glibc/lib " + b"text " * 200_000
NAR = nar_of(BIG + b"one")
NAR_TOO = nar_of(BIG + b"two")
"""Another NAR, of the same size, with most chunks of `NAR`."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    return await store.create_cache("main")


def changed(body: NarBody, nar: bytes, **changes: object) -> NarBody:
    """The same NAR with a recipe that differs."""
    recipe = parse_recipe(body.recipe, max_chunks=len(nar))
    return NarBody(nar_hash=body.nar_hash, nar_size=body.nar_size, recipe=render_recipe(replace(recipe, **changes)))  # pyright: ignore[reportArgumentType] - fields of Recipe


async def refusal(store: Store, cache: CacheRow, body: NarBody) -> str:
    """Register a NAR that is refused; give the reason."""
    (result,) = await store.register(cache, body)
    assert (result.state, result.nar_hash) == ("refused", body.nar_hash)
    assert await store.count(nar) == 0
    return result.reason


# Recipes that lie


async def test_chunk_of_another_domain_is_refused_like_one_that_is_nowhere(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other", domain_id=await store.create_domain())
    body = await store.nar_body(other, NAR)
    recipe = parse_recipe(body.recipe, max_chunks=100)
    nowhere = changed(body, NAR, runs=(Run(recipe.runs[0].first + 1_000, recipe.runs[0].count),))
    reasons = [await refusal(store, cache, body), await refusal(store, cache, nowhere)]
    assert reasons == [f"recipe: there is no chunk {number}" for number in (recipe.runs[0].first, 1_001)]


async def test_wrong_nar_size_is_refused(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    wrong = NarBody(nar_hash=body.nar_hash, nar_size=body.nar_size - 1, recipe=body.recipe)
    assert f"chunks have {len(NAR)} bytes" in await refusal(store, cache, wrong)


@pytest.mark.parametrize("patches", [[], [0, 0]], ids=["too few", "too many"])
async def test_wrong_number_of_patches_is_refused(store: Store, cache: CacheRow, patches: list[int]) -> None:
    wrong = changed(await store.nar_body(cache, NAR), NAR, patches=array("L", patches))
    assert f"{len(patches)} patches; its chunks have 1 places" in await refusal(store, cache, wrong)


async def test_wrong_store_hash_is_refused_and_blames_the_recipe(store: Store, cache: CacheRow) -> None:
    wrong = changed(await store.nar_body(cache, NAR), NAR, hashes=(b"b" * 32,))
    assert "the recipe gives the NAR hash sha256:" in await refusal(store, cache, wrong)
    assert await store.count(chunk) == len(cut(NAR))
    numbers = await store.send_chunks(cache, cut(NAR))
    assert len(numbers) == len(cut(NAR))  # none was quarantined


async def test_chunks_in_another_order_are_refused(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    (run,) = parse_recipe(body.recipe, max_chunks=100).runs
    wrong = changed(body, NAR, runs=(Run(run.first + 1, run.count - 1), Run(run.first, 1)))
    assert "the recipe gives the NAR hash" in await refusal(store, cache, wrong)


async def test_recipe_that_names_more_chunks_than_the_nar_can_have_is_refused(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    for runs in ((Run(1, 2**40),), (Run(1, 1),) * 200):
        with pytest.raises(InvalidFormat, match="chunks fit this NAR"):
            await store.register(cache, changed(body, NAR, runs=runs))


async def test_few_bytes_that_name_millions_of_chunks_are_too_large(store: Store, cache: CacheRow) -> None:
    recipe = render_recipe(Recipe((Run(1, MAX_CHUNKS // 2 + 1),), (), array("L")))
    bodies = [NarBody(nar_hash=nar_hash_of(bytes([n])), nar_size=60 * 1024**3, recipe=recipe) for n in range(2)]
    with pytest.raises(TooLarge, match="1048578 chunks"):
        await store.register(cache, *bodies)


async def test_chunk_repeated_often_is_put_together_within_its_bounds(store: Store, cache: CacheRow) -> None:
    """What a file of zeros gives."""
    zeros = nar_of(bytes(20 * 1024 * 1024))
    (result,) = await store.register(cache, await store.nar_body(cache, zeros))
    assert result.state == "stored"
    assert await store.count(chunk) < 10
    assert decompress(await store.download(cache, zeros)) == zeros


@pytest.mark.parametrize("nar_size", [-1, 0, 2**40])
async def test_nar_of_impossible_size_is_too_large(store: Store, cache: CacheRow, nar_size: int) -> None:
    recipe = render_recipe(Recipe((), (), array("L")))
    with pytest.raises(TooLarge, match="are accepted"):
        await store.register(cache, NarBody(nar_hash=nar_hash_of(b""), nar_size=nar_size, recipe=recipe))


async def test_too_many_nars_are_too_large(store: Store, cache: CacheRow) -> None:
    body = NarBody(nar_hash=nar_hash_of(b""), nar_size=1, recipe=b"")
    with pytest.raises(TooLarge, match="1001 NARs"):
        await store.register(cache, *[body] * (MAX_NARS + 1))


async def test_request_beyond_what_may_wait_is_sent_away_for_a_while(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    store.nars.waiting_count += MAX_WAITING_NARS
    with pytest.raises(RateLimited) as caught:
        await store.register(cache, body)
    assert caught.value.retry_after_seconds >= 1
    store.nars.waiting_count -= MAX_WAITING_NARS
    assert (await store.register(cache, body))[0].state == "stored"


async def test_one_refused_nar_does_not_keep_the_others_out(store: Store, cache: CacheRow) -> None:
    good, other = await store.nar_body(cache, NAR), await store.nar_body(cache, NAR_TOO)
    wrong = changed(other, NAR_TOO, hashes=(b"b" * 32,))
    states = [result.state for result in await store.register(cache, wrong, good)]
    assert states == ["refused", "stored"]


# Damage on the disk


def damage_flip(file: Path, offset: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte[0] ^ 1]))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped byte of contents": lambda file: damage_flip(file, 1_000),
    "flipped byte of a header": lambda file: damage_flip(file, 4),
    "deleted": lambda file: file.unlink(),
    "truncated": lambda file: os.truncate(file, 10_000),
    "empty": lambda file: os.truncate(file, 0),
}


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Store]:
    """A store over local files."""
    opened = Store.open(tmp_path, LocalBlobStore(tmp_path / "blobs"))
    yield opened
    await opened.close()


async def damaged_pack(disk: Store, tmp_path: Path, damage: Callable[[Path], None]) -> CacheRow:
    """A cache with `NAR` published, whose pack was damaged since."""
    cache = await disk.create_cache("main")
    await disk.push(cache, ("a" * 32 + "-one", NAR, []))
    (key,) = disk.keys("packs/")
    damage(tmp_path / "blobs" / key)
    return cache


async def heal(disk: Store, cache: CacheRow, result: NarResult) -> None:
    """Do as the answer says: send what is missing again."""
    assert result.state == "missing-chunks"
    missing = {result.missing[at : at + 32] for at in range(0, len(result.missing), 32)}
    chunks = [piece for piece in [*cut(NAR), *cut(NAR_TOO)] if identity_of(piece) in missing]
    assert {identity_of(piece) for piece in chunks} == missing
    await disk.send_chunks(cache, chunks)


@pytest.mark.parametrize("is_recent", [True, False], ids=["just decoded", "after a restart"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_found_by_the_next_nar_that_uses_the_chunk_and_healed(
    disk: Store, tmp_path: Path, damage: Callable[[Path], None], *, is_recent: bool
) -> None:
    """A healing pack may have the same bytes as the damaged one, and then has its name."""
    cache = await damaged_pack(disk, tmp_path, damage)
    store = disk if is_recent else Store(disk.database, disk.blobs)
    body = await store.nar_body(cache, NAR_TOO)
    (result,) = await store.register(cache, body)
    await heal(store, cache, result)
    assert (await store.register(cache, body))[0].state == "stored"
    assert decompress(await store.download(cache, NAR_TOO)) == NAR_TOO

    # The last chunk of the other NAR is its own.
    body = await store.nar_body(cache, NAR)
    (result,) = await store.register(cache, body, verify=True)
    if result.state != "stored":
        await heal(store, cache, result)
    assert decompress(await store.download(cache, NAR)) == NAR
    assert store.keys("unfinished/") == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_found_by_verification_and_healed(
    disk: Store, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache = await damaged_pack(disk, tmp_path, damage)
    body = await disk.nar_body(cache, NAR)
    assert (await disk.register(cache, body))[0].state == "stored"  # which looks at rows only
    (result,) = await disk.register(cache, body, verify=True)
    await heal(disk, cache, result)
    assert (await disk.register(cache, body, verify=True))[0].state == "stored"
    assert decompress(await disk.download(cache, NAR)) == NAR


async def test_all_damaged_chunks_are_named_at_once(disk: Store, tmp_path: Path) -> None:
    """One that does not decode, and one that decodes to other bytes."""

    def damage(file: Path) -> None:
        damage_flip(file, 4)
        damage_flip(file, file.stat().st_size - 2_000)

    random_nar = nar_of(random.Random(3).randbytes(2_000_000))
    cache = await disk.create_cache("main")
    body = await disk.nar_body(cache, random_nar)
    (key,) = disk.keys("packs/")
    damage(tmp_path / "blobs" / key)
    (result,) = await disk.register(cache, body)
    chunks = cut(random_nar)
    assert result.missing == identity_of(chunks[0]) + identity_of(chunks[-1])


async def test_pack_with_the_same_bytes_replaces_the_damaged_one(disk: Store, tmp_path: Path) -> None:
    cache = await damaged_pack(disk, tmp_path, DAMAGES["deleted"])
    keys = disk.keys("packs/")
    body = await disk.nar_body(cache, NAR)
    await heal(disk, cache, (await disk.register(cache, body, verify=True))[0])
    assert keys == []
    assert len(disk.keys("packs/")) == await disk.count(pack) == 1


async def test_quarantined_chunk_is_missing_until_it_is_sent_again_and_keeps_its_number(
    store: Store, cache: CacheRow
) -> None:
    body = await store.nar_body(cache, NAR)
    numbers = await store.send_chunks(cache, cut(NAR))
    rows = await store.database.read(lambda connection: load_chunks(connection, cache.domain_id, [Run(1, 1)]))
    await store.database.write(lambda connection: quarantine(connection, rows.values(), now=NOW))
    (result,) = await store.register(cache, body)
    assert (result.state, result.missing) == ("missing-chunks", identity_of(cut(NAR)[0]))
    assert await store.send_chunks(cache, cut(NAR)) == numbers
    assert (await store.register(cache, body))[0].state == "stored"


async def test_chunk_healed_by_another_frame_changes_what_is_said_of_the_file(disk: Store, tmp_path: Path) -> None:
    """A client with another level or library sends other bytes for the same chunk."""
    cache = await damaged_pack(disk, tmp_path, DAMAGES["deleted"])
    body = await disk.nar_body(cache, NAR)
    assert (await disk.register(cache, body, verify=True))[0].state == "missing-chunks"
    await disk.packs.receive_pack(cache, in_pieces(Upload.of(cut(NAR), level=19).render()))
    (result,) = await disk.register(cache, body)
    file = await disk.download(cache, NAR)
    assert decompress(file) == NAR
    assert (result.state, result.file_size) == ("stored", len(file))
    rows = await disk.database.read(
        lambda connection: connection.execute(
            select(path.c.file_size, path.c.file_hash, nar.c.file_hash).join(nar)
        ).one()
    )
    assert rows[:2] == (len(file), nix32.encode(rows[2]))
    assert parse_sha256(nar_hash_of(file)) == rows[2]


class Interrupted:
    """A `BlobStore` over another; something happens just before its first read."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.before_read: Callable[[], None] | None = None

    def create(self) -> BlobWriter:
        return self._blobs.create()

    def put(self, key: BlobKey, data: bytes) -> None:
        self._blobs.put(key, data)

    def size(self, key: BlobKey) -> int:
        return self._blobs.size(key)

    def describe(self, key: BlobKey) -> BlobInfo:
        return self._blobs.describe(key)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        return self._blobs.delete_unchanged(info)

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        act, self.before_read = self.before_read, None
        if act is not None:
            act()
        self._blobs.read_into(key, offset, buffer)

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        return self._blobs.read_warm(key, offset, buffer)

    def find_warm(self, key: BlobKey, offset: int, size: int) -> FilePart | None:
        return self._blobs.find_warm(key, offset, size)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        return self._blobs.list(prefix)

    def delete(self, key: BlobKey) -> None:
        self._blobs.delete(key)


@pytest.fixture
async def interrupted(tmp_path: Path) -> AsyncIterator[tuple[Store, Interrupted]]:
    blobs = Interrupted(MemoryBlobStore())
    opened = Store.open(tmp_path, blobs)
    yield opened, blobs
    await opened.close()


async def test_chunk_quarantined_while_its_nar_is_put_together_is_missing(
    interrupted: tuple[Store, Interrupted],
) -> None:
    store, blobs = interrupted
    cache = await store.create_cache("main")
    body = await store.nar_body(cache, NAR)
    rows = await store.database.read(lambda connection: load_chunks(connection, cache.domain_id, [Run(2, 1)]))
    blobs.before_read = lambda: store.database.write_now(
        lambda connection: quarantine(connection, rows.values(), now=NOW)
    )
    (result,) = await store.register(cache, body)
    assert (result.state, result.missing) == ("missing-chunks", rows[2].identity)
    assert await store.count(nar) == 0


async def test_chunk_that_got_another_frame_since_its_row_was_read_is_not_quarantined(
    interrupted: tuple[Store, Interrupted],
) -> None:
    """Its old pack may be gone by then; what is stored now is sound."""
    store, _ = interrupted
    cache = await store.create_cache("main")
    await store.nar_body(cache, NAR)
    rows = await store.database.read(lambda connection: load_chunks(connection, cache.domain_id, [Run(1, 1)]))
    elsewhere = replace(rows[1], pack_name=bytes(32))
    await store.database.write(lambda connection: quarantine(connection, [elsewhere], now=NOW))
    rows = await store.database.read(lambda connection: load_chunks(connection, cache.domain_id, [Run(1, 1)]))
    assert rows[1].is_sound


# At once, and long


async def test_nar_registered_twice_at_once_has_one_row(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    answers = await asyncio.gather(*(store.register(cache, body, body) for _ in range(3)))
    assert {result.state for results in answers for result in results} == {"stored"}
    assert await store.count(nar) == 1


async def test_wrong_recipe_of_one_client_is_not_the_result_of_another(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    wrong = changed(body, NAR, hashes=(b"b" * 32,))
    answers = await asyncio.gather(*(store.register(cache, each) for each in (wrong, body, wrong)))
    assert [results[0].state for results in answers] == ["refused", "stored", "refused"]


async def test_verification_is_done_though_the_nar_is_being_registered(disk: Store, tmp_path: Path) -> None:
    cache = await damaged_pack(disk, tmp_path, DAMAGES["flipped byte of contents"])
    body = await disk.nar_body(cache, NAR)
    answers = await asyncio.gather(disk.register(cache, body), disk.register(cache, body, verify=True))
    assert answers[1][0].state == "missing-chunks"


async def test_one_nar_in_two_domains_at_once_is_stored_in_each(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other", domain_id=await store.create_domain())
    bodies = await asyncio.gather(*(store.nar_body(each, NAR) for each in (cache, other)))
    for each, body in ((cache, bodies[0]), (other, bodies[1])):
        assert (await store.register(each, body))[0].state == "stored"
        assert decompress(await store.download(each, NAR)) == NAR
    assert await store.count(nar) == len(store.keys("packs/")) == 2


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Store]:
    """A store that answers every NAR as pending."""
    opened = Store.open(tmp_path, long_nar_bytes=1)
    yield opened
    await opened.close()


async def ask(store: Store, cache: CacheRow, nar_hash: str) -> NarResult:
    """Ask until a NAR is no longer pending."""
    while (result := await store.nars.get_nar(cache, parse_sha256(nar_hash))).state == "pending":  # noqa: ASYNC110 - as a client, which has no event to wait for
        await asyncio.sleep(0)
    return result


async def until(is_so: Callable[[], bool]) -> None:
    """Give other tasks their turns until something is so."""
    while not is_so():  # noqa: ASYNC110 - services have no events for tests
        await asyncio.sleep(0)


async def test_long_nar_is_pending_until_it_is_stored(impatient: Store) -> None:
    cache = await impatient.create_cache("main")
    body = await impatient.nar_body(cache, NAR)
    (result,) = await impatient.register(cache, body)
    assert result.state == "pending"
    assert (await impatient.register(cache, body))[0].state == "pending"
    done = await ask(impatient, cache, body.nar_hash)
    assert done.state == "stored"
    assert done.file_size == len(await impatient.download(cache, NAR))
    assert await ask(impatient, cache, body.nar_hash) == done


async def test_end_of_a_long_nar_that_is_refused_is_told_more_than_once(impatient: Store) -> None:
    cache = await impatient.create_cache("main")
    body = changed(await impatient.nar_body(cache, NAR), NAR, hashes=(b"b" * 32,))
    await impatient.register(cache, body)
    results = [await ask(impatient, cache, body.nar_hash) for _ in range(2)]
    assert [result.state for result in results] == ["refused", "refused"]


async def test_nar_that_another_domain_has_or_registers_is_not_found(impatient: Store) -> None:
    cache = await impatient.create_cache("main")
    other = await impatient.create_cache("other", domain_id=await impatient.create_domain())
    body = await impatient.nar_body(cache, NAR)
    await impatient.register(cache, body)
    for _ in range(2):
        with pytest.raises(NotFound):
            await impatient.nars.get_nar(other, parse_sha256(body.nar_hash))
        await ask(impatient, cache, body.nar_hash)


async def test_stopping_ends_what_is_pending_and_says_so(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, nar_of(bytes(100 * 1024 * 1024)))
    request = asyncio.create_task(store.register(cache, body))
    await until(lambda: store.nars.waiting_count > 0)
    await store.nars.close()
    with pytest.raises(Unavailable, match="the server stops"):
        await request
    assert await store.count(nar) == 0


async def test_cancelled_request_does_not_stop_its_nars(store: Store, cache: CacheRow) -> None:
    body = await store.nar_body(cache, NAR)
    request = asyncio.create_task(store.register(cache, body))
    await until(lambda: store.nars.waiting_count > 0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await until(lambda: store.nars.waiting_count == 0)
    found = await store.database.read(
        lambda connection: find_nars(connection, cache.domain_id, [parse_sha256(body.nar_hash)])
    )
    assert len(found) == 1


async def test_file_of_a_nar_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.nar_files.open_nar(1)


async def test_chunks_without_nar_are_no_nar(store: Store, cache: CacheRow) -> None:
    await store.send_chunks(cache, [make_chunk(1)])
    with pytest.raises(NotFound):
        await store.nars.get_nar(cache, parse_sha256(nar_hash_of(make_chunk(1).raw)))
