"""Sessions of the web page: how long they live, and the secrets that they are known by."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final, NewType

from icehouse.errors import InvalidFormat

SECRET_BYTES: Final = 32

IDLE_SECONDS: Final = 12 * 3600
"""After so long without a request a session is over."""

LIFETIME_SECONDS: Final = 7 * 86_400
"""It is over then, whatever was done with it."""

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_PATH: Final = re.compile(r"/(?:[!-.0-[\]-~][!-[\]-~]*)?")
_MAX_PATH_LENGTH: Final = 500

SessionSecret = NewType("SessionSecret", str)
"""What the cookie of a browser holds. Made by `make_secret` and `parse_secret` only."""


def make_secret(random_bytes: bytes) -> SessionSecret:
    """The secret that 32 random bytes stand for."""
    if len(random_bytes) != SECRET_BYTES:
        raise InvalidFormat(f"a session's secret is made of {SECRET_BYTES} random bytes, not {len(random_bytes)}")
    return SessionSecret(base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode())


def parse_secret(text: str | None) -> SessionSecret | None:
    """The secret in a cookie; `None`: there is none, or it is malformed, which nobody needs to be told."""
    return None if text is None or _SECRET.fullmatch(text) is None else SessionSecret(text)


def hash_secret(secret: SessionSecret) -> bytes:
    """What is kept of a secret: SHA-256, which 256 random bits need no salt for."""
    return hashlib.sha256(secret.encode()).digest()


def make_form_key(secret: SessionSecret) -> str:
    """What every form of a session holds: who does not know its secret cannot make one. It does not tell the secret."""
    digest = hashlib.sha256(b"icehouse form\0" + secret.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def parse_return(text: str | None) -> str:
    r"""Where to go after a login: *text*, if it is a path on this server, else the first page.

    A browser reads ``//host``, ``/\host`` and, where it drops tabs and newlines, ``/<tab>/host`` as other servers.
    """
    if text is None or len(text) > _MAX_PATH_LENGTH or _PATH.fullmatch(text) is None:
        return "/"
    return "/" if text.partition("?")[0].strip("/") in {"login", "logout"} else text
