"""Which tokens of a listing are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TokenState(StrEnum):
    """Whether a token can be used."""

    VALID = "valid"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """`None` lets all through."""

    cache_name: str | None = None
    """Those whose pattern matches it."""
    state: TokenState | None = None
    search: str | None = None
    """A part of the description, in small or large letters."""
    before: int | None = None
    """Those with a lower number than this."""


def state_of(*, revoked_at: int | None, expires_at: int | None, now: int) -> TokenState:
    """The state of a token: one that was revoked and would have expired too was revoked."""
    if revoked_at is not None:
        return TokenState.REVOKED
    return TokenState.EXPIRED if expires_at is not None and expires_at <= now else TokenState.VALID
