"""Routes about people who logged in by a provider."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.params import QueryParameter

from icehouse.api.people import PeoplePage, PersonRevoke, PersonRevoked
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential, Number
from icehouse.http.token_routes import MAX_NUMBER
from icehouse.rules.audit import Origin
from icehouse.services.people import MAX_PEOPLE_A_PAGE, PEOPLE_A_PAGE

Search = Annotated[str | None, QueryParameter(description="Only those with this in their name or e-mail address.")]
Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_NUMBER, description="Only those with a lower number.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PEOPLE_A_PAGE, description="So many at most.")]


@get("/api/v1/people", tags=["people"])
async def list_people(
    parts: ServerParts,
    credential: Credential,
    search: Search = None,
    before: Before = None,
    limit: Limit = PEOPLE_A_PAGE,
) -> PeoplePage:
    """Those who logged in by a provider, the newest first. Needs `admin` on `*`."""
    grant = await parts.access.identify(credential)
    return await parts.people.list_people(grant, search=search, before=before, limit=limit)


@post("/api/v1/people/{person_id:int}/revoke", status_code=200, tags=["people"], request_max_body_size=MAX_JSON_BYTES)
async def revoke_person(
    person_id: Number, data: PersonRevoke, parts: ServerParts, credential: Credential, origin: Origin
) -> PersonRevoked:
    """End all sessions of a person, and the tokens that they made for themselves. Needs `admin` on `*`.

    They can log in again as long as their provider lets them and a group of theirs has a role.
    """
    grant = await parts.access.identify(credential)
    return await parts.people.revoke_person(person_id, grant, origin.actor(grant), keep_tokens=data.keep_tokens)
