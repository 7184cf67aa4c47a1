"""Rows of pins and their revisions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from icehouse.db.query_plans import by_id
from icehouse.db.schema import path, pin, pin_revision, token
from icehouse.nix.store_paths import HASH_PART_LENGTH, HashPart, StorePath
from icehouse.rules.pins import Keep, Pin, Revision

_BATCH: Final = 1000  # values in one IN list
_ARTIFACTS: Final = msgspec.json.Decoder(tuple[str, ...])


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """A revision of a pin, with what is shown of it."""

    revision: Revision
    store_path: StorePath
    hidden_at: int | None
    """Of its path; `None`: that is visible."""
    artifacts: tuple[str, ...]
    created_by: str | None
    """Description of the token."""


@dataclass(frozen=True, slots=True)
class PinRow:
    """A pin."""

    id: int
    name: str
    keep: Keep
    created_at: int
    newest: RevisionRow


@dataclass(frozen=True, slots=True)
class Links:
    """A path and its references, as base names: a closure has thousands, and nothing else of them is looked at."""

    base_name: str
    references: Sequence[str]


def find_pin(connection: Connection, cache_id: int, name: str) -> PinRow | None:
    """The pin of that name, or `None`."""
    row = connection.execute(_select_pins(cache_id).where(pin.c.name == name)).first()
    return None if row is None else _pin_row(row)


def list_pins(connection: Connection, cache_id: int) -> tuple[PinRow, ...]:
    """All pins of a cache, by name."""
    return tuple(_pin_row(row) for row in connection.execute(_select_pins(cache_id).order_by(pin.c.name)))


def page_pins(connection: Connection, cache_id: int, *, after: str, limit: int) -> tuple[PinRow, ...]:
    """The next pins of a cache behind that name, by name."""
    wanted = _select_pins(cache_id).where(pin.c.name > after).order_by(pin.c.name).limit(limit)
    return tuple(_pin_row(row) for row in connection.execute(wanted))


def load_pins(connection: Connection, cache_id: int) -> tuple[Pin, ...]:
    """All pins of a cache with all their revisions, by name."""
    rows = connection.execute(
        select(
            pin.c.id,
            pin.c.name,
            pin.c.keep_days,
            pin.c.keep_revisions,
            pin_revision.c.number,
            pin_revision.c.path_id,
            pin_revision.c.created_at,
        )
        .join(pin_revision, pin_revision.c.pin_id == pin.c.id)
        .where(pin.c.cache_id == cache_id)
        .order_by(pin.c.name, pin_revision.c.number)
    )
    pins: list[Pin] = []
    for _, group in groupby(rows, key=lambda row: row.id):
        same = list(group)
        revisions = tuple(Revision(row.number, row.path_id, row.created_at) for row in same)
        pins.append(Pin(same[0].name, Keep(same[0].keep_days, same[0].keep_revisions), revisions))
    return tuple(pins)


def load_revisions(connection: Connection, pin_id: int) -> tuple[Revision, ...]:
    """All revisions of a pin, ascending."""
    rows = connection.execute(
        select(pin_revision.c.number, pin_revision.c.path_id, pin_revision.c.created_at)
        .where(pin_revision.c.pin_id == pin_id)
        .order_by(pin_revision.c.number)
    )
    return tuple(Revision(row.number, row.path_id, row.created_at) for row in rows)


def page_revisions(connection: Connection, pin_id: int, *, before: int | None, limit: int) -> tuple[RevisionRow, ...]:
    """The newest revisions of a pin whose number is lower than *before*, descending."""
    wanted = _select_revisions().where(pin_revision.c.pin_id == pin_id)
    if before is not None:
        wanted = wanted.where(pin_revision.c.number < before)
    rows = connection.execute(wanted.order_by(pin_revision.c.number.desc()).limit(limit))
    return tuple(_revision_row(row) for row in rows)


def count_pins(connection: Connection, cache_id: int) -> int:
    """How many pins a cache has."""
    return connection.execute(select(func.count()).select_from(pin).where(pin.c.cache_id == cache_id)).scalar_one()


def insert_pin(connection: Connection, cache_id: int, name: str, keep: Keep, *, now: int) -> int:
    """Add a pin, which needs a revision at once; give its id."""
    values = {"cache_id": cache_id, "name": name, "keep_days": keep.days, "keep_revisions": keep.revisions}
    return connection.execute(insert(pin).values(**values, created_at=now).returning(pin.c.id)).scalar_one()


def set_keep(connection: Connection, pin_id: int, keep: Keep) -> None:
    """Change which revisions a pin keeps."""
    values = {"keep_days": keep.days, "keep_revisions": keep.revisions}
    connection.execute(update(pin).where(pin.c.id == pin_id).values(**values))


def insert_revision(
    connection: Connection, pin_id: int, revision: Revision, artifacts: Collection[str], *, created_by: int | None
) -> None:
    """Add a revision to a pin."""
    connection.execute(
        insert(pin_revision).values(
            pin_id=pin_id,
            number=revision.number,
            path_id=revision.path_id,
            artifacts=_render_artifacts(artifacts),
            created_at=revision.created_at,
            created_by=created_by,
        )
    )


def set_artifacts(connection: Connection, pin_id: int, number: int, artifacts: Collection[str]) -> None:
    """Replace the artifacts of a revision."""
    connection.execute(
        update(pin_revision)
        .where(pin_revision.c.pin_id == pin_id, pin_revision.c.number == number)
        .values(artifacts=_render_artifacts(artifacts))
    )


def delete_revisions(connection: Connection, pin_id: int, numbers: Collection[int]) -> None:
    """Remove revisions of a pin, which must keep one."""
    left = list(numbers)
    for start in range(0, len(left), _BATCH):
        some = left[start : start + _BATCH]
        connection.execute(delete(pin_revision).where(pin_revision.c.pin_id == pin_id, pin_revision.c.number.in_(some)))


def delete_pin(connection: Connection, cache_id: int, name: str) -> bool:
    """Remove a pin with its revisions; whether there was one."""
    return connection.execute(delete(pin).where(pin.c.cache_id == cache_id, pin.c.name == name)).rowcount > 0


def find_links(
    connection: Connection, cache_id: int, hash_parts: Sequence[HashPart], *, since: int = 0
) -> dict[HashPart, Links]:
    """Those of at most a thousand *hash_parts* that are visible in the cache, with what they refer to.

    With *since* only those that became visible in that generation of the cache or later.
    """
    rows = connection.execute(
        select(path.c.hash_part, path.c.name, path.c.references).where(
            path.c.cache_id == cache_id,
            path.c.hash_part.in_(hash_parts),
            path.c.hidden_at.is_(None),
            path.c.generation + 0 >= since,  # else SQLite goes by the index of this, through all that is newer
        )
    )
    return {row.hash_part: Links(f"{row.hash_part}-{row.name}", row.references.split()) for row in rows}


def find_reach_of_hidden(connection: Connection, cache_id: int, path_ids: Collection[int]) -> dict[int, set[HashPart]]:
    """For those of the paths that are hidden, all that they reach in the cache, be it visible or hidden.

    What a pin keeps is hidden only while something of it is damaged or revoked, and is whole again after that.
    """
    ids = list(path_ids)
    hidden: dict[int, HashPart] = {}
    for start in range(0, len(ids), _BATCH):
        is_hidden = path.c.id.in_(ids[start : start + _BATCH]) & by_id(path.c.hidden_at).is_not(None)
        rows = connection.execute(select(path.c.id, path.c.hash_part).where(is_hidden))
        hidden.update((row.id, row.hash_part) for row in rows)
    return {path_id: _find_reach(connection, cache_id, hash_part) for path_id, hash_part in hidden.items()}


def _find_reach(connection: Connection, cache_id: int, hash_part: HashPart) -> set[HashPart]:
    reached = {hash_part}
    waiting = [hash_part]
    while waiting:
        batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
        is_next = (path.c.cache_id == cache_id) & path.c.hash_part.in_(batch)
        rows = connection.execute(select(path.c.references).where(is_next))
        found = {HashPart(each[:HASH_PART_LENGTH]) for row in rows for each in row.references.split()} - reached
        reached |= found
        waiting += found
    return reached


def _select_revisions() -> Select[*tuple[Any, ...]]:
    return (
        select(
            pin_revision.c.number,
            pin_revision.c.path_id,
            pin_revision.c.created_at,
            pin_revision.c.artifacts,
            path.c.hash_part,
            path.c.name.label("path_name"),
            path.c.hidden_at,
            token.c.description,
        )
        .select_from(pin_revision)
        .join(path, path.c.id == pin_revision.c.path_id)
        .outerjoin(token, token.c.id == pin_revision.c.created_by)
    )


def _select_pins(cache_id: int) -> Select[*tuple[Any, ...]]:
    of_pin = pin_revision.alias()
    newest = select(func.max(of_pin.c.number)).where(of_pin.c.pin_id == pin.c.id).scalar_subquery()
    return (
        _select_revisions()
        .add_columns(
            pin.c.id, pin.c.name, pin.c.keep_days, pin.c.keep_revisions, pin.c.created_at.label("pin_created_at")
        )
        .join(pin, pin.c.id == pin_revision.c.pin_id)
        .where(pin.c.cache_id == cache_id, pin_revision.c.number == newest)
    )


def _pin_row(row: Row[Any]) -> PinRow:
    return PinRow(
        id=row.id,
        name=row.name,
        keep=Keep(row.keep_days, row.keep_revisions),
        created_at=row.pin_created_at,
        newest=_revision_row(row),
    )


def _revision_row(row: Row[Any]) -> RevisionRow:
    return RevisionRow(
        revision=Revision(row.number, row.path_id, row.created_at),
        store_path=StorePath(row.hash_part, row.path_name),
        hidden_at=row.hidden_at,
        artifacts=_ARTIFACTS.decode(row.artifacts),
        created_by=row.description,
    )


def _render_artifacts(artifacts: Collection[str]) -> str:
    return msgspec.json.encode(list(artifacts)).decode()
