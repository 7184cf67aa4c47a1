"""Rows of paths that were published before their references, and that nobody sees until these are there."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, delete, func, insert, select

from icehouse.db.paths import parse_references, render_references
from icehouse.db.schema import waiting_path, waiting_reference
from icehouse.errors import TooLarge
from icehouse.nix.content_address import ContentAddress
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.rules.closures import PathRecord
from icehouse.rules.provenance import PublishedBy

MAX_WAITING_REFERENCES: Final = 200_000
"""Of all paths that wait in a cache. One path may complete all of them, in one transaction."""

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A path that waits."""

    record: PathRecord
    origin: PublishedBy


def load_waiting_for(
    connection: Connection, cache_id: int, hash_parts: Collection[HashPart]
) -> dict[HashPart, WaitingRow]:
    """The paths that wait for one of *hash_parts*, for one that waits for these, and so on."""
    found: dict[HashPart, WaitingRow] = {}
    frontier = set(hash_parts)
    while frontier:
        rows: list[WaitingRow] = []
        for batch in _batches(frontier):
            awaited = select(waiting_reference.c.waiting_id).where(waiting_reference.c.hash_part.in_(batch))
            statement = select(waiting_path).where(waiting_path.c.cache_id == cache_id, waiting_path.c.id.in_(awaited))
            rows.extend(_load(connection, statement))
        frontier = {row.record.store_path.hash_part for row in rows} - found.keys()
        found |= {row.record.store_path.hash_part: row for row in rows}
    return found


def put_waiting(connection: Connection, cache_id: int, record: PathRecord, origin: PublishedBy, *, now: int) -> None:
    """Keep a path until its references are there. What waited under its hash part is replaced.

    Raises:
        TooLarge: the paths that wait have more than `MAX_WAITING_REFERENCES` with this one.
    """
    path = record.store_path
    delete_waiting(connection, cache_id, [path.hash_part])
    if _count_references(connection, cache_id) + len(record.references) > MAX_WAITING_REFERENCES:
        raise TooLarge(
            f"{path.base_name}: its references are not here, and those of the paths that wait in this cache are "
            f"{MAX_WAITING_REFERENCES} already; send paths after their references"
        )
    waiting_id = connection.execute(
        insert(waiting_path)
        .values(
            cache_id=cache_id,
            hash_part=path.hash_part,
            name=path.name,
            nar_hash=record.nar_hash,
            nar_size=record.nar_size,
            references=render_references(record.references),
            deriver=None if record.deriver is None else record.deriver.base_name,
            system=record.system,
            ca=None if record.ca is None else record.ca.render(),
            signatures=" ".join(signature.render() for signature in record.signatures),
            created_at=now,
            published_by=origin.token_id,
            published_from=origin.address,
        )
        .returning(waiting_path.c.id)
    ).scalar_one()
    awaited = [
        {"waiting_id": waiting_id, "hash_part": reference.hash_part}
        for reference in record.references
        if reference.hash_part != path.hash_part
    ]
    connection.execute(insert(waiting_reference), awaited)


def delete_waiting(connection: Connection, cache_id: int, hash_parts: Iterable[HashPart]) -> None:
    """Forget that these wait: they are visible now, or nobody wants them any more."""
    for batch in _batches(hash_parts):
        connection.execute(
            delete(waiting_path).where(waiting_path.c.cache_id == cache_id, waiting_path.c.hash_part.in_(batch))
        )


def find_waiting(connection: Connection, cache_id: int, hash_part: HashPart) -> WaitingRow | None:
    """The path that waits under that hash part."""
    statement = select(waiting_path).where(waiting_path.c.cache_id == cache_id, waiting_path.c.hash_part == hash_part)
    return next(_load(connection, statement), None)


def _count_references(connection: Connection, cache_id: int) -> int:
    waiting = select(waiting_path.c.id).where(waiting_path.c.cache_id == cache_id)
    awaited = select(func.count()).select_from(waiting_reference).where(waiting_reference.c.waiting_id.in_(waiting))
    return connection.execute(awaited).scalar_one()


def _load(connection: Connection, statement: Select[Any]) -> Iterator[WaitingRow]:
    for row in connection.execute(statement):
        record = PathRecord(
            store_path=StorePath(row.hash_part, row.name),
            nar_hash=row.nar_hash,
            nar_size=row.nar_size,
            references=parse_references(row.references),
            deriver=None if row.deriver is None else StorePath.parse(row.deriver),
            system=row.system,
            ca=None if row.ca is None else ContentAddress.parse(row.ca),
            signatures=tuple(Signature.parse(text) for text in row.signatures.split()),
        )
        yield WaitingRow(record, PublishedBy(row.published_by, row.published_from))


def _batches(hash_parts: Iterable[HashPart]) -> Iterator[list[HashPart]]:
    values = list(hash_parts)
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
