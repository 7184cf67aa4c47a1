"""Rows of signing keys."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from icehouse.db.schema import signing_key
from icehouse.nix.signing import PublicKey


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A signing key of a cache, its secret half encrypted."""

    id: int
    public_key: PublicKey
    sealed_secret_key: bytes


def list_keys(connection: Connection, cache_id: int) -> tuple[KeyRow, ...]:
    """The signing keys of a cache, the oldest first."""
    rows = connection.execute(
        select(signing_key.c.id, signing_key.c.public_key, signing_key.c.sealed_secret_key)
        .where(signing_key.c.cache_id == cache_id)
        .order_by(signing_key.c.id)
    )
    return tuple(KeyRow(row.id, PublicKey.parse(row.public_key), row.sealed_secret_key) for row in rows)


def insert_key(
    connection: Connection, cache_id: int, public_key: PublicKey, sealed_secret_key: bytes, *, now: int
) -> None:
    """Give a cache one more signing key."""
    connection.execute(
        insert(signing_key).values(
            cache_id=cache_id,
            public_key=public_key.render(),
            sealed_secret_key=sealed_secret_key,
            created_at=now,
        )
    )


def count_keys(connection: Connection) -> int:
    """How many signing keys all caches have together."""
    return connection.execute(select(func.count()).select_from(signing_key)).scalar_one()
