"""Bodies about signing keys."""

from typing import Literal

import msgspec

KeyState = Literal["staged", "active", "retired", "stripped"]
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
    """Of the key: what stands before the colon in its public key."""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key without its secret half."""

    name: str
    public_key: str
    state: KeyState
    """``staged``: published for clients, and does not sign yet; ``active``: signs; ``retired``: neither;
    ``stripped``: as retired, and its signatures are removed."""
    created_at: int
    kept: KeyKept = "database"
    """Where its secret half is: encrypted in the database, in a file on the server's machine, or behind a command."""


class KeyRetire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/caches/{cache}/keys/retire``."""

    name: str
    """Of the key: what stands before the colon in its public key."""
    strip: bool = False
    """Whether the signatures that it made are removed."""


class SigningProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the server is in bringing the signatures of a cache's paths in line with its keys."""

    state: Literal["none", "running", "done"]
    """``none``: its keys never changed."""
    began_at: int | None = None
    """When the keys changed the last time."""
    ended_at: int | None = None
    looked_at: int = 0
    """Paths."""
    changed: int = 0
    """Those of them that got other signatures."""
    left: int = 0
    """Paths that are still to be looked at."""
    error: str | None = None
    """Why it could not go on; it is tried again."""
