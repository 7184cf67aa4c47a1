"""Trust rules of caches: adding, listing and removing them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from sqlalchemy import Connection

from icehouse.api.trust import TrustCreate, TrustView
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.trust import TrustRow, count_rules, delete_rule, insert_rule, list_rules, revoke_job_tokens
from icehouse.errors import Conflict
from icehouse.rules.access import Permission
from icehouse.rules.audit import Action, Actor
from icehouse.rules.trust import MAX_RULES, make_rule
from icehouse.services.audit import record


class Trust:
    """Administers trust rules. Rights on the cache are checked by who calls (`Access.enter`): it takes `admin`."""

    def __init__(self, database: Database, *, public_url: str, clock: Callable[[], int]) -> None:
        """*public_url* is the audience of rules that name none."""
        self._database = database
        self._audience = public_url.rstrip("/")
        self._clock = clock

    async def add_rule(self, cache: CacheRow, request: TrustCreate, actor: Actor) -> TrustView:
        """Let jobs have tokens of a cache. It holds at once.

        Raises:
            InvalidFormat: the rule is malformed, or would trust everybody.
            Conflict: the cache has `MAX_RULES`.
            NotFound: the cache was deleted meanwhile.
        """
        rule = make_rule(
            issuer=request.issuer,
            audience=self._audience if request.audience is None else request.audience,
            claims=request.claims,
            permissions=request.permissions,
            token_seconds=request.token_seconds,
        )
        now = self._clock()

        def work(connection: Connection) -> TrustView:
            get_cache(connection, cache.name)
            if count_rules(connection, cache.id) >= MAX_RULES:
                raise Conflict(f"cache {cache.name!r} has {MAX_RULES} trust rules, as many as it may; remove one first")
            row = insert_rule(connection, cache.id, rule, created_by=actor.token_id, now=now)
            record(connection, actor, Action.TRUST_ADD, cache.name, str(row.id), new=_audited(row), now=now)
            return view_of(row)

        return await self._database.write(work)

    async def list_rules(self, cache: CacheRow) -> list[TrustView]:
        """The rules of a cache, oldest first."""
        rows = await self._database.read(partial(list_rules, cache_id=cache.id))
        return [view_of(row) for row in rows]

    async def remove_rule(self, cache: CacheRow, rule_id: int, actor: Actor) -> None:
        """Remove a rule, and end what it gave: the tokens for this cache that jobs of its issuer have.

        Jobs that another rule trusts get new ones by themselves.

        Raises:
            NotFound: the cache has no such rule.
        """
        now = self._clock()

        def work(connection: Connection) -> None:
            row = delete_rule(connection, cache.id, rule_id)
            revoke_job_tokens(connection, cache.name, row.rule.issuer, now=now)
            record(connection, actor, Action.TRUST_REMOVE, cache.name, str(rule_id), old=_audited(row), now=now)

        await self._database.write(work)


def _audited(row: TrustRow) -> dict[str, object]:
    """What the audit log holds of a rule."""
    values = msgspec.structs.asdict(view_of(row))
    return {name: values[name] for name in ("issuer", "audience", "claims", "permissions", "token_seconds")}


def view_of(row: TrustRow) -> TrustView:
    """What is told of a rule."""
    claims: dict[str, list[str]] = {}
    for condition in row.rule.conditions:
        claims.setdefault(condition.claim, []).append(condition.glob)
    return TrustView(
        id=row.id,
        issuer=row.rule.issuer,
        audience=row.rule.audience,
        claims=claims,
        permissions=[permission.value for permission in Permission if permission in row.rule.permissions],
        token_seconds=row.rule.token_seconds,
        created_at=row.created_at,
        created_by=row.created_by,
    )
