"""The verification that never ends goes at its speed, remembers where it stands, and comes by everything."""

import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import select

from icehouse.cli.verify import render_status
from icehouse.db.caches import get_cache
from icehouse.db.schema import path
from icehouse.db.verification import load_pass
from icehouse.rules.maintenance import VERIFY_REST_SECONDS
from icehouse.rules.verification import Fault
from icehouse.services.leases import hold
from icehouse.services.verify import Verifier
from icehouse.services.verify_pass import PassStep, Verification, VerifyPass, load_status
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
    assert state.is_between
    assert (state.last_began_at, state.last_findings) == (NOW, 0)
    assert state.last_read_bytes == sum(step.read_bytes for step in steps)


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


class Served:
    """The verification of a server, whose pauses take no time."""

    def __init__(self, store: Store, *, speed: int = SIZE) -> None:
        self.now = NOW
        self.pauses = 0
        self._store = store
        self.verification = Verification(
            store.database, store.blobs, lambda: self.now, bytes_per_second=speed, draw=lambda: 0.5
        )

    async def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.now += int(seconds)

    async def work(self) -> list[Any]:
        """The log of one turn."""
        with structlog.testing.capture_logs() as logs:
            await self.verification.work(self.pause)
        return [entry["event"] for entry in logs if entry["log_level"] != "debug"]


@pytest.fixture
async def served(store: Store) -> AsyncGenerator[Served]:
    served = Served(store)
    yield served
    served.verification.close()


async def test_server_goes_over_everything_and_then_rests_for_a_day(served: Served) -> None:
    assert await served.work() == ["verified everything"]
    assert served.pauses > 1
    assert await served.work() == []
    served.now += VERIFY_REST_SECONDS
    assert await served.work() == ["verified everything"]


async def test_only_one_of_several_processes_verifies(served: Served, store: Store) -> None:
    with hold(store.database, "the verification that never ends", "another worker", lambda: served.now):
        assert await served.work() == []
    assert served.pauses == 0


async def test_server_that_stops_leaves_a_long_nar_and_the_next_one_begins_it_again(
    served: Served, store: Store
) -> None:
    served.verification.end()
    assert await served.work() == []
    state = await store.database.read(load_pass)
    assert state is None or state.phase == "packs"
    other = Served(store)
    assert await other.work() == ["verified everything"]
    other.verification.close()


async def test_status_tells_how_far_it_is_and_what_damage_hides(served: Served, store: Store) -> None:
    before = await store.database.read(load_status)
    assert (before.state, before.phase_total, before.hidden_count) == (None, 0, 0)
    await make_pass(store, 1).advance(1)
    begun = await store.database.read(load_status)
    assert begun.state is not None
    assert (begun.state.phase, begun.phase_done, begun.phase_total) == ("packs", 1, 2)
    for key in store.keys("packs/"):
        store.blobs.delete(BlobKey(key))
    assert "found damage" in await served.work()
    after = await store.database.read(load_status)
    assert after.state is not None
    assert after.state.last_findings
    assert after.hidden_count == len(after.hidden) == 3
    assert set(after.hidden) == {f"main/{LIB}", f"second/{LIB}", f"second/{APP}"}
    assert "Damage hides 3 paths now." in render_status(after)


async def _visible(store: Store) -> int:
    rows = await store.database.read(lambda c: c.execute(select(path.c.id).where(path.c.hidden_at.is_(None))).all())
    return len(rows)
