"""Publishing: paths become visible, all of a batch together, when their closure is complete."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.publish import MissingAnswer, MissingRequest, PathBody, PathsAnswer, PathsRequest, RefusedPath
from icehouse.db.cache_settings import load_required_keys
from icehouse.db.caches import CacheRow, UpstreamRow, get_cache, list_upstreams, next_generation
from icehouse.db.chunks import ChunkRow, load_chunks
from icehouse.db.collection import load_recipes
from icehouse.db.engine import Database
from icehouse.db.keys import KeyRow, list_keys
from icehouse.db.nars import NarRow, find_nars, find_unsound
from icehouse.db.paths import (
    ExternalRow,
    PathRow,
    add_external,
    find_names,
    find_restorable,
    find_visible,
    load_externals,
    load_paths,
    put_paths,
    render_references,
    restore_paths,
    set_signatures,
)
from icehouse.db.revocations import check_may_publish
from icehouse.db.waiting import WaitingRow, delete_waiting, load_waiting_for, put_waiting
from icehouse.errors import Conflict, Denied, InvalidFormat, NotFound, TooLarge
from icehouse.nix import nix32
from icehouse.nix.content_address import ContentAddress, IngestionMethod, fits
from icehouse.nix.hashes import HashAlgorithm, parse_sha256
from icehouse.nix.signing import PublicKey, Signature, fingerprint
from icehouse.nix.store_paths import HashPart, StorePath, parse_hash_part
from icehouse.rules.chunks import CHUNK_NAME_BYTES
from icehouse.rules.closures import (
    MAX_SIGNATURES,
    PathRecord,
    PublishFacts,
    PublishPlan,
    VisiblePath,
    merge_signatures,
    plan_publish,
)
from icehouse.rules.demands import is_vouched_for
from icehouse.rules.journal import JournalEntry, JournalExternal, JournalNar, JournalPath
from icehouse.rules.provenance import PublishedBy
from icehouse.rules.recipes import Recipe, parse_recipe
from icehouse.rules.varints import encode_varints
from icehouse.services.demands import find_vouched
from icehouse.services.journal import put_entry, render_required
from icehouse.services.signing import Signed, Signers
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobKey, BlobStore

MAX_HASH_PARTS: Final = 10_000
MAX_PATHS: Final = 2_000
MAX_REFERENCES: Final = 10_000
"""References of one path. The largest in nixpkgs have some thousands."""

_TRIES: Final = 8
_GROUP_BYTES: Final = 1024**3
_GROUP_NARS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Batch:
    """A request, parsed, and its externals with the evidence checked."""

    records: tuple[PathRecord, ...]
    externals: tuple[tuple[ExternalRow, str], ...]
    """With the URL of the upstream."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the database says about a batch, as rows and as facts."""

    facts: PublishFacts
    paths: Mapping[HashPart, PathRow]
    nars: Mapping[bytes, NarRow]
    new_externals: Sequence[tuple[ExternalRow, str]]
    """Those of the batch that the cache does not have yet, with the URL of the upstream."""
    waiting: Mapping[HashPart, WaitingRow]
    restored: Mapping[HashPart, PathRow]
    """Hidden paths that the batch refers to or that those reach: they become visible with it."""


@dataclass(frozen=True, slots=True)
class _Vouched:
    """What carries a signature that the cache demands, of what may become visible."""

    keys: tuple[PublicKey, ...] = ()
    """What it demanded when this was found out."""
    records: frozenset[PathRecord] = frozenset()
    rows: frozenset[PathRow] = frozenset()


@dataclass(frozen=True, slots=True)
class _Changes:
    """What one transaction does, if the database still leads to the plan."""

    plan: PublishPlan
    rows: Sequence[PathRow]
    externals: Sequence[tuple[ExternalRow, str]]
    merges: Mapping[HashPart, Sequence[Signature]]
    now: int
    origin: PublishedBy
    signers: frozenset[PublicKey]
    """The keys that signed the rows."""
    own_keys: tuple[KeyRow, ...]
    """All keys of the cache, by which other signatures were judged."""
    vouched: _Vouched
    settle: Callable[[Connection], None] | None


@dataclass(frozen=True, slots=True)
class _Known:
    """The keys of which can be said whether a signature is theirs: the cache's, upstreams', and those demanded."""

    keys: tuple[PublicKey, ...]
    stripped: frozenset[str]
    """Names of keys of the cache whose signatures are not wanted any more."""

    def accepts(self, signature: Signature, text: bytes) -> bool:
        """False for one under the name of a known key that this key did not make. Of other keys we cannot say."""
        same_name = [key for key in self.keys if key.key_name == signature.key_name]
        is_credible = not same_name or any(key.verify(text, signature) for key in same_name)
        return is_credible and signature.key_name not in self.stripped


class Publisher:
    """Says which paths are missing, and publishes them."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workers: Workers,
        signers: Signers,
        clock: Callable[[], int],
        *,
        note_use: Callable[[int, int], None],
    ) -> None:
        """Join the parts. *clock* gives seconds since the epoch; *note_use* notes that a path, by id, was used then."""
        self._database = database
        self._blobs = blobs
        self._workers = workers
        self._signers = signers
        self._clock = clock
        self._note_use = note_use
        # Of many requests at once that change each other's decisions, each gets a turn in the end.
        self._retrying = asyncio.Lock()

    async def find_missing(self, cache: CacheRow, request: MissingRequest) -> MissingAnswer:
        """Which of the hash parts are not visible in the cache. Changes nothing; for the others it counts as a use.

        Raises:
            InvalidFormat: one is no hash part.
            TooLarge: more than `MAX_HASH_PARTS`.
        """
        if len(request.hash_parts) > MAX_HASH_PARTS:
            raise TooLarge(f"{len(request.hash_parts)} hash parts; at most {MAX_HASH_PARTS} fit one request")
        asked = [parse_hash_part(text) for text in request.hash_parts]
        visible = await self._database.read(partial(find_visible, cache_id=cache.id, hash_parts=asked))
        now = self._clock()
        for path_id in visible.values():
            self._note_use(path_id, now)
        return MissingAnswer([hash_part for hash_part in asked if hash_part not in visible])

    async def publish_paths(
        self,
        cache: CacheRow,
        request: PathsRequest,
        *,
        token_id: int | None,
        address: str | None = None,
        settle: Callable[[Connection], None] | None = None,
    ) -> PathsAnswer:
        """Make paths visible together, or none of them. Repeating it changes nothing.

        *settle* is called at the end of the transaction, which what it raises takes back.

        The order: decide, sign, write the journal, and then one transaction that decides again and shows the paths.
        Paths that waited for these become visible with them.

        Raises:
            InvalidFormat: a field is broken, or a CA does not fit its path.
            TooLarge: a limit is exceeded.
            NotFound: the cache was deleted meanwhile.
            Conflict: what was decided upon changed meanwhile, again and again; ask again.
        """
        if len(request.paths) > MAX_PATHS or len(request.externals) > MAX_PATHS:
            raise TooLarge(f"{len(request.paths)} paths and {len(request.externals)} externals; {MAX_PATHS} each fit")
        upstreams = await self._database.read(partial(list_upstreams, cache_id=cache.id))
        batch = await self._workers.run(partial(_parse_batch, request, cache, upstreams))
        plan = await self._carry_out(
            cache, batch, upstreams, PublishedBy(token_id, address), is_patient=False, settle=settle
        )
        return _refusal(plan) if plan.refused else _success(plan)

    async def publish_or_wait(
        self, cache: CacheRow, path: PathBody, *, token_id: int | None, address: str | None = None
    ) -> PublishPlan:
        """Make one path visible; if it lacks nothing but references, keep it until these are visible.

        The errors are those of `publish_paths`.
        """
        upstreams = await self._database.read(partial(list_upstreams, cache_id=cache.id))
        batch = await self._workers.run(partial(_parse_batch, PathsRequest([path], []), cache, upstreams))
        return await self._carry_out(cache, batch, upstreams, PublishedBy(token_id, address), is_patient=True)

    async def _carry_out(
        self,
        cache: CacheRow,
        batch: _Batch,
        upstreams: Sequence[UpstreamRow],
        origin: PublishedBy,
        *,
        is_patient: bool,
        settle: Callable[[Connection], None] | None = None,
    ) -> PublishPlan:
        for attempt in range(_TRIES):
            async with self._retrying if attempt else contextlib.nullcontext():
                plan = await self._try(cache, batch, upstreams, origin=origin, is_patient=is_patient, settle=settle)
            if plan is not None:
                return plan
        raise Conflict("other requests changed these paths again and again at the same time; repeat yours")

    async def _try(
        self,
        cache: CacheRow,
        batch: _Batch,
        upstreams: Sequence[UpstreamRow],
        *,
        origin: PublishedBy,
        is_patient: bool,
        settle: Callable[[Connection], None] | None,
    ) -> PublishPlan | None:
        """Decide and do it, or give `None` if what was decided upon changed meanwhile."""
        load = partial(_load, cache=cache, batch=batch, origin=origin)
        loaded = await self._database.read(load)
        vouched = _Vouched()
        if loaded.facts.required_keys:
            vouched = await self._workers.run(partial(_vouch, cache, batch, loaded))
            loaded = await self._database.read(partial(load, vouched=vouched))
        plan = plan_publish(batch.records, loaded.facts)
        if plan.refused and not (is_patient and plan.may_wait == batch.records):
            return plan
        now = self._clock()
        due = _find_due(plan, loaded, origin)
        texts = await self._workers.run(lambda: [fingerprint(record, cache.store_dir) for record, _ in due])
        signed = await self._signers.sign(cache.id, texts)
        own_keys = await self._database.read(partial(list_keys, cache_id=cache.id))
        known = _Known(
            tuple(
                dict.fromkeys(
                    [
                        *signed.keys,
                        *(row.public_key for row in own_keys),
                        *loaded.facts.required_keys,
                        *(key for upstream in upstreams for key in upstream.public_keys),
                    ]
                )
            ),
            frozenset(row.public_key.key_name for row in own_keys if row.state == "stripped"),
        )
        rows = await self._workers.run(partial(_make_rows, due, texts, signed, loaded, known, now=now))
        merges = await self._workers.run(partial(_find_merges, cache, plan, loaded, known))
        journal_key = None
        if rows or loaded.new_externals:
            journal_key = await self._write_journal(cache, rows, loaded, origin, now=now)
        signers = frozenset(signed.keys)
        changes = _Changes(plan, rows, loaded.new_externals, merges, now, origin, signers, own_keys, vouched, settle)
        is_done = False
        try:
            is_done = await self._database.write(partial(_publish, cache=cache, batch=batch, changes=changes))
        except (Conflict, Denied, NotFound):
            await self._take_back(journal_key)
            raise
        if not is_done:
            await self._take_back(journal_key)
        return plan if is_done else None

    async def _take_back(self, journal_key: BlobKey | None) -> None:
        """Delete a journal object that tells of what did not happen."""
        if journal_key is not None:
            await self._workers.run_always(partial(self._blobs.delete, journal_key))

    async def _write_journal(
        self,
        cache: CacheRow,
        rows: Sequence[PathRow],
        loaded: _Loaded,
        origin: PublishedBy,
        *,
        now: int,
    ) -> BlobKey:
        nars = await self._database.read(
            partial(_journal_nars, domain_id=cache.domain_id, nar_hashes=sorted({row.nar_hash for row in rows}))
        )
        entry = JournalEntry(
            cache=cache.name,
            store_dir=str(cache.store_dir),
            is_public=cache.is_public,
            created_at=now,
            published_by=origin.token_id,
            nars=nars,
            paths=[_journal_path(row) for row in rows],
            externals=[_journal_external(row, url) for row, url in loaded.new_externals],
            required_keys=render_required(loaded.facts.required_keys),
        )
        return await self._workers.run(partial(put_entry, self._blobs, cache.domain_id, entry))


def _parse_batch(request: PathsRequest, cache: CacheRow, upstreams: Sequence[UpstreamRow]) -> _Batch:
    records = tuple(_parse_path(body, cache) for body in request.paths)
    externals: list[tuple[ExternalRow, str]] = []
    for body in request.externals:
        record = _parse_path(body, cache)
        text = fingerprint(record, cache.store_dir)
        evidence = _find_evidence(record.signatures, text, upstreams)
        if evidence is None:
            raise InvalidFormat(f"external {body.store_path}: no signature by a key of an upstream of this cache")
        upstream, signature = evidence
        row = ExternalRow(
            record.store_path,
            record.nar_hash,
            record.nar_size,
            record.references,
            signature.render(),
            upstream.id,
        )
        externals.append((row, upstream.url))
    return _Batch(records, tuple(externals))


def _parse_path(body: PathBody, cache: CacheRow) -> PathRecord:
    store_path = StorePath.parse(body.store_path)
    if len(body.references) > MAX_REFERENCES:
        raise TooLarge(f"{body.store_path}: {len(body.references)} references; at most {MAX_REFERENCES} are accepted")
    if len(body.signatures) > MAX_SIGNATURES:
        raise TooLarge(f"{body.store_path}: {len(body.signatures)} signatures; at most {MAX_SIGNATURES} are accepted")
    if body.nar_size <= 0:
        raise InvalidFormat(f"{body.store_path}: a NAR of {body.nar_size} bytes")
    if body.system is not None and (not body.system.isprintable() or " " in body.system or len(body.system) > 64):  # noqa: PLR2004 - generous
        raise InvalidFormat(f"{body.store_path}: {body.system!r} is no system")
    references = tuple(sorted({StorePath.parse(reference) for reference in body.references}))
    ca = None if not body.ca else ContentAddress.parse(body.ca)
    if ca is not None and not fits(ca, store_path, references, cache.store_dir):
        raise InvalidFormat(f"{body.store_path}: the CA {body.ca} gives another store path; every Nix aborts on that")
    nar_hash = parse_sha256(body.nar_hash)
    if ca is not None and _is_nar_hash(ca, store_path, references) and ca.hash.digest != nar_hash:
        raise InvalidFormat(f"{body.store_path}: the CA {body.ca} is that of another NAR than {body.nar_hash}")
    return PathRecord(
        store_path,
        nar_hash,
        body.nar_size,
        references,
        None if not body.deriver else StorePath.parse(body.deriver),
        body.system or None,
        ca,
        tuple(Signature.parse(signature) for signature in body.signatures),
    )


def _is_nar_hash(ca: ContentAddress, store_path: StorePath, references: Sequence[StorePath]) -> bool:
    """Whether *ca* is the NAR's own hash: not so for other kinds, nor where the path's own hash part was zeroed."""
    is_of_nar = ca.method is IngestionMethod.NAR and ca.hash.algorithm is HashAlgorithm.SHA256
    return is_of_nar and store_path not in references


def _find_evidence(
    signatures: Iterable[Signature], text: bytes, upstreams: Sequence[UpstreamRow]
) -> tuple[UpstreamRow, Signature] | None:
    for signature in signatures:
        for upstream in upstreams:
            if any(key.verify(text, signature) for key in upstream.public_keys):
                return upstream, signature
    return None


def _load(
    connection: Connection, cache: CacheRow, batch: _Batch, origin: PublishedBy, vouched: _Vouched | None = None
) -> _Loaded:
    """What the decision needs, as the database has it now. Without *vouched* hidden paths count whoever signed them."""
    named = {record.store_path.hash_part for record in batch.records}
    check_may_publish(connection, cache.id, origin.token_id, named)
    offered = {row.store_path.hash_part: (row, url) for row, url in batch.externals}
    waiting = load_waiting_for(connection, cache.id, named | offered.keys())
    records = [*batch.records, *(row.record for row in waiting.values())]
    wanted = named | {reference.hash_part for record in records for reference in record.references}
    paths = load_paths(connection, cache.id, named)
    visible = {
        hash_part: VisiblePath(row.store_path, row.nar_hash, row.references)
        for hash_part, row in paths.items()
        if row.hidden_at is None
    }
    # Of a reference only the name is looked at. To load and parse its whole row takes ten times as long.
    for hash_part, store_path in find_names(connection, cache.id, wanted - named).items():
        visible[hash_part] = VisiblePath(store_path, b"", ())
    known = load_externals(connection, cache.id, wanted | offered.keys())
    required = load_required_keys(connection, cache.id)
    is_welcome = vouched.rows.__contains__ if required and vouched is not None else None
    lacking = wanted - named - visible.keys() - known.keys()
    hidden = find_restorable(connection, cache.id, lacking, is_welcome=is_welcome)
    for hash_part in hidden.keys() - named:
        visible[hash_part] = VisiblePath(hidden[hash_part].store_path, b"", ())
    new_externals = [external for hash_part, external in offered.items() if hash_part not in known]
    externals = {hash_part: row.store_path for hash_part, row in known.items()}
    externals |= {row.store_path.hash_part: row.store_path for row, _ in new_externals}
    nars = find_nars(connection, cache.domain_id, {record.nar_hash for record in records})
    sizes = {nar_hash: row.nar_size for nar_hash, row in nars.items()}
    unsound = find_unsound(connection, {row.id for row in nars.values()})
    facts = PublishFacts(
        visible,
        externals,
        sizes,
        {hash_part: row.record for hash_part, row in waiting.items()},
        frozenset(nar_hash for nar_hash, row in nars.items() if row.id in unsound),
        required,
        frozenset() if vouched is None else vouched.records,
    )
    restored = {hash_part: row for hash_part, row in hidden.items() if hash_part not in named}
    return _Loaded(facts, paths, nars, new_externals, waiting, restored)


def _vouch(cache: CacheRow, batch: _Batch, loaded: _Loaded) -> _Vouched:
    """Look at the signatures of what may become visible. That takes too long for a transaction, which takes no other.

    What is visible already may be named without one.
    """
    keys = loaded.facts.required_keys
    records = [*batch.records, *loaded.facts.waiting.values()]
    return _Vouched(
        keys,
        frozenset(
            record
            for record in records
            if is_vouched_for(record.signatures, fingerprint(record, cache.store_dir), keys)
        ),
        find_vouched(loaded.restored.values(), cache, keys),
    )


def _find_due(plan: PublishPlan, loaded: _Loaded, origin: PublishedBy) -> list[tuple[PathRecord, PublishedBy]]:
    """What becomes visible, and who published it."""
    waited = [(record, loaded.waiting[record.store_path.hash_part].origin) for record in plan.complete]
    return [*((record, origin) for record in plan.publish), *waited]


def _make_rows(
    due: Sequence[tuple[PathRecord, PublishedBy]],
    texts: Sequence[bytes],
    signed: Signed,
    loaded: _Loaded,
    known: _Known,
    *,
    now: int,
) -> list[PathRow]:
    """The rows of what becomes visible, signed."""
    rows: list[PathRow] = []
    for (record, publisher), text, ours in zip(due, texts, signed.signatures, strict=True):
        theirs = [signature for signature in record.signatures if known.accepts(signature, text)]
        # Demanded ones first, so that the bound on their number never drops the one that counts.
        theirs.sort(key=lambda signature: not is_vouched_for([signature], text, loaded.facts.required_keys))
        nar = loaded.nars[record.nar_hash]
        rows.append(
            PathRow(
                id=0,
                store_path=record.store_path,
                nar_hash=record.nar_hash,
                nar_size=record.nar_size,
                file_hash=nix32.encode(nar.file_hash),
                file_size=nar.file_size,
                references=record.references,
                deriver=None if record.deriver is None else record.deriver.base_name,
                system=record.system,
                ca=None if record.ca is None else record.ca.render(),
                signatures=tuple(signature.render() for signature in merge_signatures(ours, theirs)),
                created_at=now,
                hidden_at=None,
                published_by=publisher.token_id,
                published_from=publisher.address,
            )
        )
    return rows


def _publish(connection: Connection, cache: CacheRow, batch: _Batch, changes: _Changes) -> bool:
    """The transaction. False, and nothing changed, if the database does not lead to the same plan any more."""
    get_cache(connection, cache.name)
    loaded = _load(connection, cache, batch, changes.origin, changes.vouched)
    if loaded.facts.required_keys != changes.vouched.keys:  # the cache came to demand others meanwhile
        return False
    if plan_publish(batch.records, loaded.facts) != changes.plan or loaded.new_externals != changes.externals:
        return False
    own_keys = list_keys(connection, cache.id)
    active = frozenset(key.public_key for key in own_keys if key.state == "active")
    # If a key was added, activated or retired meanwhile, what is published from then on goes by that.
    if own_keys != changes.own_keys or (active and active != changes.signers):
        return False
    for row, _ in changes.externals:
        add_external(connection, cache.id, row, now=changes.now)
    if changes.rows:
        generation = next_generation(connection, cache.id)
        restore_paths(connection, [row.id for row in loaded.restored.values()], generation=generation)
        put_paths(
            connection,
            cache.id,
            [_with_present_file(row, loaded.nars[row.nar_hash]) for row in changes.rows],
            generation=generation,
        )
    delete_waiting(connection, cache.id, [row.store_path.hash_part for row in changes.rows])
    for hash_part, signatures in changes.merges.items():
        _merge(connection, loaded.paths[hash_part], signatures)
    for record in changes.plan.may_wait:
        put_waiting(connection, cache.id, record, changes.origin, now=changes.now)
    if changes.settle is not None:
        changes.settle(connection)
    return True


def _with_present_file(row: PathRow, nar: NarRow) -> tuple[int, PathRow]:
    """The NAR's id, and the row with what the NAR's file is now: it may have changed since the row was made."""
    return nar.id, replace(row, file_hash=nix32.encode(nar.file_hash), file_size=nar.file_size)


def _find_merges(
    cache: CacheRow, plan: PublishPlan, loaded: _Loaded, known: _Known
) -> dict[HashPart, tuple[Signature, ...]]:
    """Credible signatures on paths that are there. Verifying takes too long for a transaction.

    They are checked against what is there, not against what the request says of it.
    """
    merges: dict[HashPart, tuple[Signature, ...]] = {}
    for record in plan.merge:
        text = fingerprint(loaded.paths[record.store_path.hash_part], cache.store_dir)
        credible = tuple(sig for sig in record.signatures if known.accepts(sig, text))
        if credible:
            merges[record.store_path.hash_part] = credible
    return merges


def _merge(connection: Connection, row: PathRow, offered: Sequence[Signature]) -> None:
    merged = merge_signatures([Signature.parse(signature) for signature in row.signatures], offered)
    signatures = [signature.render() for signature in merged]
    if signatures != list(row.signatures):
        set_signatures(connection, row.id, signatures)


def _success(plan: PublishPlan) -> PathsAnswer:
    return PathsAnswer(
        published=[record.store_path.base_name for record in plan.publish],
        merged=[record.store_path.base_name for record in plan.merge],
        refused=[],
    )


def _refusal(plan: PublishPlan) -> PathsAnswer:
    refused = [RefusedPath(store_path.base_name, reason) for store_path, reason in plan.refused]
    return PathsAnswer(published=[], merged=[], refused=refused)


def _journal_nars(connection: Connection, domain_id: int, nar_hashes: Sequence[bytes]) -> list[JournalNar]:
    nars: list[JournalNar] = []
    for group in _grouped(find_nars(connection, domain_id, nar_hashes).values()):
        sizes = {row.id: row.nar_size for row in group}
        bodies = load_recipes(connection, sizes.keys())
        recipes = {nar_id: parse_recipe(body, max_chunks=sizes[nar_id]) for nar_id, body in bodies.items()}
        chunks = load_chunks(connection, domain_id, [run for recipe in recipes.values() for run in recipe.runs])
        nars += [_journal_nar(row, recipes[row.id], chunks) for row in group if row.id in recipes]
    return nars


def _grouped(rows: Iterable[NarRow]) -> Iterator[list[NarRow]]:
    """NARs that are looked up together: small ones, or a large one alone, whose rows of chunks take the memory."""
    group: list[NarRow] = []
    size = 0
    for row in rows:
        if group and (size + row.nar_size > _GROUP_BYTES or len(group) == _GROUP_NARS):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.nar_size
    if group:
        yield group


def _journal_nar(row: NarRow, recipe: Recipe, chunks: Mapping[int, ChunkRow]) -> JournalNar:
    numbers = (number for run in recipe.runs for number in range(run.first, run.first + run.count))
    return JournalNar(
        nar_hash=row.nar_hash,
        nar_size=row.nar_size,
        file_hash=row.file_hash,
        file_size=row.file_size,
        chunks=b"".join(chunks[number].identity[:CHUNK_NAME_BYTES] for number in numbers),
        hashes=b"".join(recipe.hashes).decode(),
        patches=encode_varints(recipe.patches),
    )


def _journal_path(row: PathRow) -> JournalPath:
    return JournalPath(
        store_path=row.store_path.base_name,
        nar_hash=row.nar_hash,
        references=render_references(row.references),
        signatures=" ".join(row.signatures),
        deriver=row.deriver,
        system=row.system,
        ca=row.ca,
    )


def _journal_external(row: ExternalRow, url: str) -> JournalExternal:
    return JournalExternal(
        store_path=row.store_path.base_name,
        nar_hash=row.nar_hash,
        nar_size=row.nar_size,
        references=render_references(row.references),
        signature=row.signature,
        upstream=url,
    )
