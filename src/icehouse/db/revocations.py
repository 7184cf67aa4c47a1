"""Rows of revocations, and the paths that they hold back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Row, and_, delete, insert, select, update

from icehouse.db.query_plans import by_id
from icehouse.db.schema import cache, job, path, revocation, token, waiting_path
from icehouse.db.tokens import get_token
from icehouse.db.trust import find_job
from icehouse.errors import Denied, NotFound
from icehouse.nix.store_paths import HashPart
from icehouse.rules.revocation import REVOCATION, Target, is_meant, parse_target, reason_prefix, render_target

_BATCH: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Revoked:
    """What is held back: what *target* published from *since* until before *until*; `None`: from now on too."""

    target: Target
    since: int
    until: int | None


@dataclass(frozen=True, slots=True)
class RevocationRow:
    """A revocation. `undone_at` is `None` while it is in force."""

    id: int
    revoked: Revoked
    cache_id: int | None
    """`None`: of all caches."""
    created_at: int
    created_by: int | None
    undone_at: int | None


@dataclass(frozen=True, slots=True)
class PublishedPath:
    """A path that somebody published."""

    id: int
    hash_part: HashPart
    base_name: str
    is_visible: bool


def insert_revocation(
    connection: Connection, revoked: Revoked, cache_id: int | None, *, created_by: int | None, now: int
) -> int:
    """Note a revocation; its number."""
    target = revoked.target
    by = {"token": str(target.token_id)} if target.token_id is not None else dict(target.job)
    values = {"target": msgspec.json.encode(by).decode(), "since": revoked.since, "until": revoked.until}
    statement = insert(revocation).values(**values, cache_id=cache_id, created_by=created_by, created_at=now)
    return connection.execute(statement.returning(revocation.c.id)).scalar_one()


def list_revocations(connection: Connection) -> list[RevocationRow]:
    """All of them, undone ones too, oldest first."""
    return [_row(row) for row in connection.execute(select(revocation).order_by(revocation.c.id))]


def get_revocation(connection: Connection, revocation_id: int) -> RevocationRow:
    """A revocation by its number.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(select(revocation).where(revocation.c.id == revocation_id)).first()
    if row is None:
        raise NotFound(f"there is no revocation {revocation_id}")
    return _row(row)


def check_may_publish(
    connection: Connection, cache_id: int, token_id: int | None, hash_parts: Collection[HashPart]
) -> None:
    """Return if no revocation in force keeps who has that token from publishing these paths.

    Raises:
        Denied: one does: it means all that they publish, or these paths were published by them before.
    """
    is_here = revocation.c.cache_id.is_(None) | (revocation.c.cache_id == cache_id)
    rows = connection.execute(select(revocation).where(revocation.c.undone_at.is_(None), is_here)).all()
    if not rows or token_id is None:
        return
    job_id = get_token(connection, token_id).job_id
    identity = None if job_id is None else find_job(connection, job_id)
    for row in (_row(each) for each in rows):
        target = row.revoked.target
        if not is_meant(target, token_id, identity):
            continue
        if row.revoked.until is None:
            raise Denied(f"what {render_target(target)} publishes is revoked (revocation {row.id})")
        for batch in _batches(list(hash_parts)):
            held = select(path.c.name).where(path.c.cache_id == cache_id, path.c.hash_part.in_(batch))
            name = connection.execute(held.where(path.c.revocation_id == row.id).limit(1)).scalar()
            if name is not None:
                raise Denied(
                    f"{name} was published by {render_target(target)}, and revocation {row.id} holds it back; somebody "
                    "else may publish it, or the revocation be undone"
                )


def page_of_published(
    connection: Connection, cache_id: int, revoked: Revoked, *, first: int, last: int
) -> list[PublishedPath]:
    """What a revocation means, visible or hidden, among the paths with these ids."""
    is_of_cache = by_id(path.c.cache_id) == cache_id
    return _find(connection, path.c.id.between(first, last) & is_of_cache & _is_revoked(revoked))


def find_still_published(
    connection: Connection, cache_id: int, revoked: Revoked, path_ids: Sequence[int], generation: int
) -> list[PublishedPath]:
    """Those of the paths that a revocation still means, and what became visible after that generation."""
    newer = and_(path.c.cache_id == cache_id, path.c.generation > generation)
    found = _find(connection, newer & _is_revoked(revoked))
    for batch in _batches(path_ids):
        found += _find(connection, path.c.id.in_(batch) & _is_revoked(revoked))
    return list({each.id: each for each in found}.values())


def forget_waiting(connection: Connection, cache_id: int, revoked: Revoked) -> None:
    """Forget paths that wait for their references: somebody else's push would make them visible."""
    theirs = _is_theirs(revoked.target, waiting_path.c.published_by)
    connection.execute(delete(waiting_path).where(waiting_path.c.cache_id == cache_id, theirs))


def hold_back(connection: Connection, path_ids: Sequence[int], revocation_id: int) -> None:
    """Mark paths, hidden or about to be, so that nothing but the end of the revocation restores them."""
    for batch in _batches(path_ids):
        connection.execute(update(path).where(path.c.id.in_(batch)).values(revocation_id=revocation_id))


def end_revocation(connection: Connection, revocation_id: int, *, now: int) -> None:
    """Note that a revocation is undone, and let go of the paths that no other one means; they stay hidden."""
    connection.execute(update(revocation).where(revocation.c.id == revocation_id).values(undone_at=now))
    for row in list_revocations(connection):
        if row.undone_at is None:
            is_meant_too = (path.c.revocation_id == revocation_id) & _is_revoked(row.revoked)
            if row.cache_id is not None:
                is_meant_too &= path.c.cache_id == row.cache_id
            connection.execute(update(path).where(is_meant_too).values(revocation_id=row.id))
    connection.execute(update(path).where(path.c.revocation_id == revocation_id).values(revocation_id=None))


def find_hidden_by(
    connection: Connection, revocation_id: int, *, first: int, last: int
) -> list[tuple[int, int, HashPart]]:
    """The paths that a revocation hid, or one that is undone, among those with these ids: id, cache, hash part.

    One that is undone left hidden what this one holds back.
    """
    undone = {row.id for row in list_revocations(connection) if row.undone_at is not None}
    prefixes = tuple(reason_prefix(number) for number in {revocation_id, *undone})
    is_hit = path.c.hidden_because.startswith(REVOCATION, autoescape=True)
    columns = (path.c.id, path.c.cache_id, path.c.hash_part, path.c.hidden_because)
    rows = connection.execute(select(*columns).where(path.c.id.between(first, last), is_hit))
    return [(row.id, row.cache_id, HashPart(row.hash_part)) for row in rows if row.hidden_because.startswith(prefixes)]


def find_same_nars(
    connection: Connection, cache_id: int, path_ids: Collection[int]
) -> dict[int, list[tuple[int, int]]]:
    """For each of those paths the ids of all of the cache that have its NAR, itself too, and since when they are there.

    A download of a NAR is noted under one of them. At most a thousand at once.
    """
    wanted = connection.execute(select(path.c.id, path.c.nar_id).where(path.c.id.in_(path_ids))).all()
    same = select(path.c.id, path.c.nar_id, path.c.created_at).where(
        path.c.nar_id.in_({row.nar_id for row in wanted}), path.c.cache_id == cache_id
    )
    by_nar: dict[int, list[tuple[int, int]]] = {}
    for row in connection.execute(same):
        by_nar.setdefault(row.nar_id, []).append((row.id, row.created_at))
    return {row.id: by_nar.get(row.nar_id, []) for row in wanted}


def find_copies(connection: Connection, cache_id: int, path_ids: Collection[int]) -> dict[int, list[tuple[int, str]]]:
    """For each of those paths the visible ones of other caches with the same name and NAR: id, `<cache>/<base name>`.

    At most a thousand at once.
    """
    columns = (path.c.id, path.c.hash_part, path.c.name, path.c.nar_hash)
    wanted = {
        (row.hash_part, row.name, row.nar_hash): row.id
        for row in connection.execute(select(*columns).where(path.c.id.in_(path_ids)))
    }
    parts = {hash_part for hash_part, _, _ in wanted}
    found: dict[int, list[tuple[int, str]]] = {}
    for other in connection.execute(select(cache.c.id, cache.c.name).where(cache.c.id != cache_id)).all():
        is_there = (path.c.cache_id == other.id) & path.c.hash_part.in_(parts) & path.c.hidden_at.is_(None)
        for row in connection.execute(select(*columns).where(is_there)):
            number = wanted.get((row.hash_part, row.name, row.nar_hash))
            if number is not None:
                found.setdefault(number, []).append((row.id, f"{other.name}/{row.hash_part}-{row.name}"))
    return found


def _find(connection: Connection, condition: ColumnElement[bool]) -> list[PublishedPath]:
    columns = (path.c.id, path.c.hash_part, path.c.name, path.c.hidden_at)
    return [
        PublishedPath(row.id, HashPart(row.hash_part), f"{row.hash_part}-{row.name}", row.hidden_at is None)
        for row in connection.execute(select(*columns).where(condition).order_by(path.c.id))
    ]


def _is_revoked(revoked: Revoked) -> ColumnElement[bool]:
    is_in_time = path.c.created_at >= revoked.since
    if revoked.until is not None:
        is_in_time &= path.c.created_at < revoked.until
    return _is_theirs(revoked.target, path.c.published_by) & is_in_time


def _is_theirs(target: Target, published_by: Column[int]) -> ColumnElement[bool]:
    number = published_by + 0  # the ids or the generation are what to go by, not the index of this
    if target.token_id is not None:
        return number == target.token_id
    jobs = [job.c[name] == value for name, value in target.job.items()]
    return number.in_(select(token.c.id).where(token.c.job_id == job.c.id, *jobs))


def _row(row: Row[Any]) -> RevocationRow:
    target = parse_target(msgspec.json.decode(row.target, type=dict[str, str]))
    revoked = Revoked(target, row.since, row.until)
    return RevocationRow(row.id, revoked, row.cache_id, row.created_at, row.created_by, row.undone_at)


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
