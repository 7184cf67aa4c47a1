"""Routes about revocations."""

from __future__ import annotations

from litestar import get, post

from icehouse.api.revocations import RevocationAnswer, RevocationCreate, RevocationView, UndoAnswer
from icehouse.http.parts import ServerParts
from icehouse.http.publish_routes import MAX_JSON_BYTES, Credential, Number
from icehouse.rules.audit import Origin
from icehouse.services.revocations import check_may_revoke


@post("/api/v1/revocations", status_code=200, tags=["revocations"], request_max_body_size=MAX_JSON_BYTES)
async def revoke_publications(
    data: RevocationCreate, parts: ServerParts, credential: Credential, origin: Origin
) -> RevocationAnswer:
    """Hide what a token or the jobs of a CI published, with all that reaches it; or tell what that is.

    Needs `admin` on `*`. While it is in force, they cannot publish it again.
    """
    grant = check_may_revoke(await parts.access.identify(credential))
    return await parts.revocations.revoke(data, origin.actor(grant))


@get("/api/v1/revocations", tags=["revocations"])
async def list_revocations(parts: ServerParts, credential: Credential) -> list[RevocationView]:
    """All revocations, undone ones too, oldest first. Needs `admin` on `*`."""
    check_may_revoke(await parts.access.identify(credential))
    return await parts.revocations.list_revocations()


@post("/api/v1/revocations/{revocation_id:int}/undo", status_code=200, tags=["revocations"])
async def undo_revocation(
    revocation_id: Number, parts: ServerParts, credential: Credential, origin: Origin
) -> UndoAnswer:
    """End a revocation, and make visible what it hid. Needs `admin` on `*`."""
    grant = check_may_revoke(await parts.access.identify(credential))
    return await parts.revocations.undo(revocation_id, origin.actor(grant))
