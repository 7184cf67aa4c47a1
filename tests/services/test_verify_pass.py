"""The verification that never ends goes at its speed, remembers where it stands, and comes by everything."""

import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import select

from icehouse.db.caches import get_cache
from icehouse.db.schema import path
from icehouse.db.verification import load_pass
from icehouse.rules.verification import Fault
from icehouse.services.verify import Verifier
from icehouse.services.verify_pass import PassStep, VerifyPass
from icehouse.storage.blobs import BlobKey
from tests.services.publishing import NOW, Store, nar_of

LIB, APP = f"{'a' * 32}-lib", f"{'b' * 32}-app"
SIZE = 300_000
NARS = {name: nar_of(random.Random(name).randbytes(SIZE)) for name in (LIB, APP)}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    store = Store.open(tmp_path)
    for cache in ("main", "second"):
        row = await store.create_cache(cache)
        await store.push(row, (LIB, NARS[LIB], []))
    await store.push(row, (APP, NARS[APP], [LIB]))
    yield store
    await store.close()


def make_pass(store: Store, speed: int) -> VerifyPass:
    verifier = Verifier(store.database, store.blobs, store.workers, lambda: NOW)
    return VerifyPass(store.database, verifier, lambda: NOW, bytes_per_second=speed)


async def advance_to_end(verify_pass: VerifyPass, *, at_most: int = 100) -> list[PassStep]:
    steps: list[PassStep] = []
    while not steps or not steps[-1].is_complete:
        assert len(steps) < at_most
        steps.append(await verify_pass.advance(1))
    return steps


async def test_a_pass_reads_everything_at_its_speed(store: Store) -> None:
    steps = await advance_to_end(make_pass(store, SIZE // 2))
    packs = sum(store.blobs.size(BlobKey(key)) for key in store.keys("packs/"))
    assert packs + 2 * SIZE <= sum(step.read_bytes for step in steps)
    assert len(steps) > 8
    assert max(step.read_bytes for step in steps) < 2 * SIZE
    state = await store.database.read(load_pass)
    assert state is not None
    assert (state.completed_at, state.phase, state.after, state.read_bytes) == (NOW, "packs", 0, 0)


async def test_at_speed_0_nothing_is_read(store: Store) -> None:
    assert (await make_pass(store, 0).advance(1000)).read_bytes == 0


async def test_another_process_goes_on_where_the_last_one_stood(store: Store) -> None:
    stops = 0
    while not (await make_pass(store, 1).advance(1)).is_complete:
        stops += 1
        assert stops < 50
    assert stops >= 5  # Two packs, two NARs and two pages of paths, each read whole.


async def test_time_that_was_not_used_is_not_saved_without_end(store: Store) -> None:
    step = await make_pass(store, 1000).advance(10_000_000)
    assert step.read_bytes <= SIZE + 100_000
    assert not step.is_complete


async def test_damage_is_found_and_what_was_healed_comes_back(store: Store) -> None:
    for key in store.keys("packs/"):
        data = bytearray(store.read_blob(key))
        data[1000] ^= 1
        store.blobs.put(BlobKey(key), bytes(data))
    steps = await advance_to_end(make_pass(store, 10**9))
    found = [finding.fault for step in steps for finding in step.findings]
    assert set(found) == {Fault.PACK_ALTERED, Fault.CHUNK_DAMAGED, Fault.NAR_UNREADABLE}
    assert await _visible(store) == 0
    second = await store.database.read(lambda c: get_cache(c, "second"))
    await store.push(second, (LIB, NARS[LIB], []), (APP, NARS[APP], [LIB]))
    assert await _visible(store) == 2
    steps = await advance_to_end(make_pass(store, 10**9))
    assert [finding for step in steps for finding in step.findings] == []
    assert await _visible(store) == 3


async def _visible(store: Store) -> int:
    rows = await store.database.read(lambda c: c.execute(select(path.c.id).where(path.c.hidden_at.is_(None))).all())
    return len(rows)
