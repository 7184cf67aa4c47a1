"""Rows of trust rules, of jobs that got tokens by them, and of identity tokens that were used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.dialects import sqlite

from icehouse.db.schema import job, token, trust_rule, used_id_token
from icehouse.errors import NotFound
from icehouse.rules.access import Permission
from icehouse.rules.provenance import JOB_FIELDS, Job
from icehouse.rules.trust import Condition, TrustRule

_PURGED_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class TrustRow:
    """A trust rule of a cache."""

    id: int
    cache_id: int
    rule: TrustRule
    created_at: int
    created_by: int | None


@dataclass(frozen=True, slots=True)
class UsedToken:
    """An identity token that was exchanged."""

    job_id: int
    token_hash: bytes
    """Of the last token that was given for it."""


def list_rules(connection: Connection, cache_id: int) -> tuple[TrustRow, ...]:
    """The rules of a cache, in the order in which they were made."""
    rows = connection.execute(select(trust_rule).where(trust_rule.c.cache_id == cache_id).order_by(trust_rule.c.id))
    return tuple(_trust_row(row) for row in rows)


def list_rules_of_issuer(connection: Connection, issuer: str) -> tuple[TrustRow, ...]:
    """The rules of all caches that name *issuer*."""
    rows = connection.execute(select(trust_rule).where(trust_rule.c.issuer == issuer).order_by(trust_rule.c.id))
    return tuple(_trust_row(row) for row in rows)


def insert_rule(
    connection: Connection, cache_id: int, rule: TrustRule, *, created_by: int | None, now: int
) -> TrustRow:
    """Add a rule to a cache."""
    claims: dict[str, list[str]] = {}
    for condition in rule.conditions:
        claims.setdefault(condition.claim, []).append(condition.glob)
    result = connection.execute(
        insert(trust_rule)
        .values(
            cache_id=cache_id,
            issuer=rule.issuer,
            audience=rule.audience,
            claims=msgspec.json.encode(claims).decode(),
            permissions=" ".join(permission for permission in Permission if permission in rule.permissions),
            token_seconds=rule.token_seconds,
            created_at=now,
            created_by=created_by,
        )
        .returning(trust_rule)
    )
    return _trust_row(result.one())


def delete_rule(connection: Connection, cache_id: int, rule_id: int) -> TrustRow:
    """Remove a rule of a cache; it, as it was.

    Raises:
        NotFound: the cache has no such rule.
    """
    is_it = (trust_rule.c.id == rule_id) & (trust_rule.c.cache_id == cache_id)
    row = connection.execute(delete(trust_rule).where(is_it).returning(trust_rule)).first()
    if row is None:
        raise NotFound(f"this cache has no trust rule {rule_id}")
    return _trust_row(row)


def insert_job(connection: Connection, identity: Job, *, now: int) -> int:
    """Note a job; its number."""
    values = asdict(identity) | {"created_at": now}
    return connection.execute(insert(job).values(**values).returning(job.c.id)).scalar_one()


def find_job(connection: Connection, job_id: int) -> Job | None:
    """A job by its number."""
    row = connection.execute(select(*(job.c[name] for name in JOB_FIELDS)).where(job.c.id == job_id)).first()
    return None if row is None else Job(*row)


def find_use(connection: Connection, use_key: bytes) -> UsedToken | None:
    """What was given for an identity token; `None`: it was not used yet."""
    row = connection.execute(
        select(used_id_token.c.job_id, used_id_token.c.token_hash).where(used_id_token.c.use_key == use_key)
    ).first()
    return None if row is None else UsedToken(*row)


def put_use(connection: Connection, use_key: bytes, use: UsedToken, *, expires_at: int) -> None:
    """Note that an identity token was used, in place of an earlier use."""
    values = {"job_id": use.job_id, "token_hash": use.token_hash, "expires_at": expires_at}
    statement = sqlite.insert(used_id_token).values(use_key=use_key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[used_id_token.c.use_key], set_=values))


def purge_uses(connection: Connection, *, now: int) -> None:
    """Forget some identity tokens that expired: they are refused without that."""
    expired = select(used_id_token.c.use_key).where(used_id_token.c.expires_at <= now).limit(_PURGED_AT_ONCE)
    connection.execute(delete(used_id_token).where(used_id_token.c.use_key.in_(expired)))


def revoke_job_tokens(connection: Connection, cache_name: str, issuer: str | None, *, now: int) -> int:
    """Revoke the tokens for that cache that jobs have and that are valid: of one issuer, or of all; how many."""
    is_live = token.c.revoked_at.is_(None) & (token.c.expires_at > now)
    statement = update(token).where(token.c.job_id.is_not(None), token.c.cache_pattern == cache_name, is_live)
    if issuer is not None:
        statement = statement.where(token.c.job_id.in_(select(job.c.id).where(job.c.issuer == issuer)))
    return connection.execute(statement.values(revoked_at=now)).rowcount


def count_rules(connection: Connection, cache_id: int) -> int:
    """How many rules a cache has."""
    counted = select(func.count()).select_from(trust_rule).where(trust_rule.c.cache_id == cache_id)
    return connection.execute(counted).scalar_one()


def _trust_row(row: Row[Any]) -> TrustRow:
    claims = msgspec.json.decode(row.claims, type=dict[str, list[str]])
    rule = TrustRule(
        issuer=row.issuer,
        audience=row.audience,
        conditions=tuple(Condition(name, glob) for name, globs in claims.items() for glob in globs),
        permissions=frozenset(Permission(name) for name in row.permissions.split()),
        token_seconds=row.token_seconds,
    )
    return TrustRow(row.id, row.cache_id, rule, row.created_at, row.created_by)
