"""The exchange: a job proves who it is by its issuer's token, and gets one of ours for some minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import structlog
from sqlalchemy import Connection

from icehouse.api.trust import ExchangeAnswer, ExchangeRequest
from icehouse.db.audit import count_exchanges
from icehouse.db.caches import find_cache
from icehouse.db.engine import Database
from icehouse.db.tokens import TokenRow, find_token, insert_token
from icehouse.db.trust import (
    TrustRow,
    UsedToken,
    find_use,
    insert_job,
    list_rules_of_issuer,
    purge_uses,
    put_use,
)
from icehouse.errors import InvalidFormat, Unauthenticated
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import TOKEN_RANDOM_BYTES, Permission, hash_token, make_token, parse_authorization
from icehouse.rules.audit import DAY_SECONDS, MAX_EXCHANGES_A_DAY, Action, Origin
from icehouse.rules.id_tokens import SKEW_SECONDS, Identity, parse_id_token, verify_id_token
from icehouse.rules.provenance import Job, describe_job, job_text
from icehouse.rules.trust import matches_rule
from icehouse.services.audit import record
from icehouse.services.issuer_keys import IssuerKeyring
from icehouse.services.tokens import audited

_MAX_DESCRIPTION_LENGTH = 200

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Given:
    """What the rules of a cache give to an identity."""

    cache_name: str
    permissions: frozenset[Permission]
    token_seconds: int


class Exchange:
    """Exchanges identities for tokens.

    Whatever is wrong, the caller reads the same words: others would tell which private caches there are, and whom they
    trust. The log has the reason, under the request's id. Keys are fetched for issuers that any rule names, before the
    cache is looked at, so that the time does not tell of a cache either.
    """

    def __init__(
        self, database: Database, keyring: IssuerKeyring, *, clock: Callable[[], int], draw: Callable[[int], bytes]
    ) -> None:
        """*draw* gives so many random bytes, fit for secrets."""
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._draw = draw

    async def exchange(self, request: ExchangeRequest, credential: str | None, origin: Origin) -> ExchangeAnswer:
        """A token for the cache, as the rules that trust this identity allow.

        An identity token counts once. Another time it needs, in the ``Authorization`` header *credential*, the token
        that the time before gave, valid or expired: so a job whose token ends goes on, and who finds an identity token
        in a log gets nothing.

        Raises:
            Unauthenticated: the identity is not trusted, not valid or not new. It does not say which.
            InvalidFormat: permissions are asked for, and none is named.
        """
        if request.permissions is not None and not request.permissions:
            raise InvalidFormat("permissions: expected at least one, or null for all that the rules allow")
        try:
            return await self._exchange(request, credential, origin)
        except InvalidFormat as exc:
            _log.warning("an identity was refused", cache=excerpt(request.cache), reason=str(exc))
            raise Unauthenticated(
                "this identity gets no token for that cache: its token is malformed, expired, not meant for this "
                "server or was used before, or no trust rule of such a cache matches its claims. The server's log has "
                "the reason under the request id"
            ) from None

    async def _exchange(self, request: ExchangeRequest, credential: str | None, origin: Origin) -> ExchangeAnswer:
        unverified = parse_id_token(request.id_token)
        rules = await self._database.read(lambda connection: list_rules_of_issuer(connection, unverified.issuer))
        if not rules:
            raise InvalidFormat(f"no trust rule names the issuer {excerpt(unverified.issuer)}")
        keys = await self._keyring.find(rules[0].rule.issuer, unverified.key_id)
        identity = verify_id_token(unverified, keys, now=self._clock())
        token = make_token(self._draw(TOKEN_RANDOM_BYTES))
        token_hash = hash_token(token)
        earlier = _hash_of(credential)
        now = self._clock()

        def work(connection: Connection) -> ExchangeAnswer:
            given = _match(connection, request, identity)
            purge_uses(connection, now=now)
            job_id = _use(connection, identity, earlier, now=now)
            put_use(
                connection,
                identity.use_key,
                UsedToken(job_id, token_hash),
                expires_at=identity.expires_at + SKEW_SECONDS + 1,
            )
            job = describe_job(identity)
            row = insert_token(
                connection,
                token_hash,
                description=job_text(job)[:_MAX_DESCRIPTION_LENGTH],
                permissions=given.permissions,
                cache_pattern=given.cache_name,
                created_by=None,
                expires_at=now + given.token_seconds,
                now=now,
                job_id=job_id,
            )
            _record(connection, row, job, origin, now=now)
            return ExchangeAnswer(
                token=token,
                cache=given.cache_name,
                permissions=[permission.value for permission in Permission if permission in row.permissions],
                expires_at=now + given.token_seconds,
                expires_in_seconds=given.token_seconds,
            )

        answer = await self._database.write(work)
        _log.info("an identity got a token", cache=answer.cache, issuer=identity.issuer, subject=identity.subject)
        return answer


def _match(connection: Connection, request: ExchangeRequest, identity: Identity) -> _Given:
    """What the identity gets, by the rules that the cache has now."""
    cache = find_cache(connection, request.cache)
    rules: Sequence[TrustRow] = list_rules_of_issuer(connection, identity.issuer)
    matching = [
        row.rule
        for row in rules
        if cache is not None and row.cache_id == cache.id and row.rule.audience in identity.audiences
        if matches_rule(row.rule, identity.claims)
    ]
    if cache is None or not matching:
        raise InvalidFormat(
            f"no trust rule of such a cache matches {excerpt(identity.subject)} for "
            f"{', '.join(excerpt(audience) for audience in identity.audiences[:4])}"
        )
    permissions = frozenset[Permission]().union(*(rule.permissions for rule in matching))
    if request.permissions is not None:
        wanted = {Permission(name) for name in request.permissions}
        # Every permission holds pull, so whoever may push may ask for that alone.
        if not wanted <= permissions | {Permission.PULL}:
            raise InvalidFormat(f"the rules do not allow {', '.join(sorted(wanted - permissions))}")
        permissions = frozenset(wanted)
    enough = [rule.token_seconds for rule in matching if permissions <= rule.permissions | {Permission.PULL}]
    seconds = max(enough) if enough else min(rule.token_seconds for rule in matching)
    return _Given(cache.name, permissions, seconds)


def _use(connection: Connection, identity: Identity, earlier: bytes | None, *, now: int) -> int:
    """The number of the job, if its token is new, or comes with what the time before gave."""
    use = find_use(connection, identity.use_key)
    if use is None:
        return insert_job(connection, describe_job(identity), now=now)
    row = None if earlier is None or earlier != use.token_hash else find_token(connection, earlier)
    if row is None or row.revoked_at is not None:
        raise InvalidFormat(f"the token of {excerpt(identity.subject)} was used before")
    return use.job_id


def _record(connection: Connection, row: TokenRow, job: Job, origin: Origin, *, now: int) -> None:
    """Have the audit log tell of it, unless it told of very many today."""
    cache_name = row.cache_pattern
    count = count_exchanges(connection, cache_name, since=now - now % DAY_SECONDS)
    if count >= MAX_EXCHANGES_A_DAY:
        return
    facts: dict[str, object] = {name: value for name, value in asdict(job).items() if value is not None}
    facts |= {name: value for name, value in audited(row).items() if name in {"permissions", "expires_at"}}
    if count == MAX_EXCHANGES_A_DAY - 1:
        facts["more"] = "further ones of this day are not in the audit log"
    actor = origin.job_actor(row.description, row.id)
    record(connection, actor, Action.TOKEN_EXCHANGE, cache_name, str(row.id), new=facts, now=now)


def _hash_of(credential: str | None) -> bytes | None:
    try:
        token = parse_authorization(credential)
    except Unauthenticated:
        return None
    return None if token is None else hash_token(token)
