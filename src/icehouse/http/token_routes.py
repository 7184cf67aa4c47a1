"""Routes about tokens."""

from __future__ import annotations

from typing import Annotated, Final

from litestar import delete, get, post
from litestar.params import QueryParameter

from icehouse.api.tokens import TokenCreate, TokenCreated, TokenPage, TokenView
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential, Number
from icehouse.rules.access import check_may_administer_tokens
from icehouse.rules.audit import Origin
from icehouse.rules.token_filter import TokenFilter, TokenState
from icehouse.services.tokens import MAX_TOKENS_A_PAGE

MAX_NUMBER: Final = 2**53

Reached = Annotated[str | None, QueryParameter(name="cache", description="Only those whose pattern matches this name.")]
InState = Annotated[TokenState | None, QueryParameter(name="state", description="Only those in this state.")]
Search = Annotated[str | None, QueryParameter(description="Only those with this in their description.")]
Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_NUMBER, description="Only those with a lower number.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_TOKENS_A_PAGE, description="So many at most.")]


@get("/api/v1/tokens", tags=["tokens"])
async def list_tokens(parts: ServerParts, credential: Credential) -> list[TokenView]:
    """The tokens that reach no further than the caller's own. Needs `admin`."""
    grant = check_may_administer_tokens(await parts.access.identify(credential))
    return await parts.tokens.list_tokens(grant)


@get("/api/v1/tokens/search", tags=["tokens"])
async def search_tokens(
    parts: ServerParts,
    credential: Credential,
    cache: Reached = None,
    in_state: InState = None,
    search: Search = None,
    before: Before = None,
    limit: Limit = 100,
) -> TokenPage:
    """The newest of the tokens that reach no further than the caller's own. Needs `admin`.

    With `has_more`, `before` set to the last one's number gives the next ones.
    """
    grant = check_may_administer_tokens(await parts.access.identify(credential))
    return await parts.tokens.page_tokens(TokenFilter(cache, in_state, search, before), grant, limit=limit)


@get("/api/v1/tokens/self", tags=["tokens"])
async def show_own_token(parts: ServerParts, credential: Credential) -> TokenView:
    """The token that comes with the request: what it may do, and until when. Any valid token may ask."""
    return await parts.tokens.show_own_token(await parts.access.identify(credential))


@post("/api/v1/tokens", tags=["tokens"], request_max_body_size=MAX_JSON_BYTES)
async def create_token(data: TokenCreate, parts: ServerParts, credential: Credential, origin: Origin) -> TokenCreated:
    """Create a token no stronger than the caller's own. This answer is the only one that holds its secret."""
    grant = check_may_administer_tokens(await parts.access.identify(credential))
    return await parts.tokens.create_token(data, grant, origin.actor(grant))


@delete("/api/v1/tokens/{token_id:int}", tags=["tokens"])
async def revoke_token(token_id: Number, parts: ServerParts, credential: Credential, origin: Origin) -> None:
    """Make a token invalid, at once and for ever. Needs `admin`."""
    grant = check_may_administer_tokens(await parts.access.identify(credential))
    await parts.tokens.revoke_token(token_id, grant, origin.actor(grant))
