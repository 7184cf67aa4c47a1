"""Rows of people whom a provider knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select
from sqlalchemy.dialects.sqlite import insert

from icehouse.db.schema import person, session, token
from icehouse.db.tokens import is_valid_at, parse_roles
from icehouse.errors import NotFound
from icehouse.rules.access import Scope
from icehouse.rules.people import Person
from icehouse.rules.sessions import IDLE_SECONDS


@dataclass(frozen=True, slots=True)
class PersonRow:
    """Somebody who logged in."""

    id: int
    person: Person


def put_person(connection: Connection, known: Person, *, now: int) -> PersonRow:
    """Note that somebody logs in now, by the name that their provider gives today."""
    values = {"name": known.name, "email": known.email, "last_login_at": now}
    statement = (
        insert(person)
        .values(issuer=known.issuer, subject=known.subject, created_at=now, **values)
        .on_conflict_do_update(index_elements=["issuer", "subject"], set_=values)
        .returning(person.c.id)
    )
    return PersonRow(connection.execute(statement).scalar_one(), known)


@dataclass(frozen=True, slots=True)
class SeenPerson:
    """Somebody who logged in, with what they have here."""

    id: int
    person: Person
    created_at: int
    last_login_at: int
    roles: tuple[Scope, ...]
    """By their last login."""
    sessions: int
    tokens: int
    """Valid ones that they made for themselves."""


def get_person(connection: Connection, person_id: int) -> PersonRow:
    """The person with that number.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(select(person).where(person.c.id == person_id)).first()
    if row is None:
        raise NotFound(f"there is no person {person_id}")
    return PersonRow(row.id, Person(row.issuer, row.subject, row.name, row.email))


def page_people(
    connection: Connection, *, search: str | None, before: int | None, limit: int, now: int
) -> list[SeenPerson]:
    """Those who logged in, the newest first, of whom the name or e-mail address holds *search*."""
    statement = select(person).order_by(person.c.id.desc()).limit(limit)
    if search is not None:
        holds = [column.icontains(search, autoescape=True) for column in (person.c.name, person.c.email)]
        statement = statement.where(or_(*holds))
    if before is not None:
        statement = statement.where(person.c.id < before)
    rows = connection.execute(statement).all()
    ids = [row.id for row in rows]
    roles, sessions = _find_roles(connection, ids), count_sessions(connection, ids, now=now)
    own = select(token.c.person_id, func.count().label("number")).where(
        token.c.person_id.in_(ids), token.c.is_login == 0, is_valid_at(now)
    )
    tokens = {row.person_id: row.number for row in connection.execute(own.group_by(token.c.person_id))}
    return [
        SeenPerson(
            row.id,
            Person(row.issuer, row.subject, row.name, row.email),
            row.created_at,
            row.last_login_at,
            roles.get(row.id, ()),
            sessions.get(row.id, 0),
            tokens.get(row.id, 0),
        )
        for row in rows
    ]


def count_sessions(connection: Connection, person_ids: Collection[int], *, now: int) -> dict[int, int]:
    """How many sessions each of those people has that are not over, as far as the database knows of their uses."""
    statement = (
        select(token.c.person_id, func.count().label("number"))
        .join(session, session.c.token_id == token.c.id)
        .where(token.c.person_id.in_(person_ids), token.c.is_login == 1, is_valid_at(now))
        .where(session.c.expires_at > now, session.c.last_used_at > now - IDLE_SECONDS)
        .group_by(token.c.person_id)
    )
    return {row.person_id: row.number for row in connection.execute(statement)}


def _find_roles(connection: Connection, person_ids: Collection[int]) -> dict[int, tuple[Scope, ...]]:
    last = (
        select(func.max(token.c.id))
        .where(token.c.person_id.in_(person_ids), token.c.is_login == 1)
        .group_by(token.c.person_id)
    )
    rows = connection.execute(select(token).where(token.c.id.in_(last)))
    return {row.person_id: parse_roles(row) for row in rows}
