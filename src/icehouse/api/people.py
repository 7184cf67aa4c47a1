"""Bodies about people who logged in by a provider."""

import msgspec

from icehouse.api.tokens import PermissionName


class RoleView(msgspec.Struct, frozen=True, kw_only=True):
    """Permissions on the caches whose names match a pattern."""

    permissions: list[PermissionName]
    cache_pattern: str


class PersonView(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who logged in by a provider. Times are seconds since the epoch, UTC."""

    id: int
    name: str
    """As the provider gave it at the last login; so are the others."""
    email: str | None
    issuer: str
    """The provider."""
    subject: str
    """What the provider knows them by, whatever they are called."""
    roles: list[RoleView]
    """What they might do by their last login."""
    created_at: int
    """When they logged in first."""
    last_login_at: int
    sessions: int
    """In how many browsers they are logged in."""
    tokens: int
    """How many valid ones they made for themselves."""


class PeoplePage(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/people``: those who came last first."""

    people: list[PersonView]
    has_more: bool
    """`before` set to the last one's number gives the next ones."""


class PersonRevoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/people/{person_id}/revoke``."""

    keep_tokens: bool = False
    """Whether only their sessions end, and the tokens that they made for themselves stay valid."""


class PersonRevoked(msgspec.Struct, frozen=True, kw_only=True):
    """What ended."""

    sessions: int
    tokens: int
