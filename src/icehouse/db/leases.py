"""Rows of leases: who may carry out what only one process does at a time."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from icehouse.db.schema import lease


def take_lease(connection: Connection, name: str, holder: str, *, now: int, expires_at: int) -> str | None:
    """Take a lease that nobody holds, or whose time is over. Give who holds it, if somebody else does."""
    row = connection.execute(select(lease.c.holder, lease.c.expires_at).where(lease.c.name == name)).first()
    if row is not None and row.holder != holder and row.expires_at > now:
        return row.holder
    connection.execute(delete(lease).where(lease.c.name == name))
    connection.execute(insert(lease).values(name=name, holder=holder, expires_at=expires_at))
    return None


def renew_lease(connection: Connection, name: str, holder: str, *, expires_at: int) -> bool:
    """Hold a lease for longer. False: somebody else took it meanwhile."""
    same = (lease.c.name == name) & (lease.c.holder == holder)
    return connection.execute(update(lease).where(same).values(expires_at=expires_at)).rowcount > 0


def end_lease(connection: Connection, name: str) -> None:
    """Take a lease from whoever holds it, for who knows that nobody does any more."""
    connection.execute(delete(lease).where(lease.c.name == name))


def release_lease(connection: Connection, name: str, holder: str) -> None:
    """Give a lease back, if it is still held."""
    connection.execute(delete(lease).where(lease.c.name == name, lease.c.holder == holder))
