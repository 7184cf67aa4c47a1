"""Logging in by an OpenID Connect provider: the authorization code flow with PKCE."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import quote_plus, urlencode

import structlog

from icehouse.errors import InvalidFormat, Unauthenticated, Unavailable
from icehouse.rules.audit import Origin
from icehouse.rules.id_tokens import (
    ProviderPlaces,
    parse_id_token,
    parse_provider,
    parse_token_answer,
    verify_login_token,
)
from icehouse.rules.login_secrets import make_nonce, make_request, make_state, make_verifier
from icehouse.rules.people import Role, choose_scopes, read_groups, read_person
from icehouse.rules.sessions import SessionSecret
from icehouse.rules.trust import check_keys_address
from icehouse.services.issuer_keys import DISCOVERY, FRESH_SECONDS, IssuerKeyring
from icehouse.services.sessions import Begun, Sessions

CALLBACK_PATH: Final = "/login/callback"
"""Of the redirect address that is registered with the provider."""

_MAX_CODE_LENGTH: Final = 4096

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Provider:
    """Who says who people are, and what we make of it."""

    issuer: str
    client_id: str
    client_secret: str | None = field(repr=False)
    """`None`: a public client, which PKCE alone protects."""
    scopes: str
    groups_claim: str
    roles: tuple[Role, ...]


class ProviderDocuments(Protocol):
    """What is fetched from a provider."""

    async def fetch(self, url: str) -> bytes:
        """What is at *url*. The errors are those of `icehouse.services.issuer_keys.Documents.fetch`."""
        ...

    async def send_form(self, url: str, fields: Mapping[str, str], authorization: str | None) -> bytes:
        """The answer to a form that is sent to *url*.

        Raises:
            Unavailable: there was no answer in time.
            InvalidFormat: it was refused, or the answer is too large.
        """
        ...


class ProviderLogins:
    """Sends people to the provider and takes them back. Belongs to one event loop."""

    def __init__(
        self,
        provider: Provider,
        documents: ProviderDocuments,
        keyring: IssuerKeyring,
        sessions: Sessions,
        *,
        public_url: str,
        clock: Callable[[], int],
    ) -> None:
        self.issuer: Final = provider.issuer
        self._provider = provider
        self._documents = documents
        self._keyring = keyring
        self._sessions = sessions
        self._redirect_uri = f"{public_url}{CALLBACK_PATH}"
        self._clock = clock
        self._places: ProviderPlaces | None = None
        self._places_until = 0

    async def begin(self, secret: SessionSecret) -> str:
        """Where to send the browser, which keeps *secret* until it comes back.

        Raises:
            Unavailable: the provider does not answer, or not as it should.
        """
        try:
            places = await self._find_places()
        except InvalidFormat as exc:
            raise Unavailable(str(exc)) from exc
        parameters = make_request(
            secret,
            client_id=self._provider.client_id,
            redirect_uri=self._redirect_uri,
            scopes=self._provider.scopes,
        )
        separator = "&" if "?" in places.authorization_endpoint else "?"
        return f"{places.authorization_endpoint}{separator}{urlencode(parameters)}"

    async def finish(
        self, answer: Mapping[str, str], secret: SessionSecret | None, origin: Origin, *, before: SessionSecret | None
    ) -> Begun:
        """Begin a session for who comes back with the provider's *answer*, the parameters of its redirect.

        Raises:
            Unauthenticated: the login was not begun in this browser, or failed. The log has the reason.
            Denied: they are known, and have no role.
            Unavailable: the provider does not answer.
        """
        try:
            return await self._finish(answer, secret, origin, before)
        except InvalidFormat as exc:
            _log.warning("a login by the provider was refused", issuer=self.issuer, reason=str(exc))
            raise Unauthenticated("the login failed") from None

    async def _finish(
        self, answer: Mapping[str, str], secret: SessionSecret | None, origin: Origin, before: SessionSecret | None
    ) -> Begun:
        if secret is None or not hmac.compare_digest(answer.get("state", "").encode(), make_state(secret).encode()):
            raise InvalidFormat("it was begun in another browser, or too long ago")
        if answer.get("iss", self.issuer) != self.issuer:  # Source: RFC 9207, section 2.4.
            raise InvalidFormat("the answer is another provider's")
        if "error" in answer:
            raise InvalidFormat(f"the provider says {answer['error'][:100]!r}")
        code = answer.get("code", "")
        if not 0 < len(code) <= _MAX_CODE_LENGTH:
            raise InvalidFormat("the answer has no code")
        unverified = parse_id_token(await self._redeem(code, secret))
        keys = await self._keyring.find(self.issuer, unverified.key_id)
        token = verify_login_token(
            unverified,
            keys,
            issuer=self.issuer,
            client_id=self._provider.client_id,
            nonce=make_nonce(secret),
            now=self._clock(),
        )
        person = read_person(self.issuer, token.subject, token.claims)
        scopes = choose_scopes(self._provider.roles, read_groups(token.claims, self._provider.groups_claim))
        return await self._sessions.log_in_person(person, scopes, origin, before=before)

    async def _redeem(self, code: str, secret: SessionSecret) -> str:
        """The identity token for a code. Source: RFC 6749, sections 2.3.1 and 4.1.3."""
        places = await self._find_places()
        provider = self._provider
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": make_verifier(secret),
        }
        authorization: str | None = None
        if provider.client_secret is None:
            fields["client_id"] = provider.client_id
        elif places.takes_basic:
            pair = f"{quote_plus(provider.client_id)}:{quote_plus(provider.client_secret)}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            fields |= {"client_id": provider.client_id, "client_secret": provider.client_secret}
        return parse_token_answer(await self._documents.send_form(places.token_endpoint, fields, authorization))

    async def _find_places(self) -> ProviderPlaces:
        if self._places is None or self._clock() >= self._places_until:
            document = await self._documents.fetch(self.issuer.rstrip("/") + DISCOVERY)
            places = parse_provider(document, self.issuer)
            for place in (places.authorization_endpoint, places.token_endpoint):
                check_keys_address(place, self.issuer)
            self._places, self._places_until = places, self._clock() + FRESH_SECONDS
        return self._places
