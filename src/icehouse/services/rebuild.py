"""Making the database again from the packs' own indexes and the journal."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from icehouse.db.cache_settings import load_required_keys, set_required_keys
from icehouse.db.caches import CacheRow, find_cache, insert_cache, next_generation
from icehouse.db.chunks import ChunkRow
from icehouse.db.debug_files import put_debug_files
from icehouse.db.engine import Database
from icehouse.db.files import file_errors, read_small_file, sync_folder, write_private_file
from icehouse.db.keys import insert_key
from icehouse.db.nars import NarRow, find_nars, put_nar
from icehouse.db.paths import (
    ExternalRow,
    PathRow,
    add_external,
    load_externals,
    load_paths,
    parse_references,
    put_paths,
)
from icehouse.db.rebuilding import (
    add_found_pack,
    find_named_chunks,
    has_pack,
    newest_path_time,
    put_domain,
    put_upstream,
)
from icehouse.db.verification import find_there
from icehouse.errors import Corrupt, InvalidFormat, NotFound
from icehouse.nix import nix32
from icehouse.nix.debug_info import DebugInfoSign, find_build_ids
from icehouse.nix.signing import SEED_BYTES, PathInfo, PublicKey, SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import HashPart, StoreDir, StorePath
from icehouse.rules.access import parse_cache_name
from icehouse.rules.closures import merge_signatures
from icehouse.rules.journal import JournalEntry, JournalExternal, JournalNar, JournalPath, parse_journal_entry
from icehouse.rules.rebuilding import NarParts, ToldCache, journal_begin, next_key_name, note_entry, take_apart
from icehouse.rules.recipes import Recipe, make_recipe, render_recipe
from icehouse.services.caches import DEFAULT_UPSTREAM, key_name
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.signing import NONCE_BYTES, Sealer, Signer
from icehouse.services.verify import map_at_once
from icehouse.services.verify_bytes import ReadPack, hash_nar, read_pack
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.nar_contents import NarContents, read_structure

_PACK_KEY: Final = re.compile(r"packs/([0-9]{1,18})/[0-9a-f]{2}/([0-9a-f]{64})")
_JOURNAL_KEY: Final = re.compile(r"journal/([0-9]{1,18})/([0-9]{1,18})-[0-9a-f]+")
_MAX_LOST: Final = 10_000  # that a report lists; more are counted
_MAX_JOURNAL_BYTES: Final = 1024**3
_RECENT_BYTES: Final = 128 * 1024 * 1024
_PRIORITY: Final = 41


@dataclass(slots=True)
class RebuildProgress:
    """What was done so far, for whoever watches."""

    packs: int = 0
    chunks: int = 0
    entries: int = 0
    entries_total: int = 0
    nars: int = 0
    nar_bytes: int = 0
    paths: int = 0


@dataclass(frozen=True, slots=True)
class NewCache:
    """A cache that was made again."""

    name: str
    is_public: bool
    public_key: str
    """Of its new key: the old one cannot be made again."""
    upstreams_without_keys: list[str]
    """Upstreams whose keys nobody knows any more."""


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild added."""

    packs: int = 0
    chunks: int = 0
    nars: int = 0
    paths: int = 0
    caches: list[NewCache] = field(default_factory=list[NewCache])
    required_keys: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Caches that demand other signatures than the database said, with the keys; none: no signature is demanded."""
    damaged_objects: list[str] = field(default_factory=list[str])
    """Packs and objects of the journal that could not be read whole, with the reason."""
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """Paths of the journal that did not come back, as `<cache>/<base name>`, with the reason. At most 10,000."""
    lost_count: int = 0
    """How many they are; of more than are listed, one that the journal names several times counts as often."""


@dataclass(frozen=True, slots=True)
class _JournalObject:
    time: int
    key: BlobKey
    domain_id: int


@dataclass(frozen=True, slots=True)
class _KeptNar:
    row: NarRow
    recipe: Recipe
    build_ids: Sequence[bytes]


class Rebuild:
    """Adds to a database what its objects tell and it lacks. No server uses the folder meanwhile.

    Repeating it adds nothing. After a crash it is repeated: *marker* remembers from where on the journal is read.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        sealer: Sealer,
        *,
        marker: Path,
        public_url: str,
        clock: Callable[[], int],
        draw: Callable[[int], bytes],
    ) -> None:
        """*draw* gives so many random bytes, fit for secrets."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._sealer = sealer
        self._signer = Signer(database, sealer)
        self._marker = marker
        self._public_url = public_url
        self._clock = clock
        self._draw = draw
        self._recent = RecentChunks(_RECENT_BYTES)

    async def run(self, progress: RebuildProgress) -> RebuildReport:
        """Add packs and their chunks; then caches; then, in the order of the journal, NARs, externals and paths.

        Every NAR is put together and hashed before it counts. Every path has what it refers to before it is visible.

        Raises:
            StorageError: the database or the backend failed; repeat it.
        """
        report = RebuildReport()
        begin = await self._remember_begin()
        await self._add_packs(progress, report)
        objects = await self._workers.run(partial(_list_journal, self._blobs, begin))
        progress.entries_total = len(objects)
        caches = await self._add_caches(objects, report)
        deferred: list[_JournalObject] = []
        for each in objects:
            if not await self._add_entry(each, caches, progress, report):
                deferred.append(each)
            progress.entries += 1
        before = -1
        while deferred and report.paths > before:  # What refers to a path that came later, by another clock.
            before = report.paths
            deferred = [each for each in deferred if not await self._add_entry(each, caches, progress, report)]
        report.lost_count += len(report.lost)
        with file_errors(self._marker):
            self._marker.unlink(missing_ok=True)
            sync_folder(self._marker.parent)
        return report

    async def _remember_begin(self) -> int:
        with file_errors(self._marker):
            found = read_small_file(self._marker)
            if found is not None:
                return int(found)
            begin = journal_begin(await self._database.read(newest_path_time))
            write_private_file(self._marker, b"%d" % begin)
            return begin

    async def _add_packs(self, progress: RebuildProgress, report: RebuildReport) -> None:
        async with aclosing(map_at_once(self._read_pack, self._list_packs())) as packs:
            async for (domain_id, name), pack in packs:
                progress.packs += 1
                if isinstance(pack, str):
                    report.damaged_objects.append(f"pack {name.hex()}: {pack}")
                if not isinstance(pack, ReadPack):
                    continue
                if not pack.is_whole:
                    report.damaged_objects.append(f"pack {name.hex()}: altered; {len(pack.entries)} chunks are sound")
                added = await self._database.write(
                    partial(
                        add_found_pack,
                        domain_id=domain_id,
                        name=name,
                        size_bytes=pack.size_bytes,
                        entries=pack.entries,
                        now=self._clock(),
                    )
                )
                report.packs += 1
                report.chunks += added
                progress.chunks += added

    def _list_packs(self) -> Iterable[tuple[int, bytes]]:
        for info in self._blobs.list("packs/"):
            match = _PACK_KEY.fullmatch(info.key)
            if match is not None:
                yield int(match[1]), bytes.fromhex(match[2])

    async def _read_pack(self, place: tuple[int, bytes]) -> ReadPack | str | None:
        """A pack; why it cannot be read; or `None`: the database knows it."""
        domain_id, name = place
        if await self._database.read(partial(has_pack, domain_id=domain_id, name=name)):
            return None
        try:
            return await self._workers.run(partial(read_pack, self._blobs, domain_id, name))
        except (InvalidFormat, Corrupt, NotFound) as exc:
            return str(exc)

    async def _add_caches(self, objects: Sequence[_JournalObject], report: RebuildReport) -> dict[str, CacheRow]:
        told: dict[str, ToldCache] = {}
        for each in objects:
            try:
                entry = await self._workers.run(partial(_read_entry, self._blobs, each.key))
                parse_cache_name(entry.cache)
                StoreDir.parse(entry.store_dir)
            except (InvalidFormat, Corrupt, NotFound) as exc:
                report.damaged_objects.append(f"{each.key}: {exc}")
                continue
            note_entry(told, each.domain_id, entry)
        caches: dict[str, CacheRow] = {}
        for cache in told.values():
            present = await self._database.read(partial(find_cache, name=cache.name))
            caches[cache.name] = await self._make_cache(cache, report) if present is None else present
            if caches[cache.name].domain_id == cache.domain_id:
                await self._demand(caches[cache.name], cache.required_keys, report)
        return caches

    async def _demand(self, cache: CacheRow, required_keys: Sequence[str], report: RebuildReport) -> None:
        """Have the cache demand the signatures that it demanded last. Its paths come back whoever signed them."""
        keys = tuple(PublicKey.parse(text) for text in required_keys)

        def work(connection: Connection) -> bool:
            is_new = load_required_keys(connection, cache.id) != keys
            if is_new:
                set_required_keys(connection, cache.id, keys)
            return is_new

        if await self._database.write(work):
            report.required_keys[cache.name] = [key.render() for key in keys]

    async def _make_cache(self, told: ToldCache, report: RebuildReport) -> CacheRow:
        name = next_key_name(key_name(told.name, self._public_url), told.key_names)
        key = SecretKey.generate(name, self._draw(SEED_BYTES))
        sealed = self._sealer.seal(key, key.key_name, self._draw(NONCE_BYTES))
        now = self._clock()

        def work(connection: Connection) -> CacheRow:
            put_domain(connection, told.domain_id, now=now)
            cache = insert_cache(
                connection,
                name=told.name,
                domain_id=told.domain_id,
                is_public=told.is_public,
                store_dir=StoreDir.parse(told.store_dir),
                priority=_PRIORITY,
                want_mass_query=True,
                now=told.created_at,
            )
            insert_key(connection, cache.id, key.public_key, sealed, now=now)
            for url in sorted(told.upstreams):
                put_upstream(connection, cache.id, url, _known_keys(url))
            return cache

        cache = await self._database.write(work)
        keyless = [url for url in sorted(told.upstreams) if not _known_keys(url)]
        report.caches.append(NewCache(told.name, told.is_public, key.public_key.render(), keyless))
        return cache

    async def _add_entry(
        self,
        place: _JournalObject,
        caches: dict[str, CacheRow],
        progress: RebuildProgress,
        report: RebuildReport,
    ) -> bool:
        """Add what an object of the journal tells. False: some of its paths lack references."""
        try:
            entry = await self._workers.run(partial(_read_entry, self._blobs, place.key))
        except (InvalidFormat, Corrupt, NotFound):
            return True  # Reported when the caches were looked for.
        cache = caches.get(entry.cache)
        if cache is None or cache.domain_id != place.domain_id:
            return True  # Of a cache that was deleted, and whose name another one has.
        nars: list[_KeptNar] = []
        wanted = await self._database.read(partial(_find_new_nars, domain_id=cache.domain_id, nars=entry.nars))
        put_together = partial(self._put_together, cache.domain_id)
        async with aclosing(map_at_once(put_together, wanted)) as results:
            async for _, nar in results:
                if nar is not None:
                    nars.append(nar)
                    progress.nars += 1
                    progress.nar_bytes += nar.row.nar_size
        infos = await self._workers.run(partial(_read_infos, cache, entry))
        signed = await self._signer.sign(cache.id, [text for _, _, text in infos])
        rows = [
            _make_row(path, info, ours, entry.created_at)
            for (path, info, _), ours in zip(infos, signed.signatures, strict=True)
        ]
        added, lost, lacking = await self._database.write(
            partial(_add_all, cache=cache, entry=entry, nars=nars, rows=rows, now=self._clock())
        )
        report.nars += len(nars)
        report.paths += len(added)
        progress.paths += len(added)
        for name in added:
            report.lost.pop(f"{cache.name}/{name}", None)
        for name, reason in {**lost, **lacking}.items():
            if len(report.lost) < _MAX_LOST or f"{cache.name}/{name}" in report.lost:
                report.lost[f"{cache.name}/{name}"] = reason
            else:
                report.lost_count += 1
        return not lacking

    async def _put_together(self, domain_id: int, nar: JournalNar) -> _KeptNar | None:
        """A NAR of the journal from the chunks that are there; `None`: they do not give it any more."""
        try:
            parts = take_apart(nar)
        except InvalidFormat:
            return None
        named = await self._database.read(partial(find_named_chunks, domain_id=domain_id, names=parts.chunks))
        if any(name not in named for name in parts.chunks):
            return None
        return await self._workers.run(partial(self._try_chunks, domain_id, parts, named))

    def _try_chunks(self, domain_id: int, parts: NarParts, named: dict[bytes, ChunkRow]) -> _KeptNar | None:
        order = [named[name] for name in parts.chunks]
        if sum(row.raw_bytes for row in order) != parts.nar_size:
            return None
        recipe = make_recipe((row.number for row in order), parts.filled())
        chunks = {row.number: row for row in order}
        row = NarRow(0, domain_id, parts.nar_hash, parts.nar_size, b"", 0)
        sign = DebugInfoSign()
        state = hash_nar(self._blobs, row, recipe, chunks, self._recent, sign)
        if not state.is_right:
            return None
        found = NarRow(0, domain_id, parts.nar_hash, parts.nar_size, state.file_hash, state.file_size)
        return _KeptNar(found, recipe, self._find_build_ids(domain_id, recipe, chunks) if sign.is_seen else [])

    def _find_build_ids(self, domain_id: int, recipe: Recipe, chunks: dict[int, ChunkRow]) -> list[bytes]:
        try:
            return find_build_ids(read_structure(NarContents(self._blobs, domain_id, recipe, chunks)))
        except InvalidFormat:  # What is stored need not be a NAR; then there is no file in it.
            return []


def _list_journal(blobs: BlobStore, begin: int) -> list[_JournalObject]:
    """The objects of the journal from a time on, in the order of their times. Some hundred bytes each."""
    found: list[_JournalObject] = []
    for info in blobs.list("journal/"):
        match = _JOURNAL_KEY.fullmatch(info.key)
        if match is not None and int(match[2]) >= begin:
            found.append(_JournalObject(int(match[2]), info.key, int(match[1])))
    return sorted(found, key=lambda each: (each.time, each.key))


def _read_entry(blobs: BlobStore, key: BlobKey) -> JournalEntry:
    size = blobs.size(key)
    if size > _MAX_JOURNAL_BYTES:
        raise InvalidFormat(f"{size} bytes are too many for an object of the journal")
    data = bytearray(size)
    blobs.read_into(key, 0, memoryview(data))
    return parse_journal_entry(bytes(data))


def _known_keys(url: str) -> str:
    return " ".join(DEFAULT_UPSTREAM.public_keys) if url == DEFAULT_UPSTREAM.url else ""


def _find_new_nars(connection: Connection, domain_id: int, nars: Sequence[JournalNar]) -> list[JournalNar]:
    known = find_nars(connection, domain_id, {nar.nar_hash for nar in nars})
    return [nar for nar in nars if nar.nar_hash not in known]


def _read_infos(cache: CacheRow, entry: JournalEntry) -> list[tuple[JournalPath, PathInfo, bytes]]:
    """The paths of an object of the journal that can be read, each with what signatures cover."""
    found: list[tuple[JournalPath, PathInfo, bytes]] = []
    sizes = {nar.nar_hash: nar.nar_size for nar in entry.nars}
    for path in entry.paths:
        try:
            nar_size, references = sizes[path.nar_hash], parse_references(path.references)
            info = PathInfo(StorePath.parse(path.store_path), path.nar_hash, nar_size, references)
            for signature in path.signatures.split():
                Signature.parse(signature)
            found.append((path, info, fingerprint(info, cache.store_dir)))
        except (InvalidFormat, KeyError):
            continue
    return found


def _make_row(path: JournalPath, info: PathInfo, ours: Sequence[Signature], created_at: int) -> PathRow:
    theirs = [Signature.parse(signature) for signature in path.signatures.split()]
    signatures = merge_signatures(ours, theirs)
    return PathRow(
        id=0,
        store_path=info.store_path,
        nar_hash=path.nar_hash,
        nar_size=info.nar_size,
        file_hash="",
        file_size=0,
        references=info.references,
        deriver=path.deriver,
        system=path.system,
        ca=path.ca,
        signatures=tuple(signature.render() for signature in signatures),
        created_at=created_at,
        hidden_at=None,
        published_by=None,  # Tokens are not in the journal, and their numbers are given anew.
    )


def _add_all(
    connection: Connection,
    cache: CacheRow,
    entry: JournalEntry,
    nars: Sequence[_KeptNar],
    rows: Sequence[PathRow],
    now: int,
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The transaction of one object of the journal.

    Returns:
        The base names of the paths that were added; of those that are lost, with the reason; and of those that lack
        references, which may still come.
    """
    for nar in nars:
        row = nar.row
        nar_id = put_nar(
            connection,
            domain_id=row.domain_id,
            nar_hash=row.nar_hash,
            nar_size=row.nar_size,
            file_hash=row.file_hash,
            file_size=row.file_size,
            recipe_body=render_recipe(nar.recipe),
            now=now,
        )
        put_debug_files(connection, nar_id, nar.build_ids)
    _add_externals(connection, cache, entry.externals, now)
    present = load_paths(connection, cache.id, {row.store_path.hash_part for row in rows})
    stored = find_nars(connection, cache.domain_id, {row.nar_hash for row in rows})
    wanted = [row for row in rows if _is_news(row, present.get(row.store_path.hash_part), entry.created_at)]
    lost = {
        row.store_path.base_name: "its chunks are gone, or do not give its NAR"
        for row in wanted
        if row.nar_hash not in stored
    }
    left = {row.store_path.hash_part: row for row in wanted if row.nar_hash in stored}
    there = find_there(connection, cache.id, {reference.hash_part for row in rows for reference in row.references})
    complete: dict[HashPart, PathRow] = {}
    while ready := {key: row for key, row in left.items() if _is_complete(row, there, complete)}:
        complete |= ready
        left = {key: row for key, row in left.items() if key not in ready}
    added = [(stored[row.nar_hash].id, _with_file(row, stored[row.nar_hash])) for row in complete.values()]
    if added:
        put_paths(connection, cache.id, added, generation=next_generation(connection, cache.id))
    lacking = {row.store_path.base_name: "a path that it refers to did not come back" for row in left.values()}
    return [row.store_path.base_name for row in complete.values()], lost, lacking


def _add_externals(connection: Connection, cache: CacheRow, externals: Sequence[JournalExternal], now: int) -> None:
    """Add externals. Their evidence was checked when they came; the upstream's keys may be unknown by now."""
    paths = {StorePath.parse(each.store_path).hash_part: each for each in externals}
    known = load_externals(connection, cache.id, paths.keys())
    for hash_part, each in paths.items():
        if hash_part not in known:
            row = ExternalRow(
                StorePath.parse(each.store_path),
                each.nar_hash,
                each.nar_size,
                parse_references(each.references),
                each.signature,
                put_upstream(connection, cache.id, each.upstream, _known_keys(each.upstream)),
            )
            add_external(connection, cache.id, row, now=now)


def _is_news(row: PathRow, present: PathRow | None, created_at: int) -> bool:
    """Whether the database does not know what an object of the journal says of a path."""
    if present is None:
        return True
    if present.hidden_at is not None:
        return present.hidden_at < created_at
    return present.nar_hash != row.nar_hash and present.created_at < created_at


def _is_complete(row: PathRow, there: Collection[str], complete: Collection[str]) -> bool:
    own = row.store_path.hash_part
    parts = (reference.hash_part for reference in row.references)
    return all(part == own or part in there or part in complete for part in parts)


def _with_file(row: PathRow, nar: NarRow) -> PathRow:
    return replace(row, file_hash=nix32.encode(nar.file_hash), file_size=nar.file_size)
