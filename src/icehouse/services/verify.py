"""Verification: everything is read back, and what is damaged is reported, quarantined and hidden."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from blake3 import blake3
from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, get_cache, list_caches
from icehouse.db.chunks import ChunkRow, load_chunks
from icehouse.db.collection import PackRow, list_packs
from icehouse.db.engine import Database
from icehouse.db.keys import list_keys
from icehouse.db.nars import NarRow
from icehouse.db.verification import (
    HitPath,
    NarFact,
    PathFact,
    find_packs_of_chunks,
    find_paths_of_nars,
    list_domains,
    load_nar,
    load_pack_chunks,
    page_of_nars,
    page_of_path_facts,
    set_file,
)
from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.hashes import parse_sha256, render_sha256
from icehouse.nix.signing import PathInfo, PublicKey, Signature, fingerprint
from icehouse.nix.store_paths import StorePath
from icehouse.rules.chunks import max_chunks
from icehouse.rules.recipes import Recipe, parse_recipe
from icehouse.rules.verification import INCOMPLETE, ROWS_WRONG, UNREADABLE, Fault, Finding, check_recipe
from icehouse.services.damage import Damage, Hidden
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.verify_bytes import NarState, PackState, examine_pack, hash_nar, keep_on
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore
from icehouse.storage.nars import pack_key

RECENT_BYTES: Final = 128 * 1024 * 1024
"""Decoded chunks that are kept for the NARs that share them: NARs are read in the order of their chunks."""

AT_ONCE: Final = 3
"""Packs, or NARs, that are read at a time: some 40 MiB each."""

_MAX_FINDINGS: Final = 10_000  # that a report lists; more are counted
_DAMAGE_BATCH: Final = 20_000  # damaged chunks that are held before they are marked

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What to verify."""

    cache: str | None = None
    """Only what this cache's paths need; `None`: everything."""
    fraction: float = 1.0
    """How much of the packs and NARs to read, chosen by *salt*. Rows are all looked at."""
    salt: bytes = b""
    is_metadata_only: bool = False
    """Read no frames: sizes and indexes of packs, and rows."""


@dataclass(slots=True)
class VerifyProgress:
    """What was looked at so far, for whoever watches."""

    packs: int = 0
    packs_total: int = 0
    pack_bytes: int = 0
    nars: int = 0
    nars_total: int = 0
    nar_bytes: int = 0
    nar_bytes_total: int = 0
    paths: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found."""

    packs: int
    pack_bytes: int
    nars: int
    nar_bytes: int
    paths: int
    findings: list[Finding]
    """At most 10,000."""
    finding_count: int
    hidden: list[str]
    """Paths that were hidden since their own NAR is damaged, as `<cache>/<base name>`."""
    hidden_referrers: dict[str, str]
    """Paths that were hidden since they reach a damaged one, with that one's base name."""
    restored: list[str]
    """Paths that earlier damage hid and that are whole again."""


@dataclass(slots=True)
class Findings:
    """What a verification found so far, and what it hid."""

    findings: list[Finding] = field(default_factory=list[Finding])
    count: int = 0
    hidden: list[str] = field(default_factory=list[str])
    referrers: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, fault: Fault, place: str, detail: str, paths: Iterable[str] = ()) -> None:
        """Note what is wrong."""
        self.count += 1
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(Finding(fault, place, detail, tuple(paths)))

    def add_hidden(self, hidden: Hidden) -> None:
        """Note what was hidden."""
        self.hidden += [place for places in hidden.damaged.values() for place in places]
        self.referrers |= hidden.referrers


class Verifier:
    """Verifies a server's store. Any number of servers may run beside it."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        clock: Callable[[], int],
        *,
        keep_on: Callable[[], None] = keep_on,
    ) -> None:
        """Join the parts. *clock* gives seconds since the epoch; *keep_on* may raise in a thread to end a long NAR."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._keep_on = keep_on
        self._damage = Damage(database, clock)

    async def verify(self, options: VerifyOptions, progress: VerifyProgress) -> VerifyReport:
        """Look at rows and objects, and, unless only metadata is asked for, read all bytes back.

        In this order: packs with their chunks' rows; recipes; NARs, those together that share chunks; paths. What is
        damaged is marked as it is found. No transaction outlives one page of rows.

        Raises:
            NotFound: there is no such cache.
            Unavailable, Corrupt: the database or the backend failed; the damage that was found is marked.
        """
        found = Findings()
        caches = await self._database.read(partial(_load_caches, name=options.cache))
        if options.cache is None:
            domains = await self._database.read(list_domains)
        else:
            domains = [caches[0].domain_id]
        recent = RecentChunks(RECENT_BYTES)
        for domain_id in domains:
            scope = caches[0].id if options.cache is not None else None
            await self._verify_packs(domain_id, scope, options, progress, found)
            order = await self._verify_recipes(domain_id, scope, options, progress, found)
            await self._verify_nars(order, recent, progress, found)
        for cache in caches:
            after = 0
            while (page := await self.verify_page(cache, after, found)) is not None:
                after = page[0]
                progress.paths += page[1]
        restored = await self._damage.restore_healed()
        return VerifyReport(
            packs=progress.packs,
            pack_bytes=progress.pack_bytes,
            nars=progress.nars,
            nar_bytes=progress.nar_bytes,
            paths=progress.paths,
            findings=found.findings,
            finding_count=found.count,
            hidden=sorted(found.hidden),
            hidden_referrers=dict(sorted(found.referrers.items())),
            restored=sorted(restored),
        )

    async def check_pack(self, domain_id: int, pack: PackRow, *, is_deep: bool) -> PackState:
        """Compare one pack with its rows. One that was condemned, deleted or compacted meanwhile has no faults."""
        load = partial(load_pack_chunks, pack_id=pack.id, name=pack.name)
        while True:
            rows = await self._database.read(load)
            if not rows:
                return PackState([], [], 0)
            state = await self._workers.run(
                partial(examine_pack, self._blobs, domain_id, pack.name, rows, is_deep=is_deep)
            )
            if not state.faults or await self._database.read(load) == rows:
                return state

    async def check_nar(self, nar_id: int, recent: RecentChunks) -> tuple[NarRow, NarState] | None:
        """Put one NAR together and hash it. `None`: it was deleted, or there is nothing that could be hashed.

        What its file is now is noted where it is another one than the row says.
        """
        while True:
            loaded = await self._database.read(partial(_load_nar, nar_id=nar_id))
            if loaded is None:
                return None
            row, recipe, chunks = loaded
            hash_it = partial(hash_nar, self._blobs, row, recipe, chunks, recent, keep_on=self._keep_on)
            state = await self._workers.run(hash_it)
            if state.is_right:
                if (state.file_hash, state.file_size) != (row.file_hash, row.file_size):
                    await self._database.write(partial(_note_file, expected=loaded, state=state))
                return row, state
            if await self._database.read(partial(_load_nar, nar_id=nar_id)) == loaded:
                return row, state

    async def _verify_packs(
        self, domain_id: int, cache_id: int | None, options: VerifyOptions, progress: VerifyProgress, found: Findings
    ) -> None:
        packs = await self._database.read(partial(list_packs, domain_id=domain_id))
        if cache_id is not None:
            needed = await self._find_needed_packs(domain_id, cache_id)
            packs = [pack for pack in packs if pack.id in needed]
        packs = [pack for pack in packs if pack.condemned_at is None and _is_chosen(options, pack.name)]
        progress.packs_total += len(packs)
        damaged: list[ChunkRow] = []
        check = partial(self.check_pack, domain_id, is_deep=not options.is_metadata_only)
        async with aclosing(map_at_once(check, packs)) as checked:
            async for pack, state in checked:
                progress.packs += 1
                progress.pack_bytes += state.read_bytes
                _add_faults(found, domain_id, pack, state)
                damaged += state.damaged
                if len(damaged) >= _DAMAGE_BATCH:
                    found.add_hidden(await self._damage.note(domain_id, damaged))
                    damaged = []
        if damaged:
            found.add_hidden(await self._damage.note(domain_id, damaged))

    async def _find_needed_packs(self, domain_id: int, cache_id: int) -> set[int]:
        needed: set[int] = set()
        after = 0
        while page := await self._database.read(
            partial(page_of_nars, domain_id=domain_id, cache_id=cache_id, after=after)
        ):
            after = page[-1].row.id
            runs = [run for fact in page if (recipe := _parse(fact)) is not None for run in recipe.runs]
            needed |= await self._database.read(partial(find_packs_of_chunks, domain_id=domain_id, runs=runs))
        return needed

    async def _verify_recipes(
        self, domain_id: int, cache_id: int | None, options: VerifyOptions, progress: VerifyProgress, found: Findings
    ) -> list[int]:
        """Compare recipes with the rows of their chunks; the NARs to read, those together that share chunks."""
        first_chunks, nar_ids = array("Q"), array("Q")
        after = 0
        while page := await self._database.read(
            partial(_page_of_checked, domain_id=domain_id, cache_id=cache_id, after=after)
        ):
            after = page[-1].row.id
            for nar in page:
                is_wanted = nar.fault is None and not options.is_metadata_only
                if is_wanted and _is_chosen(options, nar.row.nar_hash):
                    first_chunks.append(nar.first_chunk)
                    nar_ids.append(nar.row.id)
                    progress.nar_bytes_total += nar.row.nar_size
            await self._note_recipes(page, found)
        progress.nars_total += len(nar_ids)
        return [nar_ids[index] for index in sorted(range(len(nar_ids)), key=first_chunks.__getitem__)]

    async def _verify_nars(
        self, nar_ids: Sequence[int], recent: RecentChunks, progress: VerifyProgress, found: Findings
    ) -> None:
        async with aclosing(map_at_once(partial(self.check_nar, recent=recent), nar_ids)) as results:
            async for _, checked in results:
                progress.nars += 1
                if checked is None:
                    continue
                row, state = checked
                progress.nar_bytes += row.nar_size
                await self._note_nar(row, state, found)

    async def _note_nar(self, row: NarRow, state: NarState, found: Findings) -> None:
        if state.is_right:
            return
        if state.damaged:
            fault, detail = Fault.NAR_UNREADABLE, f"{len(state.damaged)} of its chunks are damaged"
            hidden = await self._damage.note(row.domain_id, state.damaged)
        else:
            fault, detail = Fault.NAR_ALTERED, "its chunks are sound, and its recipe gives another hash"
            hidden = await self._damage.note(row.domain_id, [], nars={row.id: ROWS_WRONG})
        found.add(fault, f"NAR {render_sha256(row.nar_hash)}", detail, hidden.damaged.get(row.id, ()))
        found.add_hidden(hidden)

    async def verify_pack(self, domain_id: int, pack: PackRow, found: Findings) -> int:
        """Verify one pack and mark what is damaged; how many bytes were read."""
        state = await self.check_pack(domain_id, pack, is_deep=True)
        _add_faults(found, domain_id, pack, state)
        if state.damaged:
            found.add_hidden(await self._damage.note(domain_id, state.damaged))
        return state.read_bytes

    async def verify_nar(self, nar_id: int, recent: RecentChunks, found: Findings) -> None:
        """Verify one NAR with its recipe, and mark what is damaged."""
        nar = await self._database.read(partial(_check_one, nar_id=nar_id))
        if nar is not None and nar.fault is not None:
            await self._note_recipes([nar], found)
            return
        checked = await self.check_nar(nar_id, recent)
        if checked is not None:
            await self._note_nar(*checked, found)

    async def verify_page(self, cache: CacheRow, after: int, found: Findings) -> tuple[int, int] | None:
        """Verify the next paths of a cache after that id, and hide those that are broken.

        Returns:
            The last one's id, and how many they are. `None`: there are no more.
        """
        keys = [key.public_key for key in await self._database.read(partial(list_keys, cache_id=cache.id))]
        page = await self._database.read(partial(page_of_path_facts, cache_id=cache.id, after=after))
        if not page.paths:
            return None
        unusable: dict[int, str] = {}
        for fact, fault, detail in await self._workers.run(partial(_check_paths, page.paths, page.there, cache, keys)):
            place = f"{cache.name}/{fact.base_name}"
            found.add(fault, place, detail, [place])
            if fault is not Fault.SIGNATURE_WRONG:
                unusable[fact.id] = INCOMPLETE if fault is Fault.CLOSURE_BROKEN else ROWS_WRONG
        if unusable:
            found.add_hidden(await self._damage.note(cache.domain_id, [], paths=unusable))
        return page.paths[-1].id, len(page.paths)

    async def restore_healed(self) -> list[str]:
        """See `Damage.restore_healed`."""
        return await self._damage.restore_healed()

    async def _note_recipes(self, nars: Sequence[_CheckedNar], found: Findings) -> None:
        broken: dict[int, str] = {}
        for nar in nars:
            if nar.fault is not None:
                place = f"NAR {render_sha256(nar.row.nar_hash)}"
                found.add(nar.fault, place, nar.detail, [path.place for path in nar.paths])
                broken[nar.row.id] = UNREADABLE if nar.fault is Fault.NAR_UNREADABLE else ROWS_WRONG
        if broken:
            found.add_hidden(await self._damage.note(nars[0].row.domain_id, [], nars=broken))


def _add_faults(found: Findings, domain_id: int, pack: PackRow, state: PackState) -> None:
    for fault, detail in state.faults:
        found.add(fault, pack_key(domain_id, pack.name), detail)


def _load_caches(connection: Connection, name: str | None) -> Sequence[CacheRow]:
    return list_caches(connection) if name is None else [get_cache(connection, name)]


def _is_chosen(options: VerifyOptions, name: bytes) -> bool:
    if options.fraction >= 1:
        return True
    drawn = int.from_bytes(blake3(options.salt + name).digest(8), "big")
    return drawn < options.fraction * 2**64


def _parse(fact: NarFact) -> Recipe | None:
    try:
        return None if fact.recipe is None else parse_recipe(fact.recipe, max_chunks=max_chunks(fact.row.nar_size))
    except InvalidFormat:
        return None


@dataclass(frozen=True, slots=True)
class _CheckedNar:
    row: NarRow
    first_chunk: int
    fault: Fault | None
    detail: str
    paths: Sequence[HitPath]
    """Those that a fault hits."""


def _page_of_checked(connection: Connection, domain_id: int, cache_id: int | None, after: int) -> list[_CheckedNar]:
    """The next NARs, each with what is wrong with its recipe."""
    return [_check_recipe(connection, fact) for fact in page_of_nars(connection, domain_id, cache_id, after)]


def _check_one(connection: Connection, nar_id: int) -> _CheckedNar | None:
    fact = load_nar(connection, nar_id)
    return None if fact is None else _check_recipe(connection, fact)


def _check_recipe(connection: Connection, fact: NarFact) -> _CheckedNar:
    recipe = _parse(fact)
    if recipe is None:
        fault = Fault.RECIPE_BROKEN, "its recipe is gone or cannot be read"
    else:
        fault = check_recipe(recipe, fact.row.nar_size, load_chunks(connection, fact.row.domain_id, recipe.runs))
    first = recipe.runs[0].first if recipe is not None and recipe.runs else 0
    paths = [] if fault is None else find_paths_of_nars(connection, [fact.row.id])
    return _CheckedNar(fact.row, first, *(fault or (None, "")), paths)


def _load_nar(connection: Connection, nar_id: int) -> tuple[NarRow, Recipe, dict[int, ChunkRow]] | None:
    fact = load_nar(connection, nar_id)
    recipe = None if fact is None else _parse(fact)
    if fact is None or recipe is None:
        return None
    chunks = load_chunks(connection, fact.row.domain_id, recipe.runs)
    return None if check_recipe(recipe, fact.row.nar_size, chunks) else (fact.row, recipe, chunks)


def _note_file(connection: Connection, expected: tuple[NarRow, Recipe, dict[int, ChunkRow]], state: NarState) -> None:
    row = expected[0]
    if _load_nar(connection, row.id) == expected:
        text = nix32.encode(state.file_hash)
        set_file(connection, row.id, file_hash=state.file_hash, file_hash_text=text, file_size=state.file_size)


def _check_paths(
    facts: Sequence[PathFact], there: frozenset[str], cache: CacheRow, keys: Sequence[PublicKey]
) -> list[tuple[PathFact, Fault, str]]:
    faults: list[tuple[PathFact, Fault, str]] = []
    for fact in facts:
        absent = [text for text in fact.references.split() if text[:32] not in there]
        if absent:
            faults.append((fact, Fault.CLOSURE_BROKEN, f"its reference {absent[0]} is neither visible nor external"))
        real = fact.real
        if (fact.nar_hash, fact.nar_size) != (nix32.encode(real.nar_hash), real.nar_size):
            faults.append((fact, Fault.PATH_DISAGREES, f"its row says NAR {fact.nar_hash} of {fact.nar_size} bytes"))
            continue
        try:
            wrong = _find_wrong_signature(fact, cache, keys)
        except InvalidFormat as exc:
            faults.append((fact, Fault.PATH_DISAGREES, f"its row cannot be read: {exc}"))
            continue
        if wrong is not None:
            faults.append((fact, Fault.SIGNATURE_WRONG, f"the signature of {wrong.key_name} is none of that key"))
    return faults


def _find_wrong_signature(fact: PathFact, cache: CacheRow, keys: Sequence[PublicKey]) -> Signature | None:
    references = tuple(StorePath.parse(text) for text in fact.references.split())
    info = PathInfo(StorePath.parse(fact.base_name), parse_sha256(f"sha256:{fact.nar_hash}"), fact.nar_size, references)
    text = fingerprint(info, cache.store_dir)
    for signature in (Signature.parse(each) for each in fact.signatures.split()):
        same_name = [key for key in keys if key.key_name == signature.key_name]
        if same_name and not any(key.verify(text, signature) for key in same_name):
            return signature
    return None


async def map_at_once(work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> AsyncGenerator[tuple[T, R]]:
    """The results of *work* on each item, in order, `AT_ONCE` of them at a time."""
    waiting: list[tuple[T, asyncio.Task[R]]] = []
    todo = iter(items)
    try:
        while True:
            for item in todo:
                waiting.append((item, asyncio.ensure_future(work(item))))
                if len(waiting) >= AT_ONCE:
                    break
            if not waiting:
                return
            item, task = waiting[0]
            result = await task
            del waiting[0]
            yield item, result
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
