"""What collection reads and changes: a page of rows at a time, and acts that look again at what they rest on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    exists,
    func,
    insert,
    not_,
    select,
    update,
)

from icehouse.db.chunks import put_pack
from icehouse.db.query_plans import by_id
from icehouse.db.schema import (
    build_log,
    cache,
    chunk,
    collection,
    nar,
    pack,
    path,
    pin_revision,
    purged_path,
    recipe,
    upload,
    waiting_path,
)
from icehouse.rules.collection import GRACE_SECONDS
from icehouse.rules.retention import Retention

PAGE_ROWS: Final = 10_000
"""Rows that one reading transaction brings."""

PURGED_KEPT_SECONDS: Final = 365 * 86_400
PURGED_KEPT: Final = 500_000
"""For how long, and of how many paths, it is known that they were purged: some 200 bytes each."""

_BATCH: Final = 1000
_NOTED: Final = ("cache_id", "hash_part", "name", "created_at", "published_by", "hidden_at", "hidden_because")


@dataclass(frozen=True, slots=True)
class CompactableChunk:
    """A chunk that may be copied into another pack."""

    number: int
    pack_id: int
    pack_offset: int
    identity: bytes
    stored_bytes: int
    raw_bytes: int
    places: bytes | None


@dataclass(frozen=True, slots=True)
class PackRow:
    """A pack of a domain."""

    id: int
    name: bytes
    size_bytes: int
    created_at: int
    condemned_at: int | None


def read_generation(connection: Connection, cache_id: int) -> int:
    """The cache's generation: what becomes visible after this has a higher one."""
    return connection.execute(select(cache.c.generation).where(cache.c.id == cache_id)).scalar_one()


def read_retention(connection: Connection, cache_id: int) -> Retention:
    """What the cache keeps."""
    columns = select(cache.c.keep_unused_seconds, cache.c.keep_pushed_seconds, cache.c.budget_bytes)
    return Retention(*connection.execute(columns.where(cache.c.id == cache_id)).one())


def page_of_paths(connection: Connection, cache_id: int, after: int) -> list[tuple[int, str, str, int, int]]:
    """The next visible paths of the cache, by id, after that id: id, hash part, name, NAR, and when it was pushed."""
    rows = connection.execute(
        select(path.c.id, path.c.hash_part, path.c.name, path.c.nar_id, path.c.created_at)
        .where(by_id(path.c.cache_id) == cache_id, path.c.hidden_at.is_(None), path.c.id > after)
        .order_by(path.c.id)
        .limit(PAGE_ROWS)
    )
    return [(row.id, row.hash_part, row.name, row.nar_id, row.created_at) for row in rows]


def page_of_references(connection: Connection, cache_id: int, after: int) -> list[tuple[int, str]]:
    """The same with the references: id, and base names joined by spaces."""
    rows = connection.execute(
        select(path.c.id, path.c.references)
        .where(by_id(path.c.cache_id) == cache_id, path.c.hidden_at.is_(None), path.c.id > after)
        .order_by(path.c.id)
        .limit(PAGE_ROWS)
    )
    return [(row.id, row.references) for row in rows]


def newer_paths(connection: Connection, cache_id: int, generation: int) -> list[tuple[str, str]]:
    """The visible paths that became visible after that generation: hash part, and references joined by spaces."""
    rows = connection.execute(
        select(path.c.hash_part, path.c.references).where(
            path.c.cache_id == cache_id, path.c.generation > generation, path.c.hidden_at.is_(None)
        )
    )
    return [(row.hash_part, row.references) for row in rows]


def hide(connection: Connection, paths: Iterable[tuple[int, str]], *, now: int) -> None:
    """Hide paths, each given by its id with the reason. The caller knows that nothing visible refers to them."""
    rows = [{"row_id": path_id, "reason": reason} for path_id, reason in paths]
    if rows:
        statement = (
            update(path)
            .where(path.c.id == bindparam("row_id"), path.c.hidden_at.is_(None))
            .values(hidden_at=now, hidden_because=bindparam("reason"))
        )
        connection.execute(statement, rows)


def set_stored_bytes(connection: Connection, cache_id: int, stored_bytes: int) -> None:
    """Note the size of a cache."""
    connection.execute(update(cache).where(cache.c.id == cache_id).values(stored_bytes=stored_bytes))


def page_of_recipes(connection: Connection, domain_id: int, after: int) -> list[tuple[int, bytes]]:
    """The next NARs of the domain after that id, and their encoded recipes."""
    rows = connection.execute(
        select(nar.c.id, recipe.c.body)
        .where(by_id(nar.c.domain_id) == domain_id, nar.c.id > after, recipe.c.nar_id == nar.c.id)
        .order_by(nar.c.id)
        .limit(_BATCH)
    )
    return [(row.id, row.body) for row in rows]


def load_recipes(connection: Connection, nar_ids: Collection[int]) -> dict[int, bytes]:
    """The encoded recipes of NARs, at most a thousand."""
    rows = connection.execute(select(recipe.c.nar_id, recipe.c.body).where(recipe.c.nar_id.in_(nar_ids)))
    return {row.nar_id: row.body for row in rows}


def page_of_chunks(connection: Connection, domain_id: int, after: int) -> list[tuple[int, int, int, bool]]:
    """The next chunks of the domain, by number, after that number: number, pack, stored bytes, and whether it is sound.

    There are millions, read more than once a plan: to make an object of each takes as long as to read it.
    """
    rows = connection.execute(
        select(chunk.c.number, chunk.c.pack_id, chunk.c.stored_bytes, chunk.c.quarantined_at.is_(None))
        .where(by_id(chunk.c.domain_id) == domain_id, chunk.c.number > after)
        .order_by(chunk.c.number)
        .limit(PAGE_ROWS)
    )
    return [(number, pack_id, stored_bytes, bool(is_sound)) for number, pack_id, stored_bytes, is_sound in rows]


def list_packs(connection: Connection, domain_id: int) -> list[PackRow]:
    """All packs of the domain."""
    rows = connection.execute(
        select(pack.c.id, pack.c.name, pack.c.size_bytes, pack.c.created_at, pack.c.condemned_at).where(
            pack.c.domain_id == domain_id
        )
    )
    return [PackRow(*row) for row in rows]


def set_condemned(connection: Connection, pack_ids: Sequence[int], condemned_at: int | None) -> None:
    """Condemn packs, or lift their condemnation."""
    for start in range(0, len(pack_ids), _BATCH):
        batch = pack_ids[start : start + _BATCH]
        connection.execute(update(pack).where(pack.c.id.in_(batch)).values(condemned_at=condemned_at))


def delete_pack(connection: Connection, pack_id: int, *, condemned_at: int) -> bool:
    """Delete a pack's rows. False, and nothing changed, if its condemnation is another one now or was lifted."""
    still = (pack.c.id == pack_id) & (pack.c.condemned_at == condemned_at)
    if connection.execute(select(pack.c.id).where(still)).first() is None:
        return False
    connection.execute(delete(chunk).where(chunk.c.pack_id == pack_id))
    connection.execute(delete(pack).where(pack.c.id == pack_id))
    return True


def find_known_objects(connection: Connection, domain_id: int, names: Sequence[bytes]) -> set[bytes]:
    """Those of the names, at most a thousand, that a pack of the domain or a log of one of its caches has."""
    packs = select(pack.c.name).where(pack.c.domain_id == domain_id, pack.c.name.in_(names))
    logs = select(build_log.c.blob_name).where(
        build_log.c.cache_id == cache.c.id, cache.c.domain_id == domain_id, build_log.c.blob_name.in_(names)
    )
    return {*connection.execute(packs).scalars(), *connection.execute(logs).scalars()}


def load_compactable(connection: Connection, pack_ids: Sequence[int]) -> list[CompactableChunk]:
    """The sound chunks of a few packs, as they stand in them."""
    rows = connection.execute(
        select(chunk)
        .where(chunk.c.pack_id.in_(pack_ids), chunk.c.quarantined_at.is_(None))
        .order_by(chunk.c.pack_id, chunk.c.pack_offset)
    )
    return [
        CompactableChunk(
            row.number, row.pack_id, row.pack_offset, row.identity, row.stored_bytes, row.raw_bytes, row.places
        )
        for row in rows
    ]


def move_chunks(
    connection: Connection,
    domain_id: int,
    name: bytes,
    size_bytes: int,
    moves: Sequence[tuple[CompactableChunk, int]],
    *,
    now: int,
) -> int:
    """Have chunks stand in a new pack that is durable already, each at the offset given; how many did not go elsewhere.

    The packs that they leave are condemned if nothing else condemned them before.
    """
    pack_id = put_pack(connection, domain_id, name, size_bytes, now=now)
    moved = 0
    for one, offset in moves:
        still = (chunk.c.number == one.number) & (chunk.c.pack_id == one.pack_id)
        statement = update(chunk).where(still, chunk.c.pack_offset == one.pack_offset)
        moved += connection.execute(statement.values(pack_id=pack_id, pack_offset=offset)).rowcount
    left = {one.pack_id for one, _ in moves} - {pack_id}
    connection.execute(update(pack).where(pack.c.id.in_(left), pack.c.condemned_at.is_(None)).values(condemned_at=now))
    return moved


def count_purgeable_paths(connection: Connection, domain_id: int, *, now: int) -> int:
    """How many paths of the domain's caches were in the trash for as long as their cache keeps them there."""
    statement = select(func.count()).select_from(path.join(cache)).where(_is_purgeable(domain_id, now))
    return connection.execute(statement).scalar_one()


def purge_paths(connection: Connection, domain_id: int, *, now: int) -> list[int]:
    """Delete some of those paths, at most a thousand, those hidden first before others, and note it; their ids."""
    found = connection.execute(
        select(path.c.id, *(path.c[name] for name in _NOTED))
        .select_from(path.join(cache))
        .where(_is_purgeable(domain_id, now))
        .order_by(path.c.hidden_at, path.c.id)
        .limit(_BATCH)
    ).all()
    ids = [row.id for row in found]
    connection.execute(delete(path).where(path.c.id.in_(ids)))
    _note_purged(connection, found, now=now)
    return ids


def _note_purged(connection: Connection, rows: Sequence[Row[Any]], *, now: int) -> None:
    if not rows:
        return
    same = (purged_path.c.cache_id == bindparam("cache")) & (purged_path.c.hash_part == bindparam("part"))
    connection.execute(
        delete(purged_path).where(same), [{"cache": row.cache_id, "part": row.hash_part} for row in rows]
    )
    noted = [{name: getattr(row, name) for name in _NOTED} | {"purged_at": now} for row in rows]
    connection.execute(insert(purged_path), noted)


def forget_purged(connection: Connection, *, now: int, most: int = PURGED_KEPT) -> int:
    """Delete the oldest notes of purged paths that are more than *most*, or older than a year; a thousand at a time.

    Returns:
        How many were deleted.
    """
    last = select(func.coalesce(func.max(purged_path.c.id), 0)).scalar_subquery()
    oldest = select(purged_path.c.id, purged_path.c.purged_at).order_by(purged_path.c.id).limit(_BATCH).subquery()
    is_old = (oldest.c.id <= last - most) | (oldest.c.purged_at < now - PURGED_KEPT_SECONDS)
    statement = delete(purged_path).where(purged_path.c.id.in_(select(oldest.c.id).where(is_old)))
    return connection.execute(statement).rowcount


def page_of_purgeable_nars(connection: Connection, domain_id: int, after: int, *, now: int) -> list[int]:
    """The next NARs of the domain, by id, that no path needs, but such as can be purged, and that nobody awaits."""
    young = now - GRACE_SECONDS
    has_path = exists().where(path.c.nar_id == nar.c.id, cache.c.id == path.c.cache_id, not_(_is_in_trash_long(now)))
    is_staged = exists().where(upload.c.nar_id == nar.c.id, upload.c.created_at >= young)
    is_awaited = exists().where(
        waiting_path.c.nar_hash == nar.c.nar_hash,
        waiting_path.c.created_at >= young,
        cache.c.id == waiting_path.c.cache_id,
        cache.c.domain_id == domain_id,
    )
    rows = connection.execute(
        select(nar.c.id)
        .where(by_id(nar.c.domain_id) == domain_id, nar.c.id > after, nar.c.created_at < young)
        .where(not_(has_path), not_(is_staged), not_(is_awaited))
        .order_by(nar.c.id)
        .limit(_BATCH)
    )
    return list(rows.scalars())


def purge_nars(connection: Connection, domain_id: int, *, now: int) -> int:
    """Delete some of those NARs with their recipes and uploads, at most a thousand; how many."""
    ids = page_of_purgeable_nars(connection, domain_id, 0, now=now)
    connection.execute(delete(nar).where(nar.c.id.in_(ids)))
    return len(ids)


def purge_staged(connection: Connection, domain_id: int, *, now: int) -> int:
    """Forget what waited for too long: paths for their references, and uploads for a path; how many."""
    young = now - GRACE_SECONDS
    caches = select(cache.c.id).where(cache.c.domain_id == domain_id)
    waiting = connection.execute(
        delete(waiting_path).where(waiting_path.c.cache_id.in_(caches), waiting_path.c.created_at < young)
    )
    has_path = exists().where(path.c.nar_id == upload.c.nar_id, path.c.cache_id == upload.c.cache_id)
    staged = connection.execute(
        delete(upload).where(upload.c.cache_id.in_(caches), upload.c.created_at < young, not_(has_path))
    )
    return waiting.rowcount + staged.rowcount


def add_collection(
    connection: Connection, *, cache_name: str | None, began_at: int, ended_at: int, started_by: str, result: str
) -> None:
    """Note what a collection did."""
    values = {"cache_name": cache_name, "began_at": began_at, "ended_at": ended_at}
    connection.execute(insert(collection).values(**values, started_by=started_by, result=result))


def _is_purgeable(domain_id: int, now: int) -> ColumnElement[bool]:
    return (cache.c.domain_id == domain_id) & _is_in_trash_long(now)


def _is_in_trash_long(now: int) -> ColumnElement[bool]:
    # Damage may have hidden what a pin keeps, which then waits for its repair, with all that it reaches: so a cache
    # purges nothing while that is so.
    in_doubt = select(path.c.cache_id).where(path.c.id == pin_revision.c.path_id, path.c.hidden_at.is_not(None))
    is_sure = cache.c.id.not_in(in_doubt.correlate(None))
    return is_sure & path.c.hidden_at.is_not(None) & (path.c.hidden_at < now - cache.c.trash_seconds)
