"""Rows of signing keys, and the paths of a cache as they are signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from icehouse.api.keys import KeyState
from icehouse.db.paths import parse_references, render_references
from icehouse.db.query_plans import by_id
from icehouse.db.schema import nar, path, signing_key
from icehouse.nix.signing import PathInfo, PublicKey
from icehouse.nix.store_paths import HashPart, StorePath


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A signing key of a cache, its secret half encrypted."""

    id: int
    public_key: PublicKey
    sealed_secret_key: bytes
    state: KeyState = "active"
    created_at: int = 0

    @property
    def is_published(self) -> bool:
        """Whether clients are told to trust it."""
        return self.state in {"staged", "active"}


@dataclass(frozen=True, slots=True)
class SignedPath:
    """A path of a cache, visible or hidden, as far as signatures go."""

    id: int
    info: PathInfo
    signatures: str
    """As in the row."""


def list_keys(connection: Connection, cache_id: int) -> tuple[KeyRow, ...]:
    """The signing keys of a cache in all states, the oldest first."""
    rows = connection.execute(select(signing_key).where(signing_key.c.cache_id == cache_id).order_by(signing_key.c.id))
    return tuple(
        KeyRow(row.id, PublicKey.parse(row.public_key), row.sealed_secret_key, row.state, row.created_at)
        for row in rows
    )


def insert_key(
    connection: Connection,
    cache_id: int,
    public_key: PublicKey,
    sealed_secret_key: bytes,
    *,
    now: int,
    state: KeyState = "active",
) -> None:
    """Give a cache one more signing key."""
    connection.execute(
        insert(signing_key).values(
            cache_id=cache_id,
            public_key=public_key.render(),
            sealed_secret_key=sealed_secret_key,
            created_at=now,
            state=state,
        )
    )


def set_state(connection: Connection, key_id: int, state: KeyState) -> None:
    """Change the state of a key."""
    connection.execute(update(signing_key).where(signing_key.c.id == key_id).values(state=state))


def list_sealed_keys(connection: Connection) -> tuple[KeyRow, ...]:
    """The signing keys of all caches."""
    rows = connection.execute(select(signing_key).order_by(signing_key.c.id))
    return tuple(
        KeyRow(row.id, PublicKey.parse(row.public_key), row.sealed_secret_key, row.state, row.created_at)
        for row in rows
    )


def set_sealed_key(connection: Connection, key_id: int, sealed_secret_key: bytes) -> None:
    """Replace the encrypted half of a key."""
    connection.execute(
        update(signing_key).where(signing_key.c.id == key_id).values(sealed_secret_key=sealed_secret_key)
    )


def count_keys(connection: Connection) -> int:
    """How many signing keys all caches have together."""
    return connection.execute(select(func.count()).select_from(signing_key)).scalar_one()


def page_signed_paths(connection: Connection, cache_id: int, *, after: int, limit: int) -> list[SignedPath]:
    """Paths of a cache, visible and hidden, in the order of their numbers, those after one."""
    rows = connection.execute(
        select(
            path.c.id,
            path.c.hash_part,
            path.c.name,
            nar.c.nar_hash,
            path.c.nar_size,
            path.c.references,
            path.c.signatures,
        )
        .join(nar, nar.c.id == path.c.nar_id)
        .where(by_id(path.c.cache_id) == cache_id, path.c.id > after)
        .order_by(path.c.id)
        .limit(limit)
    )
    return [
        SignedPath(
            row.id,
            PathInfo(
                StorePath(HashPart(row.hash_part), row.name),
                row.nar_hash,
                row.nar_size,
                parse_references(row.references),
            ),
            row.signatures,
        )
        for row in rows
    ]


def count_paths_after(connection: Connection, cache_id: int, after: int) -> int:
    """How many paths of a cache, visible and hidden, have a higher number."""
    statement = select(func.count()).select_from(path).where(path.c.cache_id == cache_id, path.c.id > after)
    return connection.execute(statement).scalar_one()


def replace_signatures(connection: Connection, changes: Sequence[tuple[SignedPath, str]]) -> int:
    """Give paths other signatures, except those whose NAR or signatures changed meanwhile; how many got them."""
    changed = 0
    for signed, signatures in changes:
        same_nar = select(nar.c.id).where(nar.c.id == path.c.nar_id, nar.c.nar_hash == signed.info.nar_hash).exists()
        statement = (
            update(path)
            .where(path.c.id == signed.id, path.c.signatures == signed.signatures, same_nar)
            .where(path.c.references == render_references(signed.info.references))
            .values(signatures=signatures)
        )
        changed += connection.execute(statement).rowcount
    return changed
