"""The public keys of issuers that some trust rule names: fetched, remembered, and fetched again when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from icehouse.errors import InvalidFormat, Unavailable
from icehouse.rules.id_tokens import IssuerKeys, parse_discovery, parse_keys
from icehouse.rules.trust import check_keys_address

FRESH_SECONDS: Final = 3600
"""How long keys are used without asking again, as long as they have the one that a token names."""

STALE_SECONDS: Final = 24 * 3600
"""How long they are used while the issuer does not answer."""

PAUSE_SECONDS: Final = 60
"""Between two fetches from an issuer, whatever tokens come: anybody can send one with a key that does not exist."""

RETRY_SECONDS: Final = 5
"""The same after a fetch that failed."""

_MAX_ISSUERS: Final = 256
DISCOVERY: Final = "/.well-known/openid-configuration"
"""Below an issuer's address."""

_log = structlog.get_logger(__name__)


class Documents(Protocol):
    """Where the documents of issuers come from."""

    async def fetch(self, url: str) -> bytes:
        """What is at *url*, of bounded size and in bounded time, without following redirects.

        Raises:
            Unavailable: it could not be had.
            InvalidFormat: it is too large, or the address is none.
        """
        ...


@dataclass(slots=True)
class _Remembered:
    keys: IssuerKeys = field(default_factory=dict[str, tuple[()]])
    fetched_at: int = -STALE_SECONDS
    may_ask_at: int = 0
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)


class IssuerKeyring:
    """Remembers keys of issuers. Belongs to one event loop."""

    def __init__(self, documents: Documents, clock: Callable[[], int]) -> None:
        """*clock* gives seconds since the epoch."""
        self._documents = documents
        self._clock = clock
        self._remembered: dict[str, _Remembered] = {}

    async def find(self, issuer: str, key_id: str) -> IssuerKeys:
        """The keys of *issuer*: asked for again if they are old, or if *key_id* is none of them.

        The caller knows that *issuer* stands in a trust rule; nobody else is ever asked.
        """
        known = self._remembered.get(issuer)
        if known is None:
            if len(self._remembered) >= _MAX_ISSUERS:
                self._remembered.pop(next(iter(self._remembered)))
            known = self._remembered[issuer] = _Remembered()
        if self._needs_fetch(known, key_id):
            async with known.fetching:  # Those who waited find what the first one fetched.
                if self._needs_fetch(known, key_id):
                    await self._fetch(issuer, known)
        return known.keys if self._clock() - known.fetched_at < STALE_SECONDS else {}

    def _needs_fetch(self, known: _Remembered, key_id: str) -> bool:
        now = self._clock()
        is_good = now - known.fetched_at < FRESH_SECONDS and key_id in known.keys
        return not is_good and now >= known.may_ask_at

    async def _fetch(self, issuer: str, known: _Remembered) -> None:
        try:
            discovery = await self._documents.fetch(issuer.rstrip("/") + DISCOVERY)
            address = check_keys_address(parse_discovery(discovery, issuer), issuer)
            known.keys = parse_keys(await self._documents.fetch(address))
        except (InvalidFormat, Unavailable) as exc:
            _log.warning("keys of an issuer cannot be had", issuer=issuer, error=str(exc))
            known.may_ask_at = self._clock() + RETRY_SECONDS
            return
        known.fetched_at = self._clock()
        known.may_ask_at = known.fetched_at + PAUSE_SECONDS
