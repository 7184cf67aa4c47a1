"""Rows of tokens."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    update,
)

from icehouse.db.schema import job, metadata, token
from icehouse.errors import NotFound
from icehouse.rules.access import Grant, Permission, Scope
from icehouse.rules.token_filter import TokenFilter, TokenState

_FIND_NOW: Final = """
    SELECT id, description, permissions, cache_pattern, expires_at, revoked_at FROM token WHERE token_hash = ?
"""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token, without anything that its secret could be found from."""

    id: int
    description: str
    permissions: frozenset[Permission]
    cache_pattern: str
    created_at: int
    created_by: int | None
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    last_used_from: str | None
    job_id: int | None
    person_id: int | None = None
    is_login: bool = False
    """Whether it acts for a session of the web page, and nobody has its secret."""
    others: tuple[Scope, ...] = ()

    def grant(self) -> Grant:
        """What it allows while it is valid."""
        return Grant(
            self.id,
            self.description,
            self.permissions,
            self.cache_pattern,
            self.expires_at,
            self.others,
            self.person_id if self.is_login else None,
        )

    def is_valid(self, now: int) -> bool:
        """Tell whether it is neither revoked nor expired at *now*."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class TokenUse:
    """When a token was used, and from which address, if that is known."""

    at: int
    address: str | None


def find_token(connection: Connection, token_hash: bytes) -> TokenRow | None:
    """The token with that hash, valid or not, or `None`."""
    row = connection.execute(select(token).where(token.c.token_hash == token_hash)).first()
    return None if row is None else _token_row(row)


def find_grant_now(reader: sqlite3.Connection, token_hash: bytes, now: int) -> Grant | None:
    """What the token with that hash allows at *now*; `None` if it is unknown, expired or revoked. One indexed read."""
    row: tuple[int, str, str, str, int | None, int | None] | None = reader.execute(_FIND_NOW, (token_hash,)).fetchone()
    if row is None:
        return None
    token_id, description, permissions, cache_pattern, expires_at, revoked_at = row
    if revoked_at is not None or (expires_at is not None and now >= expires_at):
        return None
    return Grant(token_id, description, _parse_permissions(permissions), cache_pattern, expires_at)


def get_token(connection: Connection, token_id: int) -> TokenRow:
    """The token with that number.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(select(token).where(token.c.id == token_id)).first()
    if row is None:
        raise no_such_token(token_id)
    return _token_row(row)


def no_such_token(token_id: int) -> NotFound:
    """The error for a token that is not there, and, in the same words, for one that the caller may not know of."""
    return NotFound(f"there is no token {token_id}, or none that these credentials may see")


def list_tokens(connection: Connection) -> tuple[TokenRow, ...]:
    """The tokens that somebody made, revoked and expired ones too, in order. Those of jobs are too many to look at."""
    rows = connection.execute(select(token).where(_is_made()).order_by(token.c.id))
    return tuple(_token_row(row) for row in rows)


def page_tokens(
    connection: Connection, reach: Sequence[str], own_id: int, wanted: TokenFilter, *, now: int, limit: int
) -> tuple[TokenRow, ...]:
    """The newest tokens that are wanted, of those that somebody made, the newest first.

    Only those with the number *own_id*, or whose pattern reaches no further than one of *reach*.
    """
    # Neither names nor patterns have letters that LIKE gives a meaning; so this is `rules.access.covers` and `matches`.
    is_within = [token.c.cache_pattern.like(pattern.replace("*", "%")) for pattern in reach]
    statement = select(token).where(_is_made(), or_(token.c.id == own_id, *is_within))
    if wanted.cache_name is not None:
        statement = statement.where(literal(wanted.cache_name).like(func.replace(token.c.cache_pattern, "*", "%")))
    if wanted.state is not None:
        is_in_state = {
            TokenState.REVOKED: token.c.revoked_at.is_not(None),
            TokenState.EXPIRED: token.c.revoked_at.is_(None) & not_(is_valid_at(now)),
            TokenState.VALID: is_valid_at(now),
        }
        statement = statement.where(is_in_state[wanted.state])
    if wanted.search is not None:
        statement = statement.where(token.c.description.icontains(wanted.search, autoescape=True))
    if wanted.before is not None:
        statement = statement.where(token.c.id < wanted.before)
    rows = connection.execute(statement.order_by(token.c.id.desc()).limit(limit))
    return tuple(_token_row(row) for row in rows)


def is_valid_at(now: int) -> ColumnElement[bool]:
    """Whether a token is neither revoked nor expired then."""
    return token.c.revoked_at.is_(None) & (func.coalesce(token.c.expires_at, now + 1) > now)


def parse_roles(row: Row[Any]) -> tuple[Scope, ...]:
    """All that a row's token allows, or did."""
    found = _token_row(row)
    return (Scope(found.permissions, found.cache_pattern), *found.others)


def _is_made() -> ColumnElement[bool]:
    return token.c.job_id.is_(None) & (token.c.is_login == 0)


def find_descriptions(connection: Connection, token_ids: Collection[int]) -> dict[int, str]:
    """The descriptions of those tokens, by number; of jobs' tokens too."""
    rows = connection.execute(select(token.c.id, token.c.description).where(token.c.id.in_(token_ids)))
    return {row.id: row.description for row in rows}


def has_tokens(connection: Connection) -> bool:
    """Tell whether a token was ever made."""
    return connection.execute(select(exists(select(token.c.id)))).scalar_one()


def insert_token(  # noqa: PLR0913  the columns of a row
    connection: Connection,
    token_hash: bytes,
    *,
    description: str,
    permissions: Iterable[Permission],
    cache_pattern: str,
    created_by: int | None,
    expires_at: int | None,
    now: int,
    job_id: int | None = None,
    person_id: int | None = None,
    is_login: bool = False,
    others: Sequence[Scope] = (),
) -> TokenRow:
    """Add a token. `created_by` is null for one made on the server's machine, and for a job's or a login's."""
    wanted = frozenset(permissions)
    result = connection.execute(
        insert(token)
        .values(
            token_hash=token_hash,
            description=description,
            permissions=_render_permissions(wanted),
            cache_pattern=cache_pattern,
            created_at=now,
            created_by=created_by,
            expires_at=expires_at,
            job_id=job_id,
            person_id=person_id,
            is_login=int(is_login),
            other_scopes=_render_scopes(others),
        )
        .returning(token)
    )
    return _token_row(result.one())


def last_token_id(connection: Connection) -> int:
    """The highest number of a token."""
    return connection.execute(select(func.coalesce(func.max(token.c.id), 0))).scalar_one()


def find_forgettable(connection: Connection, *, first: int, last: int, before: int) -> list[int]:
    """The tokens of jobs, among those with these numbers, that ended before then, and that nothing names.

    What a token published, or pinned, or brought along, names it for as long as that is there, the trash and what is
    known of purged paths included: who did it can be told.
    """
    is_named = [exists().where(column == token.c.id) for column in _referring(token)]
    ended = (token.c.job_id.is_not(None)) & (token.c.expires_at < before) & token.c.id.between(first, last)
    return list(connection.execute(select(token.c.id).where(ended, not_(or_(*is_named)))).scalars())


def forget_job_tokens(connection: Connection, token_ids: Collection[int]) -> None:
    """Delete tokens that nothing names, and the jobs that have no others; at most a thousand at once.

    The database refuses it if something names one of them.
    """
    deleted = connection.execute(delete(token).where(token.c.id.in_(token_ids)).returning(token.c.job_id))
    job_ids = {row.job_id for row in deleted}
    is_needed = [exists().where(column == job.c.id) for column in (token.c.job_id, *_referring(job))]
    connection.execute(delete(job).where(job.c.id.in_(job_ids), not_(or_(*is_needed))))


def _referring(table: Table) -> list[Column[Any]]:
    """The columns of all tables that name a row of that table, each of an alias: one of them is of the table itself."""
    return [
        each.alias().c[column.name]
        for each in metadata.tables.values()
        for column in each.columns
        if any(key.column is table.c.id for key in column.foreign_keys)
    ]


def list_tokens_of_person(connection: Connection, person_id: int) -> tuple[TokenRow, ...]:
    """The tokens that a person made for themselves, revoked and expired ones too, in order."""
    is_own = (token.c.person_id == person_id) & (token.c.is_login == 0)
    return tuple(_token_row(row) for row in connection.execute(select(token).where(is_own).order_by(token.c.id)))


def revoke_logins(connection: Connection, person_id: int, *, now: int) -> None:
    """End all sessions of a person."""
    is_login = (token.c.person_id == person_id) & (token.c.is_login == 1) & token.c.revoked_at.is_(None)
    connection.execute(update(token).where(is_login).values(revoked_at=now))


def revoke_token(connection: Connection, token_id: int, *, now: int) -> None:
    """Make a token invalid from now on. One that is revoked keeps the time at which it was."""
    connection.execute(update(token).where(token.c.id == token_id, token.c.revoked_at.is_(None)).values(revoked_at=now))


def note_uses(connection: Connection, last_uses: Mapping[int, TokenUse]) -> None:
    """Note the last uses of tokens, by number. A later one that another process noted stays."""
    if last_uses:
        used_at = bindparam("used_at", type_=Integer)
        connection.execute(
            update(token)
            .where(token.c.id == bindparam("token_id"), func.coalesce(token.c.last_used_at, 0) <= used_at)
            .values(last_used_at=used_at, last_used_from=bindparam("used_from", type_=Text)),
            [{"token_id": number, "used_at": use.at, "used_from": use.address} for number, use in last_uses.items()],
        )


@functools.lru_cache(maxsize=64)  # There are 63 sets of permissions.
def _parse_permissions(text: str) -> frozenset[Permission]:
    return frozenset(Permission(name) for name in text.split())


def _token_row(row: Row[Any]) -> TokenRow:
    return TokenRow(
        id=row.id,
        description=row.description,
        permissions=_parse_permissions(row.permissions),
        cache_pattern=row.cache_pattern,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        last_used_from=row.last_used_from,
        job_id=row.job_id,
        person_id=row.person_id,
        is_login=bool(row.is_login),
        others=_parse_scopes(row.other_scopes),
    )


def _render_permissions(permissions: frozenset[Permission]) -> str:
    return " ".join(permission for permission in Permission if permission in permissions)


def _render_scopes(scopes: Sequence[Scope]) -> str:
    return msgspec.json.encode(
        [[_render_permissions(scope.permissions), scope.cache_pattern] for scope in scopes]
    ).decode()


def _parse_scopes(text: str) -> tuple[Scope, ...]:
    pairs = () if text == "[]" else msgspec.json.decode(text, type=list[tuple[str, str]])
    return tuple(Scope(_parse_permissions(permissions), pattern) for permissions, pattern in pairs)
