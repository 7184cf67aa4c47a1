"""Rows of the audit log, which only grows, but for exchanges of identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    delete,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)

from icehouse.db.query_plans import by_id
from icehouse.db.schema import audit
from icehouse.rules.audit import Action, Actor, AuditFilter, AuditPlace


@dataclass(frozen=True, slots=True)
class Change:
    """What was changed."""

    action: Action
    cache_pattern: str
    """The name of the cache that it concerns, or the pattern of all that it does."""
    subject: str | None
    """What of it: a pin, a path, the number of a token; `None`: the cache itself."""
    old: str | None
    """JSON; `None`: there was nothing before."""
    new: str | None
    """JSON; `None`: there is nothing any more."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A change of the past."""

    id: int
    at: int
    actor: Actor
    change: Change


def insert_change(connection: Connection, actor: Actor, change: Change, *, now: int) -> None:
    """Add to the log, in the transaction that makes the change."""
    connection.execute(
        insert(audit).values(
            at=now,
            action=change.action.value,
            cache_pattern=change.cache_pattern,
            subject=change.subject,
            who=actor.who,
            token_id=actor.token_id,
            address=actor.address,
            request_id=actor.request_id,
            old_values=change.old,
            new_values=change.new,
        )
    )


def count_exchanges(connection: Connection, cache_name: str, *, since: int) -> int:
    """How many exchanges for that cache the log has from then on."""
    is_exchange = audit.c.action == literal_column(f"'{Action.TOKEN_EXCHANGE}'")  # as the partial index has it
    counted = select(func.count()).select_from(audit).where(is_exchange, audit.c.cache_pattern == cache_name)
    return connection.execute(counted.where(audit.c.at >= since)).scalar_one()


def purge_exchanges(connection: Connection, *, before: int, limit: int) -> int:
    """Delete exchanges that are older than that, so many at most; how many there were."""
    is_exchange = audit.c.action == literal_column(f"'{Action.TOKEN_EXCHANGE}'")
    # By the index of exchanges, not that of times, which has all others too.
    old = select(audit.c.id).where(is_exchange, by_id(audit.c.at) < before).limit(limit)
    return connection.execute(delete(audit).where(audit.c.id.in_(old))).rowcount


def page_changes(connection: Connection, reach: Sequence[str], wanted: AuditFilter, *, limit: int) -> list[AuditRow]:
    """The newest rows that are wanted, of those that concern no more caches than a pattern of *reach* matches."""
    statement = select(audit).where(*_conditions(reach, wanted))
    if wanted.since is not None:
        statement = statement.where(audit.c.at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(audit.c.at < wanted.until)
    if wanted.before is not None:
        statement = statement.where(audit.c.id < wanted.before)
    return [_audit_row(row) for row in connection.execute(statement.order_by(audit.c.id.desc()).limit(limit))]


def look_back(
    connection: Connection,
    reach: Sequence[str],
    wanted: AuditFilter,
    *,
    before: AuditPlace | None,
    rows: int,
    limit: int,
) -> tuple[list[AuditRow], AuditPlace | None]:
    """As `page_changes`, in the order of time, looking at so many rows at most: the log may be long, and few wanted.

    Also the place down to which it looked; `None`: down to the beginning, or to `wanted.since`.
    """
    in_time: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        in_time.append(audit.c.at >= wanted.since)
    if wanted.until is not None:
        in_time.append(audit.c.at < wanted.until)
    if before is not None:
        in_time.append(tuple_(audit.c.at, audit.c.id) < tuple_(literal(before.at), literal(before.id)))
    order = (audit.c.at.desc(), audit.c.id.desc())
    place = select(audit.c.at, audit.c.id).where(*in_time).order_by(*order).offset(rows - 1).limit(1)
    last = connection.execute(place).first()
    if last is not None:
        in_time.append(tuple_(audit.c.at, audit.c.id) >= tuple_(literal(last.at), literal(last.id)))
    statement = select(audit).where(*in_time, *_conditions(reach, wanted)).order_by(*order).limit(limit)
    found = [_audit_row(row) for row in connection.execute(statement)]
    return found, None if last is None else AuditPlace(last.at, last.id)


def _conditions(reach: Sequence[str], wanted: AuditFilter) -> list[ColumnElement[bool]]:
    """What a row must be like, whenever it was made."""
    # Names and patterns have none of the letters that LIKE gives a meaning. A star of a row's pattern is only matched
    # by a star of *reach*, so this is `rules.access.covers`.
    conditions = [or_(*(audit.c.cache_pattern.like(pattern.replace("*", "%")) for pattern in reach))]
    if wanted.cache_name is not None:
        conditions.append(literal(wanted.cache_name).like(func.replace(audit.c.cache_pattern, "*", "%")))
    if wanted.action is not None:
        of_kind = audit.c.action.startswith(wanted.action, autoescape=True)
        conditions.append(of_kind if wanted.action.endswith(".") else audit.c.action == wanted.action)
    if wanted.by is not None:
        is_who = audit.c.who.contains(wanted.by, autoescape=True)
        number = int(wanted.by) if wanted.by.isascii() and wanted.by.isdecimal() else None
        conditions.append(is_who if number is None else or_(is_who, audit.c.token_id == number))
    return conditions


def _audit_row(row: Row[Any]) -> AuditRow:
    return AuditRow(
        id=row.id,
        at=row.at,
        actor=Actor(row.who, row.token_id, row.address, row.request_id),
        change=Change(Action(row.action), row.cache_pattern, row.subject, row.old_values, row.new_values),
    )
