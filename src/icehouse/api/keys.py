"""Bodies about signing keys."""

from typing import Literal

import msgspec

KeyState = Literal["staged", "active", "retired"]
KeyKept = Literal["database", "file", "command"]


class KeyAdd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/caches/{cache}/keys``."""

    secret_key: str | None = None
    """The text of Nix's key file, to import a key; null: make one."""

    def __repr__(self) -> str:
        """Without the secret."""
        return "KeyAdd(…)"


class KeyName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of requests about one key."""

    name: str


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key without its secret half."""

    name: str
    public_key: str
    state: KeyState
    """``staged``: published for clients, and does not sign yet; ``active``: signs; ``retired``: neither."""
    created_at: int
    kept: KeyKept = "database"
    """Where its secret half is: encrypted in the database, in a file on the server's machine, or behind a command."""


class ResignRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/caches/{cache}/keys/resign``."""

    after: int = 0
    """Where the request before this one ended; 0: begin."""


class ResignAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one request did."""

    looked_at: int
    signed: int
    """Paths that lacked a signature of an active key, and have it now."""
    after: int | None
    """Where the next request goes on; null: all paths were looked at."""
    left: int
    """Paths that are still to be looked at."""
