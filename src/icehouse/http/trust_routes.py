"""Routes about trust rules, and the exchange of a job's identity for a token."""

from __future__ import annotations

from typing import Final

from litestar import delete, get, post

from icehouse.api.trust import ExchangeAnswer, ExchangeRequest, TrustCreate, TrustView
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential, Number
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin
from icehouse.rules.id_tokens import MAX_ID_TOKEN_LENGTH

MAX_EXCHANGE_BYTES: Final = MAX_ID_TOKEN_LENGTH + 4096


@get("/api/v1/caches/{cache_name:str}/trust", tags=["trust"])
async def list_trust(cache_name: str, parts: ServerParts, credential: Credential) -> list[TrustView]:
    """The trust rules of a cache: whose jobs may have tokens of it. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.trust.list_rules(entry.cache)


@post("/api/v1/caches/{cache_name:str}/trust", tags=["trust"], request_max_body_size=MAX_JSON_BYTES)
async def add_trust(
    cache_name: str, data: TrustCreate, parts: ServerParts, credential: Credential, origin: Origin
) -> TrustView:
    """Let jobs that an issuer vouches for have tokens of a cache. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    return await parts.trust.add_rule(entry.cache, data, origin.actor(entry.grant))


@delete("/api/v1/caches/{cache_name:str}/trust/{rule_id:int}", tags=["trust"])
async def remove_trust(
    cache_name: str, rule_id: Number, parts: ServerParts, credential: Credential, origin: Origin
) -> None:
    """Remove a trust rule, and end the tokens that jobs of its issuer have for the cache. Needs `admin`."""
    entry = await parts.access.enter(cache_name, Permission.ADMIN, credential)
    await parts.trust.remove_rule(entry.cache, rule_id, origin.actor(entry.grant))


@post("/api/v1/oidc/token", tags=["trust"], request_max_body_size=MAX_EXCHANGE_BYTES)
async def exchange_identity(
    data: ExchangeRequest, parts: ServerParts, credential: Credential, origin: Origin
) -> ExchangeAnswer:
    """Exchange the identity token of a CI's job for a token of one cache.

    An identity token counts once; again only with the token that it gave, in `Authorization`. Every refusal is 401.
    """
    return await parts.exchange.exchange(data, credential.header, origin)
