"""Rows of sessions of the web page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, bindparam, delete, insert, or_, select, update

from icehouse.db.schema import session
from icehouse.db.tokens import TokenRow, get_token


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session, and the token that acts for it, valid or not."""

    id: int
    token: TokenRow
    created_at: int
    last_used_at: int
    expires_at: int


def insert_session(connection: Connection, secret_hash: bytes, token_id: int, *, expires_at: int, now: int) -> None:
    """Add a session that begins now."""
    connection.execute(
        insert(session).values(
            secret_hash=secret_hash, token_id=token_id, created_at=now, last_used_at=now, expires_at=expires_at
        )
    )


def find_session(connection: Connection, secret_hash: bytes) -> SessionRow | None:
    """The session with that hash, over or not, or `None`."""
    row = connection.execute(select(session).where(session.c.secret_hash == secret_hash)).first()
    if row is None:
        return None
    token = get_token(connection, row.token_id)
    return SessionRow(row.id, token, row.created_at, row.last_used_at, row.expires_at)


def delete_session(connection: Connection, session_id: int) -> None:
    """End a session; one that has ended stays so."""
    connection.execute(delete(session).where(session.c.id == session_id))


def purge_sessions(connection: Connection, *, idle_since: int, now: int) -> None:
    """Remove sessions that are over."""
    connection.execute(delete(session).where(or_(session.c.expires_at <= now, session.c.last_used_at <= idle_since)))


def note_session_uses(connection: Connection, last_uses: Mapping[int, int]) -> None:
    """Note when sessions were used last, by number. A later time that another process noted stays."""
    if last_uses:
        used_at = bindparam("used_at", type_=Integer)
        connection.execute(
            update(session)
            .where(session.c.id == bindparam("session_id"), session.c.last_used_at < used_at)
            .values(last_used_at=used_at),
            [{"session_id": number, "used_at": at} for number, at in last_uses.items()],
        )
