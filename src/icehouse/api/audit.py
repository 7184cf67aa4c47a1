"""Bodies about the audit log."""

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the past."""

    id: int
    """Later changes have higher numbers."""
    at: int
    """Seconds since the epoch, UTC."""
    action: str
    """What was done, such as ``token.create``."""
    cache_pattern: str
    """The name of the cache that it concerns, or the pattern of all that it does."""
    subject: str | None
    """What of it: a pin, a path, the number of a token; null: the cache itself."""
    who: str
    """The description of the token, or what the server calls who did it."""
    token_id: int | None
    """Null: it was done on the server's machine, or by the server itself."""
    address: str | None
    """Of the client."""
    request_id: str | None
    """As in `X-Request-Id` of the answer, and in the server's log."""
    old: object
    """What was there, as far as it was changed; null: nothing."""
    new: object
    """What was there afterwards; null: nothing."""


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/audit``: changes, the newest first."""

    entries: list[AuditEntry]
    has_more: bool
    """`before` set to the last one's number gives the next ones."""
