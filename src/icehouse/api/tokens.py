"""Bodies about tokens."""

from typing import Literal

import msgspec

PermissionName = Literal["pull", "push", "pin", "delete", "configure", "admin"]


class TokenCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/tokens``."""

    description: str
    """What people know it by."""
    permissions: list[PermissionName]
    """What it may do to those caches."""
    cache_pattern: str
    """The caches whose name matches; `*` stands for any letters or none."""
    expires_in_seconds: int | None = None
    """How long it lasts; null: until it is revoked."""


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token without its secret. Times are seconds since the epoch, UTC."""

    id: int
    description: str
    permissions: list[PermissionName]
    cache_pattern: str
    created_at: int
    created_by: int | None
    """Null: it was made on the server's machine."""
    created_by_description: str | None
    """Of the token that made it."""
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    """Up to half a minute old."""
    last_used_from: str | None
    """The address of the client that used it then."""


class TokenPage(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/tokens/search``: tokens, the newest first."""

    tokens: list[TokenView]
    has_more: bool
    """`before` set to the last one's number gives the next ones."""


class TokenCreated(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer that holds a token's secret."""

    token: str
    view: TokenView
