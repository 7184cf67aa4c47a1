"""Bodies about trust rules, and about the exchange of a job's identity for a token."""

import msgspec

from icehouse.api.tokens import PermissionName

DEFAULT_TOKEN_SECONDS = 15 * 60


class TrustCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/caches/{cache}/trust``."""

    issuer: str
    """The URL of who signs identities."""
    claims: dict[str, list[str]]
    """For each claim the globs of which one must match. All claims must be there."""
    permissions: list[PermissionName]
    """Those that the tokens have."""
    audience: str | None = None
    """Null: the server's URL."""
    token_seconds: int = DEFAULT_TOKEN_SECONDS
    """How long a token lasts: a minute to 12 hours."""


class TrustView(msgspec.Struct, frozen=True, kw_only=True):
    """A trust rule. Times are seconds since the epoch, UTC."""

    id: int
    issuer: str
    audience: str
    claims: dict[str, list[str]]
    permissions: list[PermissionName]
    token_seconds: int
    created_at: int
    created_by: int | None
    """The number of the token that made it."""


class ExchangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/oidc/token``."""

    cache: str
    """The name of the cache that the token is for."""
    id_token: str
    """The identity that the issuer signed for the job: a JSON Web Token."""
    permissions: list[PermissionName] | None = None
    """Those that the token is to have, of those that the rules allow. Null: all of them."""


class ExchangeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A token for one cache, for some minutes."""

    token: str
    cache: str
    permissions: list[PermissionName]
    expires_at: int
    expires_in_seconds: int


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """The job of a CI that a token was exchanged for, by what its issuer said of it."""

    issuer: str
    subject: str
    repository: str | None
    ref: str | None
    workflow: str | None
    commit: str | None
    run: str | None
    run_url: str | None
