"""Rows of people whom a provider knows."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import insert

from icehouse.db.schema import person
from icehouse.rules.people import Person


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
