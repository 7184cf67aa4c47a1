"""What rebuilding reads and adds: never more than is missing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, insert, select, update

from icehouse.db.chunks import ChunkRow, find_by_names
from icehouse.db.schema import chunk, domain, pack, path, upstream
from icehouse.rules.chunks import CHUNK_NAME_BYTES
from icehouse.rules.packs import PackEntry, render_places


def newest_path_time(connection: Connection) -> int | None:
    """When the newest path was published; `None`: there is none."""
    return connection.execute(select(func.max(path.c.created_at))).scalar()


def put_domain(connection: Connection, domain_id: int, *, now: int) -> None:
    """Make the domain of that number, unless it is there."""
    if connection.execute(select(domain.c.id).where(domain.c.id == domain_id)).first() is None:
        connection.execute(insert(domain).values(id=domain_id, created_at=now))


def has_pack(connection: Connection, domain_id: int, name: bytes) -> bool:
    """Whether the database knows the pack."""
    return (
        connection.execute(select(pack.c.id).where(pack.c.domain_id == domain_id, pack.c.name == name)).first()
        is not None
    )


def add_found_pack(
    connection: Connection,
    domain_id: int,
    name: bytes,
    size_bytes: int,
    entries: Sequence[tuple[PackEntry, int]],
    *,
    now: int,
) -> int:
    """Add a pack that the database does not know, with those of its chunks that are not there or are quarantined.

    Args:
        connection: of a writing transaction.
        domain_id: whose it is; the domain is made if absent.
        name: BLAKE3 of its bytes.
        size_bytes: of the object.
        entries: its sound frames, each with its offset.
        now: seconds since the epoch.

    Returns:
        How many chunks were added or got a frame again.
    """
    if has_pack(connection, domain_id, name):
        return 0
    put_domain(connection, domain_id, now=now)
    columns = select(chunk.c.identity, chunk.c.number, chunk.c.quarantined_at.is_(None))
    rows = find_by_names(connection, columns, domain_id, [entry.identity for entry, _ in entries])
    known = {identity: (number, bool(is_sound)) for identity, number, is_sound in rows}
    names = {identity[:CHUNK_NAME_BYTES] for identity in known}
    statement = insert(pack).values(domain_id=domain_id, name=name, size_bytes=size_bytes, created_at=now)
    pack_id = connection.execute(statement.returning(pack.c.id)).scalar_one()
    new: list[dict[str, object]] = []
    healed = 0
    for entry, offset in entries:
        number, is_sound = known.get(entry.identity, (0, False))
        if is_sound:
            continue
        values: dict[str, object] = {
            "pack_id": pack_id,
            "pack_offset": offset,
            "stored_bytes": entry.stored_bytes,
            "raw_bytes": entry.raw_bytes,
            "places": render_places(entry.places) if entry.places.positions else None,
            "quarantined_at": None,
        }
        if number:
            connection.execute(update(chunk).where(chunk.c.number == number).values(**values))
            healed += 1
        elif entry.identity[:CHUNK_NAME_BYTES] not in names:  # or it was refused while the other one was there
            new.append({**values, "domain_id": domain_id, "identity": entry.identity})
    if new:
        connection.execute(insert(chunk), new)
    return len(new) + healed


def find_named_chunks(connection: Connection, domain_id: int, names: Sequence[bytes]) -> dict[bytes, ChunkRow]:
    """The sound chunks of these names, by name. Those that are not there are left out."""
    columns = select(
        chunk.c.number,
        chunk.c.identity,
        pack.c.name,
        chunk.c.pack_offset,
        chunk.c.stored_bytes,
        chunk.c.raw_bytes,
        chunk.c.places,
    ).where(chunk.c.domain_id == domain_id, pack.c.id == chunk.c.pack_id, chunk.c.quarantined_at.is_(None))
    rows = find_by_names(connection, columns, domain_id, dict.fromkeys(names))
    return {row.identity[:CHUNK_NAME_BYTES]: ChunkRow(*row, is_sound=True) for row in rows}


def put_upstream(connection: Connection, cache_id: int, url: str, public_keys: str) -> int:
    """The number of an upstream of a cache, which is added if absent, with the keys given."""
    found = connection.execute(
        select(upstream.c.id).where(upstream.c.cache_id == cache_id, upstream.c.url == url)
    ).scalar()
    if found is not None:
        return found
    statement = insert(upstream).values(cache_id=cache_id, url=url, public_keys=public_keys)
    return connection.execute(statement.returning(upstream.c.id)).scalar_one()
