"""Rows of the audit log, which only grows, but for exchanges of identities."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, literal, literal_column, or_, select

from icehouse.db.schema import audit
from icehouse.rules.audit import Action, Actor, AuditFilter


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
    old = select(audit.c.id).where(is_exchange, audit.c.at < before).limit(limit)
    return connection.execute(delete(audit).where(audit.c.id.in_(old))).rowcount


def page_changes(connection: Connection, reach: str, wanted: AuditFilter, *, limit: int) -> list[AuditRow]:
    """The newest rows that are wanted, of those that concern no more caches than the pattern *reach* matches."""
    # Names and patterns have none of the letters that LIKE gives a meaning. A star of a row's pattern is only matched
    # by a star of *reach*, so this is `rules.access.covers`.
    statement = select(audit).where(audit.c.cache_pattern.like(reach.replace("*", "%")))
    if wanted.cache_name is not None:
        statement = statement.where(literal(wanted.cache_name).like(func.replace(audit.c.cache_pattern, "*", "%")))
    if wanted.action is not None:
        of_kind = audit.c.action.startswith(wanted.action, autoescape=True)
        statement = statement.where(of_kind if wanted.action.endswith(".") else audit.c.action == wanted.action)
    if wanted.by is not None:
        is_who = audit.c.who.contains(wanted.by, autoescape=True)
        number = int(wanted.by) if wanted.by.isascii() and wanted.by.isdecimal() else None
        statement = statement.where(is_who if number is None else or_(is_who, audit.c.token_id == number))
    if wanted.since is not None:
        statement = statement.where(audit.c.at >= wanted.since)
    if wanted.before is not None:
        statement = statement.where(audit.c.id < wanted.before)
    return [
        AuditRow(
            id=row.id,
            at=row.at,
            actor=Actor(row.who, row.token_id, row.address, row.request_id),
            change=Change(Action(row.action), row.cache_pattern, row.subject, row.old_values, row.new_values),
        )
        for row in connection.execute(statement.order_by(audit.c.id.desc()).limit(limit))
    ]
