"""Weeks of a CI and its developers, on real services: what is pushed, pulled, pinned, evicted, and asked for again.

The model is made up and seeded; everything that decides or stores is the server's own: packs, NARs, publishing, pins,
access times and collections over a real database. A byte of it stands for 2 KiB, so that a chunk of a megabyte has 512
bytes; limits that are in bytes are to be scaled alike.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from backports.zstd import decompress
from sqlalchemy import Connection, func, select

from icehouse.api.collection import CollectionReport
from icehouse.api.pins import PinPut
from icehouse.api.publish import MissingRequest, NarBody, NarsRequest, PathBody, PathsRequest
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.cache_settings import set_settings
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_access_database
from icehouse.db.nars import find_nars
from icehouse.db.paths import find_visible
from icehouse.db.schema import cache as cache_table
from icehouse.db.schema import chunk, path, recipe
from icehouse.nix import nix32
from icehouse.nix.store_paths import HashPart
from icehouse.rules.chunks import CutChunk
from icehouse.rules.quotas import CacheSettings
from icehouse.rules.recipes import make_recipe, parse_runs, render_recipe
from icehouse.services.access_times import AccessTimes
from icehouse.services.collect import Collector
from icehouse.services.contents import Contents
from icehouse.services.pins import Pins
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import NOW, TESTER, Store, identity_of, nar_hash_of

SCALE: Final = 2 * 1024
"""Bytes that one byte of the model stands for."""

_DAY: Final = 86_400
_COLLECT_SECONDS: Final = 6 * 3600
_CHUNK_BYTES: Final = (256, 768)
_STORE_HASH_BYTES: Final = 32

_COLUMNS: Final = (
    *("day", "pulls", "whole", "paths found", "CI found", "pushed paths", "pushed", "evicted paths", "evicted"),
    *("purged paths", "visible paths", "size, at most", "size after", "all on disk"),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a history is."""

    days: int = 30
    builds_a_day: int = 200
    pulls_a_day: int = 480
    packages: int = 300
    apps: int = 40
    budget_bytes: int = 20 * 10**9
    trash_days: int = 7


@dataclass(frozen=True, slots=True)
class Package:
    """A node of the graph. References are to lower numbers, many of them to few."""

    number: int
    chunks: int
    references: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A package as one commit builds it."""

    base_name: str
    chunks: tuple[int, ...]
    """Seeds of its contents: a rebuild has the same, and another name."""
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """All packages, by number, as they are at one time."""

    built: tuple[Built, ...]
    made_at: int


@dataclass(slots=True)
class Day:
    """What happened on a day."""

    pushed_paths: int = 0
    pushed_bytes: int = 0
    """Of chunks that were new."""
    ci_asked: int = 0
    ci_found: int = 0
    asked: int = 0
    found: int = 0
    whole: int = 0
    """Pulls that found all they asked for, of `pulls`."""
    pulls: int = 0
    hidden_paths: int = 0
    evicted_bytes: int = 0
    purged_paths: int = 0
    visible_paths: int = 0
    size_bytes: int = 0
    """Of the cache after the last collection."""
    most_bytes: int = 0
    """Before a collection."""
    disk_bytes: int = 0
    """Of all chunks, those of the trash and of what is on its way out too."""


@dataclass(slots=True)
class Evictions:
    """What was evicted, counted in paths."""

    ages: list[int] = field(default_factory=list[int])
    """Days since it was pushed first."""
    idle: list[int] = field(default_factory=list[int])
    """Days since it was used last."""
    asked_again: int = 0
    """Times that developers asked for something that was pushed and is evicted."""


class Graph:
    """Packages, who refers to whom, and what commits do to them."""

    def __init__(self, shape: Shape, source: random.Random) -> None:
        self._source = source
        self._seeds = 0
        self.packages = [self._make(number, shape) for number in range(shape.packages)]
        self.apps = [shape.packages - 1 - number for number in range(shape.apps)]

    def _make(self, number: int, shape: Shape) -> Package:
        chunks = max(1, min(60, round(self._source.lognormvariate(1.5, 1.1))))
        if number >= shape.packages - shape.apps:
            chunks += 8
        lower = min(number, shape.packages - shape.apps)
        count = min(lower, self._source.randint(2, 6))
        references = {int(lower * self._source.random() ** 2) for _ in range(count)}
        return Package(number, chunks, tuple(sorted(references)))

    def begin(self, now: int) -> Commit:
        """The first commit."""
        built: list[Built] = []
        for package in self.packages:
            built.append(self._build(package, tuple(self._new_chunk() for _ in range(package.chunks)), built))
        return Commit(tuple(built), now)

    def change(self, parent: Commit, now: int) -> tuple[Commit, set[int]]:
        """A commit that changes a package or two, and which packages are built anew for it."""
        changed = {self._choose() for _ in range(self._source.choice((1, 1, 2)))}
        built = list(parent.built)
        rebuilt: set[int] = set()
        for package in self.packages:
            if package.number in changed:
                chunks = tuple(
                    self._new_chunk() if self._source.random() < 0.5 else seed for seed in built[package.number].chunks
                )
            elif rebuilt.intersection(package.references):
                chunks = built[package.number].chunks
                if self._source.random() < 0.1:  # something in it carries the time of the build
                    chunks = (*chunks[:-1], self._new_chunk())
            else:
                continue
            rebuilt.add(package.number)
            built[package.number] = self._build(package, chunks, built)
        return Commit(tuple(built), now), rebuilt

    def closure(self, tops: Iterable[int]) -> set[int]:
        """Packages that these reach, themselves too."""
        found: set[int] = set()
        waiting = list(tops)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting += self.packages[number].references
        return found

    def _choose(self) -> int:
        draw = self._source.random()
        if draw < 0.75:
            return self._source.choice(self.apps)
        return int(len(self.packages) * (self._source.random() if draw < 0.985 else self._source.random() ** 4))

    def _new_chunk(self) -> int:
        self._seeds += 1
        return self._seeds

    def _build(self, package: Package, chunks: tuple[int, ...], built: Sequence[Built]) -> Built:
        references = tuple(sorted(built[number].base_name for number in package.references))
        digest = hashlib.sha256(repr((package.number, chunks, references)).encode()).digest()
        return Built(f"{nix32.encode(digest[:20])}-package-{package.number}", chunks, references)


class History:
    """A cache with a budget, over simulated days."""

    def __init__(self, folder: Path, shape: Shape, seed: int) -> None:
        self.shape = shape
        self.days: list[Day] = []
        self.evictions = Evictions()
        self.pinned: dict[str, Built] = {}
        self._folder = folder
        self._source = random.Random(seed)
        self._graph = Graph(shape, self._source)
        self._now = NOW
        self._store = Store.open(folder, MemoryBlobStore(clock=lambda: self._now))
        prepare_access_database(folder / "access.db")
        self._access = Database.open(folder / "access.db", revision=ACCESS_REVISION)
        self._uses = AccessTimes(self._access)
        contents = Contents(self._store.database, self._store.nar_files, self._store.workers)
        self._pins = Pins(self._store.database, contents, clock=lambda: self._now)
        self._last_chunk = 0
        self._pushed_at: dict[str, int] = {}
        self._used_at: dict[str, int] = {}
        self._main: list[Commit] = []
        self._others: list[Commit] = []
        self._releases: list[Commit] = []
        self._weights = [1 / (rank + 1) ** 1.1 for rank in range(shape.apps)]

    async def close(self) -> None:
        """End everything."""
        await self._store.close()
        self._access.close()

    async def run(self) -> None:
        """All days, with everything checked at the end of each."""
        self._cache = await self._store.create_cache("team")
        budget = self.shape.budget_bytes // SCALE
        settings = CacheSettings(budget_bytes=budget, trash_seconds=self.shape.trash_days * _DAY)
        await self._store.database.write(partial(set_settings, cache_id=self._cache.id, settings=settings))
        self._day = Day()
        self._main.append(self._graph.begin(self._now))
        await self._build(self._main[0], set(range(self.shape.packages)))
        for day in range(self.shape.days):
            await self._pass_day(day)
            await self._check(budget)
            self.days.append(self._day)

    async def _pass_day(self, day: int) -> None:
        self._day = self._day if day == 0 else Day()
        begin = NOW + day * _DAY
        events = [
            *((begin + self._source.randrange(_DAY), "build") for _ in range(self.shape.builds_a_day)),
            *((begin + self._source.randrange(_DAY), "pull") for _ in range(self.shape.pulls_a_day)),
            *((begin + (part + 1) * _COLLECT_SECONDS, "collect") for part in range(_DAY // _COLLECT_SECONDS)),
        ]
        if day % 7 == 0:
            events.append((begin + _DAY // 2, "release"))
        for time, event in sorted(events):
            self._now = self._store.now = time
            match event:
                case "build":
                    await self._commit()
                case "pull":
                    await self._pull()
                case "release":
                    await self._release(day)
                case _:
                    await self._collect()

    async def _commit(self) -> None:
        """A third of builds are of the main branch; others of changes to one of its last commits."""
        is_main = self._source.random() < 1 / 3
        parent = self._main[-1] if is_main else self._source.choice(self._main[-5:])
        commit, rebuilt = self._graph.change(parent, self._now)
        (self._main if is_main else self._others).append(commit)
        await self._build(commit, rebuilt)

    async def _build(self, commit: Commit, rebuilt: set[int]) -> None:
        """Build the applications that have changed: pull what they need, and push their closures."""
        tops = [app for app in self._graph.apps if rebuilt & self._graph.closure([app])]
        closure = sorted(self._graph.closure(tops))
        there = await self._find([commit.built[number] for number in closure])
        needed = [commit.built[number] for number in closure if number not in rebuilt]
        self._day.ci_asked += len(needed)
        self._day.ci_found += sum(built.base_name in there for built in needed)
        hash_parts = [commit.built[number].base_name[:32] for number in closure]
        missing = set((await self._store.publisher.find_missing(self._cache, MissingRequest(hash_parts))).missing)
        for number in closure:
            self._used_at[commit.built[number].base_name] = self._now
        await self._push([commit.built[number] for number in closure if commit.built[number].base_name[:32] in missing])

    async def _push(self, paths: Sequence[Built]) -> None:
        if not paths:
            return
        chunks = {(built.base_name, seed): self._chunk(built, seed) for built in paths for seed in built.chunks}
        numbers = await self._store.send_chunks(self._cache, list(chunks.values()))
        new_bytes, self._last_chunk = await self._read(partial(_chunk_bytes, after=self._last_chunk))
        self._day.pushed_bytes += new_bytes
        bodies: list[NarBody] = []
        records: list[PathBody] = []
        for built in paths:
            own = [chunks[built.base_name, seed] for seed in built.chunks]
            nar = _nar(own)
            made = make_recipe((numbers[identity_of(each)] for each in own), (h for each in own for h in each.hashes))
            bodies.append(NarBody(nar_hash=nar_hash_of(nar), nar_size=len(nar), recipe=render_recipe(made)))
            records.append(
                PathBody(
                    store_path=built.base_name,
                    nar_hash=nar_hash_of(nar),
                    nar_size=len(nar),
                    references=list(built.references),
                )
            )
            self._pushed_at.setdefault(built.base_name, self._now)
        results = (await self._store.nars.register_nars(self._cache, NarsRequest(bodies))).results
        assert {result.state for result in results} == {"stored"}
        answer = await self._store.publisher.publish_paths(self._cache, PathsRequest(records), token_id=None)
        assert not answer.refused
        self._day.pushed_paths += len(answer.published)

    def _chunk(self, built: Built, seed: int) -> CutChunk:
        """The first one of a package holds its own store hash."""
        source = random.Random(seed)
        raw = source.randbytes(source.randrange(*_CHUNK_BYTES))
        if seed != built.chunks[0]:
            return CutChunk(raw, (), ())
        return CutChunk(bytes(_STORE_HASH_BYTES) + raw, (0,), (built.base_name[:32].encode(),))

    async def _pull(self) -> None:
        """A developer pulls an application: mostly of a recent commit, sometimes of a release."""
        draw = self._source.random()
        commits = self._main
        if draw < 0.1 and self._releases:
            commits = self._releases
        elif draw < 0.25 and self._others:
            commits = self._others
        made_after = self._now - self._source.expovariate(1 / (1.5 * _DAY))
        place = bisect_left(commits, made_after, key=lambda commit: commit.made_at)
        commit = (
            commits[min(place, len(commits) - 1)] if commits is not self._releases else self._source.choice(commits)
        )
        app = self._source.choices(self._graph.apps, self._weights)[0]
        wanted = [commit.built[number] for number in self._graph.closure([app])]
        wanted = [built for built in wanted if built.base_name in self._pushed_at]
        there = await self._find(wanted)
        self._day.pulls += 1
        self._day.asked += len(wanted)
        self._day.found += len(there)
        self._day.whole += len(there) == len(wanted)
        self.evictions.asked_again += len(wanted) - len(there)
        for base_name, path_id in there.items():
            self._uses.note(path_id, self._now)
            self._used_at[base_name] = self._now

    async def _release(self, day: int) -> None:
        """Pin all applications of the main branch."""
        commit = self._main[-1]
        closure = [commit.built[number] for number in sorted(self._graph.closure(self._graph.apps))]
        await self._push([built for built in closure if built.base_name not in await self._find(closure)])
        for app in self._graph.apps:
            request = PinPut(store_path=commit.built[app].base_name)
            await self._pins.put_pin(self._cache, f"release-{day}-{app}", request, TESTER)
        self.pinned |= {built.base_name: built for built in closure}
        self._releases.append(commit)

    async def _collect(self) -> None:
        for path_id, time in self._store.uses:
            self._uses.note(path_id, time)
        self._store.uses.clear()
        await self._uses.flush()
        report = await self._store.workers.run(self._collect_now)
        (mark,), (sweep,) = report.marks, report.sweeps
        for hidden in mark.hidden:
            self.evictions.ages.append((self._now - self._pushed_at[hidden.store_path]) // _DAY)
            self.evictions.idle.append((self._now - self._used_at[hidden.store_path]) // _DAY)
        self._day.hidden_paths += len(mark.hidden)
        self._day.evicted_bytes += mark.stored_bytes_before - mark.stored_bytes_after
        self._day.purged_paths += sweep.purged_paths
        self._day.size_bytes = mark.stored_bytes_after
        self._day.most_bytes = max(self._day.most_bytes, mark.stored_bytes_before)

    def _collect_now(self) -> CollectionReport:
        collector = Collector(
            self._store.database,
            self._access,
            self._store.blobs,
            lambda: self._now,
            started_by="a simulation",
            show_progress=lambda _: None,
        )
        planned = collector.collect(None, is_dry_run=True)
        done = collector.collect(None, is_dry_run=False)
        assert done.marks == planned.marks, "a plan says what the collection does"
        return done

    async def _check(self, budget: int) -> None:
        """What must be true of the cache, found out from its rows."""
        visible = await self._read(partial(_load_visible, cache_id=self._cache.id))
        broken = [name for name, references, _ in visible.values() for each in references if each[:32] not in visible]
        assert broken == []
        lost = [name for name in self.pinned if name[:32] not in visible]
        assert lost == []
        size = await self._read(partial(_measure, nar_ids={nar_id for _, _, nar_id in visible.values()}))
        stored = await self._read(partial(_stored_bytes, cache_id=self._cache.id))
        assert size == stored == self._day.size_bytes, "nothing was pushed since the last collection of the day"
        assert size <= budget
        self._day.visible_paths = len(visible)
        self._day.disk_bytes, _ = await self._read(_chunk_bytes)

    async def check_contents(self, count: int) -> int:
        """Read *count* of what is visible, and all that is pinned, back and hash it; how many that were."""
        visible = await self._read(partial(_load_visible, cache_id=self._cache.id))
        names = self._source.sample(sorted(visible), min(count, len(visible)))
        chosen = {*names, *(name[:32] for name in self.pinned)}
        for hash_part in chosen:
            nar_id = visible[hash_part][2]
            file = await self._store.nar_files.open_nar(nar_id)
            data = b"".join([bytes(block) async for block in file.blocks(0, file.file_size)])
            digest = hashlib.sha256(decompress(data)).digest()
            found = await self._read(partial(find_nars, domain_id=self._cache.domain_id, nar_hashes=[digest]))
            assert [row.id for row in found.values()] == [nar_id]
        return len(chosen)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._store.database.read(work)

    async def _find(self, wanted: Iterable[Built]) -> dict[str, int]:
        """Those that are visible, with their ids."""
        by_part = {HashPart(built.base_name[:32]): built.base_name for built in wanted}
        found = await self._read(partial(find_visible, cache_id=self._cache.id, hash_parts=list(by_part)))
        return {by_part[hash_part]: path_id for hash_part, path_id in found.items()}


def _nar(chunks: Sequence[CutChunk]) -> bytes:
    """What a recipe of these chunks gives."""
    pieces: list[bytes] = []
    for each in chunks:
        piece = bytearray(each.raw)
        for position, store_hash in zip(each.positions, each.hashes, strict=True):
            piece[position : position + len(store_hash)] = store_hash
        pieces.append(bytes(piece))
    return b"".join(pieces)


def _chunk_bytes(connection: Connection, after: int = 0) -> tuple[int, int]:
    """Stored bytes of the chunks with higher numbers than *after*, and the last of these numbers."""
    sums = select(func.coalesce(func.sum(chunk.c.stored_bytes), 0), func.coalesce(func.max(chunk.c.number), after))
    stored_bytes, last = connection.execute(sums.where(chunk.c.number > after)).one()
    return stored_bytes, last


def _stored_bytes(connection: Connection, cache_id: int) -> int:
    return connection.execute(select(cache_table.c.stored_bytes).where(cache_table.c.id == cache_id)).scalar_one()


def _load_visible(connection: Connection, cache_id: int) -> dict[str, tuple[str, list[str], int]]:
    """By hash part: base name, references, NAR."""
    rows = connection.execute(
        select(path.c.hash_part, path.c.name, path.c.references, path.c.nar_id).where(
            path.c.cache_id == cache_id, path.c.hidden_at.is_(None)
        )
    )
    return {row.hash_part: (f"{row.hash_part}-{row.name}", row.references.split(), row.nar_id) for row in rows}


def _measure(connection: Connection, nar_ids: set[int]) -> int:
    """Stored bytes of the distinct chunks of these NARs."""
    wanted: set[int] = set()
    for nar_id, body in connection.execute(select(recipe.c.nar_id, recipe.c.body)):
        if nar_id in nar_ids:
            for run in parse_runs(body):
                wanted.update(range(run.first, run.first + run.count))
    rows = connection.execute(select(chunk.c.number, chunk.c.stored_bytes))
    return sum(row.stored_bytes for row in rows if row.number in wanted)


def render_history(history: History) -> str:
    """The days as a table, and what was evicted."""
    shape = history.shape
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'----:|' * len(_COLUMNS)}"]
    for number, day in enumerate(history.days, 1):
        values = (
            *(number, day.pulls, _share(day.whole, day.pulls), _share(day.found, day.asked)),
            *(_share(day.ci_found, day.ci_asked), day.pushed_paths, _size(day.pushed_bytes), day.hidden_paths),
            *(_size(day.evicted_bytes), day.purged_paths, day.visible_paths, _size(day.most_bytes)),
            *(_size(day.size_bytes), _size(day.disk_bytes)),
        )
        lines.append("| " + " | ".join(str(value) for value in values) + " |")
    total = Day()
    for name in ("pushed_paths", "pushed_bytes", "ci_asked", "ci_found", "asked", "found", "whole", "pulls"):
        setattr(total, name, sum(getattr(day, name) for day in history.days))
    evictions = history.evictions
    lines += (
        "",
        (
            f"{shape.days} days of {shape.builds_a_day} builds and {shape.pulls_a_day} pulls under a budget of "
            f"{shape.budget_bytes / 1e9:g} GB: {total.pushed_paths:,} paths, {_size(total.pushed_bytes)} pushed."
        ),
        (
            f"Developers found {_share(total.found, total.asked)} of the paths that they asked for, and all of them in "
            f"{_share(total.whole, total.pulls)} of their pulls; CI found {_share(total.ci_found, total.ci_asked)}."
        ),
        (
            f"Evicted: {len(evictions.ages):,} paths. Days since their push: {_quantiles(evictions.ages)}. Since their "
            f"last use: {_quantiles(evictions.idle)}. Asked for again: {evictions.asked_again:,} times."
        ),
        f"Pinned: {len(history.pinned):,} paths, none lost.",
    )
    return "\n".join(lines)


def _size(scaled: int) -> str:
    return f"{scaled * SCALE / 1e9:.2f} GB"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _quantiles(values: Sequence[int]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] for percent in (0, 10, 50, 90)]
    return f"{at[0]} at least, {at[1]} (10 %), {at[2]} (median), {at[3]} (90 %), {ordered[-1]} at most"
