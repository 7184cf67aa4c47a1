"""What a login by a provider is recognised by when it comes back: all of it follows from one secret of the browser.

So the server keeps nothing about logins that are under way, and any worker can finish one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from icehouse.rules.sessions import SessionSecret

MAX_LOGIN_SECONDS: Final = 600
"""How long somebody may take at the provider."""


def make_state(secret: SessionSecret) -> str:
    """What the provider sends back: this browser began the login."""
    return _derive(b"state", secret)


def make_nonce(secret: SessionSecret) -> str:
    """What the identity token holds: it was made for this login."""
    return _derive(b"nonce", secret)


def make_verifier(secret: SessionSecret) -> str:
    """What gets an identity token for the code. Source: RFC 7636, section 4.1."""
    return _derive(b"verifier", secret)


def make_request(secret: SessionSecret, *, client_id: str, redirect_uri: str, scopes: str) -> Mapping[str, str]:
    """The parameters with which a browser is sent to the provider. Source: OpenID Connect Core 1.0, section 3.1.2.1."""
    digest = hashlib.sha256(make_verifier(secret).encode()).digest()
    return {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": scopes,
        "state": make_state(secret),
        "nonce": make_nonce(secret),
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }


def _derive(purpose: bytes, secret: SessionSecret) -> str:
    digest = hashlib.sha256(b"icehouse login\0" + purpose + b"\0" + secret.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
