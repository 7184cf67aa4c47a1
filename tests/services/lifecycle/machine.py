"""The state machine: whoever uses a server does what they like in any order, and what must be true is looked at."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from icehouse.api.caches import CacheConfigure
from icehouse.api.collection import CollectionReport, SweepReport
from icehouse.api.pins import PinPut
from icehouse.api.publish import ChunksMissingRequest, MissingRequest, NarBody, NarsRequest, PathsRequest
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.caches import CacheRow, insert_upstream
from icehouse.db.engine import SCHEMA_REVISION, connect
from icehouse.db.keys import insert_key
from icehouse.db.migrate import prepare_access_database, prepare_database
from icehouse.db.sizes import CacheSizes, load_sizes
from icehouse.errors import IcehouseError
from icehouse.nix import nix32
from icehouse.nix.compression import Compression
from icehouse.rules.collection import GRACE_SECONDS
from icehouse.rules.recipes import make_recipe, render_recipe
from icehouse.services.access_times import AccessTimes
from icehouse.services.caches import Caches
from icehouse.services.collect import Collector
from icehouse.services.collection_run import RunRequest, run_collection
from icehouse.services.contents import Contents
from icehouse.services.pins import Pins
from icehouse.services.repair import Repair
from icehouse.services.signing import Sealer
from icehouse.services.trash import Trash
from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress
from icehouse.storage.blobs import BlobKey, BlobStore
from tests.services.lifecycle.looking import Look, PathSeen, Reader, changes, look
from tests.services.lifecycle.stepping import (
    Loop,
    SteppedDatabase,
    SteppedLocalBlobs,
    SteppedMemoryBlobs,
    SteppedWorkers,
    TaskWork,
    ThreadWork,
    Work,
)
from tests.services.lifecycle.things import (
    BUILDS,
    EXTERNAL,
    NAMES,
    THINGS,
    UPSTREAM_KEY,
    Elsewhere,
    body,
    chunks,
    closure,
    evidence,
    known_nars,
    nar,
)
from tests.services.publishing import KEY, NOW, TESTER, Store, Upload, identity_of, in_pieces, nar_hash_of
from tests.services.uploading import NarUpload, StockNix

HOUR: Final = 3_600
DAY: Final = 86_400
CACHES: Final = ("main", "side")
"""Both in one domain: they share chunks and NARs."""

_WORKS_AT_ONCE: Final = 3
_TRIES: Final = 5

_ACTS_OF_COLLECTION: Final = (
    "act",  # hiding
    "purge_paths",
    "purge_nars",
    "page_of_recipes",
    "list_packs",
    "set_condemned",
    *["delete_pack"] * 4,
    "delete_unchanged",
    "move_chunks",
    "add_collection",
)

_names = st.sampled_from(NAMES)
_some_names = st.lists(_names, min_size=1, max_size=4, unique=True)
_caches = st.sampled_from(CACHES)
_builds = st.sampled_from(BUILDS)
_begin = st.booleans()
_which = st.integers(0, 35)


@dataclass(slots=True)
class PinModel:
    """What a pin keeps, by the sentences of the guide."""

    keep_days: int | None = None
    keep_revisions: int | None = None
    kept: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Base names, and when they were pinned; the newest last."""

    def forget(self, now: int) -> None:
        """Let go for good of what is not kept any more."""
        older, newest = self.kept[:-1], self.kept[-1:]
        if self.keep_revisions is not None:
            older = self.kept[-self.keep_revisions : -1]
        if self.keep_days is not None:
            older = [each for each in older if each[1] > now - self.keep_days * DAY]
        self.kept = older + newest


@cache
def _template() -> Path:
    """A folder with empty databases. Migrations take longer than all that a test does in it."""
    folder = Path(tempfile.mkdtemp(prefix="icehouse-lifecycle-"))
    prepare_database(folder / "icehouse.db")
    prepare_access_database(folder / "access.db")
    return folder


class Lifecycle(RuleBasedStateMachine):
    """A server in which time passes, and its users. Looked at after each step, and emptied at the end."""

    has_local_blobs: ClassVar[bool] = False
    counts: ClassVar[Counter[str]] = Counter()
    """What happened in all histories."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")  # noqa: S108  in memory, where there is that: syncs take no time there
        self.folder = Path(tempfile.mkdtemp(prefix="icehouse-", dir=shared if shared.is_dir() else None))
        for name in ("icehouse.db", "access.db"):
            shutil.copy(_template() / name, self.folder / name)
        self.loop = Loop()
        self.blobs = self._open_blobs()
        self.databases = [
            self._open_database("icehouse.db", SCHEMA_REVISION),
            self._open_database("icehouse.db", SCHEMA_REVISION),
            self._open_database("access.db", ACCESS_REVISION),
        ]
        self.database, self.collector_database, self.access_database = self.databases
        self.eye = connect(self.folder / "icehouse.db", is_read_only=True)
        self.works: list[Work] = []
        self.pins: dict[tuple[str, str], PinModel] = {}
        self.altered: set[BlobKey] = set()
        self.was_damaged = False
        self.seen: Look | None = None
        self.were_read: set[tuple[PathSeen, tuple[tuple[BlobKey, int], ...]]] = set()
        """Paths whose NARs were right, with where their frames were. No row changed since, and all packs are whole."""

    def _open_blobs(self) -> BlobStore:
        if self.has_local_blobs:
            return SteppedLocalBlobs(self.folder / "blobs", clock=lambda: self.store.now)
        return SteppedMemoryBlobs(clock=lambda: self.store.now)

    def _open_database(self, name: str, revision: str) -> SteppedDatabase:
        opened = SteppedDatabase.open(self.folder / name, revision=revision)
        opened.loop = self.loop
        return opened

    @initialize()
    def open(self) -> None:
        self.loop.run(self._open())

    async def _open(self) -> None:
        self.store = store = Store(self.database, self.blobs, workers=SteppedWorkers(self.loop))
        clock = self.clock
        self.cache_rows: dict[str, CacheRow] = {}
        self.nix: dict[str, StockNix] = {}
        for name in CACHES:
            row = self.cache_rows[name] = await store.create_cache(name)
            self.nix[name] = StockNix(store, row)
            await store.database.write(
                partial(insert_upstream, cache_id=row.id, url="https://u", public_keys=[UPSTREAM_KEY.public_key])
            )
            await store.database.write(
                partial(insert_key, cache_id=row.id, public_key=KEY.public_key, sealed_secret_key=b"sealed", now=NOW)
            )
        self.access_times = AccessTimes(self.access_database)
        self.trash = Trash(store.database, clock, note_use=self.access_times.note)
        contents = Contents(store.database, store.nar_files, store.workers)
        self.pin_service = Pins(store.database, contents, clock=clock)
        self.caches = Caches(
            store.database, self.blobs, Sealer(bytes(32)), public_url="https://x", clock=clock, draw=os.urandom
        )
        self.verifier = Verifier(store.database, self.blobs, store.workers, clock)
        sources = {source.url: source for source in map(Elsewhere, BUILDS)}
        self.source_urls = list(sources)
        self.repair = Repair(store.database, self.blobs, store.workers, store.nars, clock, sources.__getitem__)
        self.reader = Reader(store.nar_files)

    def clock(self) -> int:
        return self.store.now

    def teardown(self) -> None:
        try:
            if self.seen is not None:
                self._empty()
        finally:
            for work in self.works:
                with contextlib.suppress(BaseException):
                    work.stop()
            self.eye.close()
            self.loop.run(self.store.nars.close())
            self.store.workers.close()
            self.store.reader.close()
            for database in self.databases:
                database.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    # Works

    def do(self, name: str, work: Coroutine[Any, Any, None], *, begin: bool) -> bool:
        """Begin a work of the event loop, or carry it out; whether it was alone all the time."""
        task = TaskWork(self.loop, name, work)
        return self._go_on(task, begin=begin)

    def _go_on(self, work: Work, *, begin: bool) -> bool:
        if begin and len(self.works) < _WORKS_AT_ONCE:
            self.works.append(work)
            return False
        was_alone = not self.works
        self._finish(work)
        return was_alone

    def _finish(self, work: Work) -> None:
        """Step a work to its end, and others as far as it waits for them."""
        rounds = 0
        while not work.is_done:
            work.step()
            rounds += 1
            if rounds % 200 == 0:
                for other in self.works:
                    other.step()
            assert rounds < 20_000, f"{work.name} does not come to its end"

    @precondition(lambda self: self.works)
    @rule(which=st.integers(0, _WORKS_AT_ONCE - 1), steps=st.integers(1, 12))
    def step(self, which: int, steps: int) -> None:
        work = self.works[which % len(self.works)]
        note(f"{work.name}: {steps} steps")
        for _ in range(steps):
            if not work.is_done:
                work.step()
        if work.is_done:
            self.works.remove(work)

    @precondition(lambda self: self.works)
    @rule(which=st.integers(0, _WORKS_AT_ONCE - 1))
    def finish(self, which: int) -> None:
        work = self.works.pop(which % len(self.works))
        note(work.name)
        self._finish(work)

    @precondition(lambda self: self.works)
    @rule(which=st.integers(0, _WORKS_AT_ONCE - 1))
    def stop(self, which: int) -> None:
        work = self.works.pop(which % len(self.works))
        note(work.name)
        work.stop()

    # Pushing and reading

    @rule(cache_name=_caches, base_names=_some_names, build=_builds, one_pack=st.booleans(), begin=_begin)
    def push(self, cache_name: str, base_names: list[str], build: int, *, one_pack: bool, begin: bool) -> None:
        refused: list[str] = []
        work = self._push(cache_name, closure(base_names), build, refused, one_pack=one_pack)
        if self.do(f"push of {base_names}", work, begin=begin):
            self._expect_accepted(refused)
            if not refused:
                self._expect_visible(cache_name, closure(base_names))

    async def _push(
        self, cache_name: str, base_names: list[str], build: int, refused: list[str], *, one_pack: bool
    ) -> None:
        """As our client pushes: what is asked is up to date only until the next step."""
        with _client(refused):
            row, store = self.cache_rows[cache_name], self.store
            asked = [THINGS[name].hash_part for name in base_names]
            missing = await store.publisher.find_missing(row, MissingRequest(list(asked)))
            wanted = [name for name in base_names if THINGS[name].hash_part in missing.missing]
            if not wanted:
                return
            for _ in range(_TRIES):
                if await self._send(row, wanted, build, one_pack=one_pack):
                    break
            else:
                refused.append("its chunks are missing again and again")
                return
            bodies = [body(name, build) for name in wanted]
            externals = [evidence()] if any(EXTERNAL in each.references for each in bodies) else []
            answer = await store.publisher.publish_paths(row, PathsRequest(bodies, externals), token_id=None)
            refused += [f"{each.store_path}: {each.reason}" for each in answer.refused]

    async def _send(self, row: CacheRow, base_names: list[str], build: int, *, one_pack: bool) -> bool:
        """Send chunks and NARs; false if some chunks are missing again."""
        numbers: dict[bytes, int] = {}
        groups = [base_names] if one_pack else [[name] for name in base_names]
        for group in groups:
            numbers |= await self._send_chunks(row, group, build)
        nars: list[NarBody] = []
        for name in base_names:
            cuts = chunks(name, build)
            recipe = make_recipe(
                (numbers[identity_of(chunk)] for chunk in cuts), (each for chunk in cuts for each in chunk.hashes)
            )
            data = nar(name, build)
            nars.append(NarBody(nar_hash=nar_hash_of(data), nar_size=len(data), recipe=render_recipe(recipe)))
        answer = await self.store.nars.register_nars(row, NarsRequest(nars))
        return all(result.state == "stored" for result in answer.results)

    async def _send_chunks(self, row: CacheRow, base_names: list[str], build: int) -> dict[bytes, int]:
        cuts = {identity_of(chunk): chunk for name in base_names for chunk in chunks(name, build)}
        packs = self.store.packs
        answer = await packs.find_missing_chunks(row, ChunksMissingRequest(b"".join(cuts)))
        known = [identity for i, identity in enumerate(cuts) if answer.known[i >> 3] >> (i & 7) & 1]
        numbers = dict(zip(known, answer.numbers, strict=True))
        missing = tuple(identity for identity in cuts if identity not in numbers)
        if missing:
            upload = Upload.of([cuts[identity] for identity in missing])
            sent = await packs.receive_pack(row, in_pieces(upload.render()))
            numbers |= dict(zip(missing, sent.numbers, strict=True))
        return numbers

    @rule(
        cache_name=_caches,
        base_names=_some_names.flatmap(st.permutations),
        build=_builds,
        compression=st.sampled_from([Compression.NONE, Compression.ZSTD]),
        begin=_begin,
    )
    def push_by_nix(
        self, cache_name: str, base_names: Sequence[str], build: int, compression: Compression, *, begin: bool
    ) -> None:
        """As stock Nix pushes, in any order: what lacks references waits for them."""
        refused: list[str] = []
        work = self._push_by_nix(cache_name, base_names, build, compression, refused)
        if self.do(f"push of {base_names} by Nix", work, begin=begin):
            self._expect_accepted(refused)

    @staticmethod
    def _expect_accepted(refused: list[str]) -> None:
        """Nobody was in the way, so only a limit may be."""
        assert not [reason for reason in refused if "limit" not in reason], refused

    async def _push_by_nix(
        self, cache_name: str, base_names: Sequence[str], build: int, compression: Compression, refused: list[str]
    ) -> None:
        with _client(refused):
            row, nix = self.cache_rows[cache_name], self.nix[cache_name]
            for name in base_names:
                hash_part = THINGS[name].hash_part
                missing = await self.store.publisher.find_missing(row, MissingRequest([hash_part]))
                if missing.missing:
                    file = NarUpload.make(nar(name, build), compression)
                    await nix.put_nar(file)
                    await nix.put_narinfo(file.narinfo(name, THINGS[name].references))

    @precondition(lambda self: self.seen is not None and self.seen.visible)
    @rule(which=_which)
    def read(self, which: int) -> None:
        """A download, that counts as a use."""
        cache_name, base_name = self._choose(which, is_visible=True)
        (path_id,) = self.eye.execute(
            "SELECT id FROM path WHERE cache_id = ? AND hash_part = ?",
            (self.cache_rows[cache_name].id, THINGS[base_name].hash_part),
        ).fetchone()
        self.access_times.note(path_id, self.store.now)

    def _choose(self, which: int, *, is_visible: bool) -> tuple[str, str]:
        """A cache, and a path that is visible there, or in its trash."""
        assert self.seen is not None
        there = sorted(key for key, path in self.seen.paths.items() if (path.hidden_at is None) is is_visible)
        cache_id, base_name = there[which % len(there)]
        return self.seen.caches[cache_id].name, base_name

    # Pins

    @precondition(lambda self: self.seen is not None and self.seen.visible)
    @rule(
        which=_which,
        pin_name=st.sampled_from(["release", "nightly"]),
        keep=st.sampled_from(
            [
                {},
                {"keep_forever": True},
                {"keep_days": 1},
                {"keep_days": 20},
                {"keep_revisions": 1},
                {"keep_revisions": 2},
            ]
        ),
        begin=_begin,
    )
    def pin(self, which: int, pin_name: str, keep: dict[str, Any], *, begin: bool) -> None:
        cache_name, base_name = self._choose(which, is_visible=True)
        self.do(f"pin of {base_name}", self._pin(cache_name, pin_name, base_name, keep), begin=begin)

    async def _pin(self, cache_name: str, pin_name: str, base_name: str, keep: dict[str, Any]) -> None:
        with _client():
            request = PinPut(store_path=base_name, **keep)
            await self.pin_service.put_pin(self.cache_rows[cache_name], pin_name, request, TESTER)
            # Nothing comes between the transaction and this.
            pin = self.pins.setdefault((cache_name, pin_name), PinModel())
            pin.forget(self.store.now)
            if keep:
                pin.keep_days, pin.keep_revisions = keep.get("keep_days"), keep.get("keep_revisions")
            if not pin.kept or pin.kept[-1][0] != base_name:
                pin.kept.append((base_name, self.store.now))
            pin.forget(self.store.now)

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 3))
    def unpin(self, which: int) -> None:
        cache_name, pin_name = sorted(self.pins)[which % len(self.pins)]
        self.loop.run(self.pin_service.delete_pin(self.cache_rows[cache_name], pin_name, TESTER))
        del self.pins[cache_name, pin_name]

    # What goes

    @rule(
        cache_name=_caches,
        unused=st.sampled_from([None, DAY, 10 * DAY]),
        pushed=st.sampled_from([None, None, 5 * DAY]),
        budget=st.sampled_from([None, 1, 5_000, 1_200_000]),
        limit=st.sampled_from([None, None, 2_000_000]),
        trash=st.sampled_from([0, HOUR, 7 * DAY]),
    )
    def configure(
        self, cache_name: str, unused: int | None, pushed: int | None, budget: int | None, limit: int | None, trash: int
    ) -> None:
        request = CacheConfigure(
            keep_unused_seconds=unused,
            keep_pushed_seconds=pushed,
            budget_bytes=budget,
            limit_bytes=limit,
            trash_seconds=trash,
        )
        self.loop.run(self.caches.configure_cache(self.cache_rows[cache_name], request, None, TESTER))

    @precondition(lambda self: self._may_collect())
    @rule(cache_name=st.sampled_from([None, *CACHES]), begin=_begin)
    def collect(self, cache_name: str | None, *, begin: bool) -> None:
        if begin and len(self.works) < _WORKS_AT_ONCE:
            self.works.append(self._begin_collection(cache_name))
        elif self.works:
            self._finish(self._begin_collection(cache_name))
        else:
            self._collect_and_compare(cache_name)

    @rule(times=st.integers(1, 4))
    def neglect(self, times: int) -> None:
        """Nobody uses anything for some days, and all that is not pinned goes, step by step."""
        for cache_name in CACHES:
            self.configure(cache_name, DAY, None, None, None, 0)
        for _ in range(times):
            self.wait(DAY + 1)
            if self._may_collect():
                self.collect(None, begin=False)
            self.all_is_well()

    @precondition(lambda self: not self.works)
    @rule(
        base_names=_some_names,
        build=_builds,
        times=st.sampled_from([0, 1, 2, 2, 2, 3]),
        steps_of_push=st.sampled_from([0, 1, 2, 2, 2, 3, 3, 3, 4, 5, 7, 9]),  # 2 and 3: it knows numbers of chunks
        until=st.sampled_from(_ACTS_OF_COLLECTION),
    )
    def race(self, base_names: list[str], build: int, times: int, steps_of_push: int, until: str) -> None:
        """A push reuses the very chunks that are about to go, while a collection stands just before one of its acts."""
        main, side = CACHES
        self.push(main, base_names, build, one_pack=True, begin=False)
        self.push(side, base_names, build, one_pack=True, begin=True)
        (push,) = self.works
        for _ in range(steps_of_push):
            push.step()
        self.neglect(times)
        self.wait(DAY + 1)
        collection = self._begin_collection(None)
        while not collection.is_done and collection.at != until:
            collection.step()
        self.works.append(collection)
        self.all_is_well()
        for work in list(self.works):
            self._finish(work)
        self.works.clear()

    def _begin_collection(self, cache_name: str | None) -> ThreadWork:
        self.loop.run(self.access_times.flush())
        return ThreadWork("collection", lambda: self._collect(cache_name) and None)

    def _may_collect(self) -> bool:
        return not any(work.name == "collection" for work in self.works)

    def _collect(self, cache_name: str | None) -> CollectionReport:
        collector = Collector(
            self.collector_database,
            self.access_database,
            self.blobs,
            self.clock,
            started_by="a test",
            show_progress=lambda _: None,
        )
        return collector.collect(cache_name, is_dry_run=False)

    def _collect_and_compare(self, cache_name: str | None) -> None:
        """Collect while nothing else happens: the plan comes true to the byte, and so do all sizes."""
        self.loop.run(self.access_times.flush())
        request = RunRequest(cache_name, is_dry_run=True, actor=TESTER)
        before = self._look()
        was_altered = bool(self.altered)
        may_come_upon_damage = any(
            before.packs[chunk.pack_id].key in self.altered and not chunk.is_quarantined
            for chunk in before.chunks.values()
        )
        planned = run_collection(
            self.collector_database, self.access_database, self.blobs, self.clock, request, lambda _: None
        )
        assert self._look() == before, "a dry run changes nothing"
        for hold in planned.pins:
            cache_id = self.cache_rows[hold.cache].id
            kept = self.pins[hold.cache, hold.pin]
            names = {name for name, _ in kept.kept if (cache_id, name) in before.visible}
            held = [path for path in before.reach(cache_id, sorted(names)) if path.hidden_at is None]
            assert (hold.paths, hold.stored_bytes) == (len(held), before.size_of(held)), f"what {hold.pin} holds"
        done = self._collect(cache_name)
        after = self._look()
        note(f"{[len(mark.hidden) for mark in done.marks]} hidden, {done.sweeps}")
        assert done.marks == planned.report.marks
        new_bytes = sum(pack.size_bytes for pack in after.packs.values() if pack.key not in before.blobs)
        for sweep, plan in zip(done.sweeps, planned.report.sweeps, strict=True):
            if may_come_upon_damage:  # a copy may come upon a damaged frame, and be left
                assert sweep.compacted_packs <= plan.compacted_packs
                plan = _without_copies(plan)  # noqa: PLW2901
                sweep = _without_copies(sweep)  # noqa: PLW2901
            assert sweep == plan
        back = sum(sweep.deleted_bytes + sweep.stray_bytes for sweep in done.sweeps)
        if not was_altered:
            assert sum(before.blobs.values()) - sum(after.blobs.values()) == back - new_bytes, "bytes come back as told"
        for mark in done.marks:
            cache_id = self.cache_rows[mark.cache].id
            sizes = before.size(cache_id), after.size(cache_id)
            assert (mark.stored_bytes_before, mark.stored_bytes_after) == sizes
            assert after.caches[cache_id].stored_bytes == sizes[1], "the size of a cache is exact after its mark"
        known = {pack.key for pack in after.packs.values()}
        for info in self.blobs.list("packs/"):
            is_young = self.store.now - info.modified_at < GRACE_SECONDS
            assert info.key in known or is_young, f"{info.key} is old, and no row knows it"

    @precondition(lambda self: self.seen is not None and self.seen.visible)
    @rule(which=_which, with_referrers=st.booleans(), begin=_begin)
    def delete(self, which: int, *, with_referrers: bool, begin: bool) -> None:
        cache_name, base_name = self._choose(which, is_visible=True)
        self.do(f"deletion of {base_name}", self._delete(cache_name, base_name, with_referrers), begin=begin)

    async def _delete(self, cache_name: str, base_name: str, with_referrers: bool) -> None:  # noqa: FBT001
        with _client():
            row, hash_part = self.cache_rows[cache_name], THINGS[base_name].hash_part
            await self.trash.delete(row, hash_part, TESTER, with_referrers=with_referrers)

    @precondition(lambda self: self.seen is not None and len(self.seen.visible) < len(self.seen.paths))
    @rule(which=_which)
    def restore(self, which: int) -> None:
        cache_name, base_name = self._choose(which, is_visible=False)
        self.do(f"restoring {base_name}", self._restore(cache_name, base_name), begin=False)

    async def _restore(self, cache_name: str, base_name: str) -> None:
        with _client():
            await self.trash.restore(self.cache_rows[cache_name], THINGS[base_name].hash_part, TESTER)

    # Damage

    @rule(which=st.integers(0, 50), how=st.sampled_from(["alter", "cut", "lose"]), at=st.integers(0, 2_000_000))
    def damage(self, which: int, how: str, at: int) -> None:
        keys = sorted({pack.key for pack in self._look().packs.values()} - self.altered)
        if not keys:
            return
        key = keys[which % len(keys)]
        data = bytearray(self.store.read_blob(key))
        if how == "lose":
            self.blobs.delete(key)
        elif how == "cut":
            self.blobs.put(key, bytes(data[: at % len(data)]))
        else:
            data[at % len(data)] ^= 1
            self.blobs.put(key, bytes(data))
        self.altered.add(key)
        self.was_damaged = True

    @rule(cache_name=st.sampled_from([None, None, *CACHES]), metadata_only=st.booleans(), begin=_begin)
    def verify(self, cache_name: str | None, *, metadata_only: bool, begin: bool) -> None:
        options = VerifyOptions(cache=cache_name, is_metadata_only=metadata_only)
        was_alone = self.do("verification", self._verify(options), begin=begin)
        if was_alone and not metadata_only and cache_name is None:
            self._expect_sound()

    async def _verify(self, options: VerifyOptions) -> None:
        with _client():
            report = await self.verifier.verify(options, VerifyProgress())
            assert self.was_damaged or not report.findings, f"false alarm: {report.findings}"

    @precondition(lambda self: self.was_damaged)
    @rule(begin=_begin)
    def heal(self, *, begin: bool) -> None:
        self.do("repair", self._heal([]), begin=begin)

    async def _heal(self, failed: list[str]) -> None:
        with _client():
            failed += (await self.repair.repair(None, self.source_urls)).failed.values()

    # Time

    @rule(seconds=st.sampled_from([1, HOUR, 13 * HOUR, DAY + 1, DAY + 1, 8 * DAY, 31 * DAY]))
    def wait(self, seconds: int) -> None:
        self.store.now += seconds
        for pin in self.pins.values():
            pin.forget(self.store.now)

    # What must be true

    def _look(self) -> Look:
        return look(self.eye, self.blobs, self.altered, self.store.now)

    @invariant()
    def all_is_well(self) -> None:
        for path_id, now in self.store.uses:
            self.access_times.note(path_id, now)
        self.store.uses.clear()
        seen = self._look()
        self._check_rows(seen)
        self._check_closures(seen)
        self._check_pins(seen)
        if self.seen is not None:
            self._check_change(self.seen, seen)
            self.counts.update(changes(self.seen, seen))
        self.loop.run(self._check_reads(seen))
        if self.seen is None or self.seen.paths != seen.paths or self.seen.packs != seen.packs:
            self.loop.run(self._check_sizes(seen))
        self.seen = seen

    def _check_rows(self, seen: Look) -> None:
        """No row without bytes, and no NAR without rows."""
        for pack in seen.packs.values():
            assert pack.key in seen.altered or seen.blobs.get(pack.key) == pack.size_bytes, f"{pack.key} is not whole"
        for each in seen.nars.values():
            for number in each.chunks:
                assert number in seen.chunks, f"NAR {each.nar_hash.hex()} has lost chunk {number}"
        for chunk in seen.chunks.values():
            assert chunk.offset + chunk.stored_bytes <= seen.packs[chunk.pack_id].size_bytes

    def _check_closures(self, seen: Look) -> None:
        visible = seen.visible.keys() | seen.externals
        for (cache_id, base_name), path in seen.visible.items():
            for reference in path.references:
                assert (cache_id, reference) in visible, f"{base_name} is visible and {reference} is not"

    def _check_pins(self, seen: Look) -> None:
        for (cache_name, pin_name), pin in self.pins.items():
            cache_id = self.cache_rows[cache_name].id
            for base_name, _ in pin.kept:
                assert (cache_id, base_name) in seen.paths, f"{pin_name} keeps {base_name}, which is gone"
            for path in seen.reach(cache_id, [base_name for base_name, _ in pin.kept]):
                assert path.hidden_at is None or path.is_damaged, f"{pin_name} keeps {path}"
                for reference in path.references:
                    there = (cache_id, reference) in seen.paths or (cache_id, reference) in seen.externals
                    assert there, f"{pin_name} keeps {path.base_name}, and {reference} is gone"

    def _check_change(self, before: Look, after: Look) -> None:
        """Nothing goes before its time, and nothing appears that cannot be read."""
        for key, path in before.paths.items():
            if key not in after.paths:
                trash_seconds = after.caches[path.cache_id].trash_seconds
                assert path.hidden_at is not None, f"{path.base_name} was purged while it was visible"
                assert path.hidden_at + trash_seconds < after.now, f"{path.base_name} was purged before its time"
        hashes = {each.nar_hash for each in after.nars.values()}
        for each in before.nars.values():
            assert each.nar_hash in hashes or each.created_at + GRACE_SECONDS < after.now, "a NAR went before its time"
        keys = {pack.key for pack in after.packs.values()}
        for pack in before.packs.values():
            if pack.key not in keys:
                assert pack.condemned_at is not None, f"{pack.key} went, and was not condemned"
                assert pack.condemned_at + GRACE_SECONDS <= after.now, f"{pack.key} went before its time"
        for key, path in after.visible.items():
            if key not in before.visible:
                damaged = {number for number, chunk in before.chunks.items() if chunk.is_quarantined}
                still = {number for number, chunk in after.chunks.items() if chunk.is_quarantined} & damaged
                is_known = not still.isdisjoint(after.nars[path.nar_id].chunks)
                assert not is_known, f"{path.base_name} became visible, and was known to be damaged"

    async def _check_reads(self, seen: Look) -> None:
        for path in seen.visible.values():
            assert nix32.decode(path.nar_hash, 32) in known_nars()
            places = tuple((seen.packs[chunk.pack_id].key, chunk.offset) for chunk in seen.chunks_of(path))
            if (path, places) not in self.were_read and not seen.is_altered(path):
                await self.reader.check(path)
                self.were_read.add((path, places))

    async def _check_sizes(self, seen: Look) -> None:
        """What is told of sizes is what is there."""
        sizes = await self.database.read(load_sizes)
        packs = seen.packs.values()
        told = [(domain.packs, domain.pack_bytes, domain.chunks) for domain in sizes.domains]
        assert told == [(len(packs), sum(pack.size_bytes for pack in packs), len(seen.chunks))]
        for cache_sizes in sizes.caches:
            row = self.cache_rows[cache_sizes.cache_name]
            paths = [path for path in seen.paths.values() if path.cache_id == row.id]
            visible = [path for path in paths if path.hidden_at is None]
            nar_bytes = sum(path.nar_size for path in visible)
            assert replace(cache_sizes, last_push_at=None) == CacheSizes(
                row.name,
                visible_paths=len(visible),
                hidden_paths=len(paths) - len(visible),
                nar_bytes=nar_bytes,
                damaged_paths=sum(path.is_damaged for path in paths),
                stored_bytes=seen.caches[row.id].stored_bytes,
                cache_id=row.id,
            )
            size = await self.caches.measure_cache(row)
            assert (size.paths, size.nar_bytes, size.stored_bytes) == (len(visible), nar_bytes, seen.size(row.id))

    def _expect_visible(self, cache_name: str, base_names: Sequence[str]) -> None:
        seen = self._look()
        for base_name in base_names:
            assert (self.cache_rows[cache_name].id, base_name) in seen.visible, f"{base_name} was pushed"

    def _expect_sound(self) -> None:
        """After everything was read, no visible path is damaged."""
        seen = self._look()
        for path in seen.visible.values():
            assert not any(chunk.is_quarantined for chunk in seen.chunks_of(path)), f"{path.base_name} is damaged"
            self.loop.run(self.reader.check(path))

    # The end

    def _empty(self) -> None:
        """End all works, heal all damage, let go of everything: then nothing is left."""
        while self.works:
            self._finish(self.works.pop())
        self.all_is_well()
        self.do("the last verification", self._verify(VerifyOptions()), begin=False)
        failed: list[str] = []
        self.do("the last repair", self._heal(failed), begin=False)
        assert not failed
        self.all_is_well()
        self._expect_sound()
        while self.pins:
            self.unpin(0)
        for cache_name in CACHES:
            self.configure(cache_name, DAY, None, None, None, 0)
        for _ in range(5):
            self.wait(2 * DAY)
            self.collect(None, begin=False)
            self.all_is_well()
        seen = self._look()
        assert (seen.paths, seen.nars, seen.chunks, seen.packs, seen.blobs) == ({}, {}, {}, {}, {}), "nothing leaks"


@contextlib.contextmanager
def _client(refused: list[str] | None = None) -> Generator[None]:
    """A client that is told no goes away."""
    try:
        yield
    except IcehouseError as exc:
        note(f"refused: {exc}")
        if refused is not None:
            refused.append(str(exc))


def _without_copies(sweep: SweepReport) -> SweepReport:
    return SweepReport(
        **{name: 0 if name.startswith("compacted") else getattr(sweep, name) for name in sweep.__struct_fields__}
    )


def run_histories(machine: type[Lifecycle], *, runs: int, steps: int, **more: Any) -> None:  # noqa: ANN401  of `settings`
    """Look at so many histories of up to so many steps, all derived from the profile's seed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # damage is no news here
    unhealthy = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(max_examples=runs, stateful_step_count=steps, suppress_health_check=unhealthy, **more),
        )
    finally:
        structlog.reset_defaults()


class LocalLifecycle(Lifecycle):
    """The same over files."""

    has_local_blobs = True
