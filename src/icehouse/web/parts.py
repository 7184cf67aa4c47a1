"""What pages work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from icehouse.errors import IcehouseError
from icehouse.services.access import Access
from icehouse.services.activity import Activity
from icehouse.services.audit import Audit
from icehouse.services.caches import Caches
from icehouse.services.closure_sizes import ClosureSizes
from icehouse.services.collections import Collections
from icehouse.services.contents import Contents
from icehouse.services.differences import Differences
from icehouse.services.keys import Keys
from icehouse.services.live_streams import LiveStreams
from icehouse.services.logs import Logs
from icehouse.services.paths import Paths
from icehouse.services.people import People
from icehouse.services.pins import Pins
from icehouse.services.provider_logins import ProviderLogins
from icehouse.services.retention import Retentions
from icehouse.services.sessions import Sessions
from icehouse.services.signing_passes import SigningPasses
from icehouse.services.tokens import Tokens
from icehouse.services.traffic import TrafficCounts
from icehouse.services.trash import Trash
from icehouse.services.trust import Trust
from icehouse.services.verification_state import VerificationStates


@dataclass(frozen=True, slots=True)
class WebParts:
    """The services behind the pages, and what the server says of itself."""

    access: Access
    activity: Activity
    streams: LiveStreams
    caches: Caches
    keys: Keys
    signing_passes: SigningPasses
    trust: Trust
    sessions: Sessions
    logins: ProviderLogins | None
    """`None`: people log in with tokens."""
    tokens: Tokens
    traffic: TrafficCounts
    people: People
    audit: Audit
    paths: Paths
    closure_sizes: ClosureSizes
    logs: Logs
    contents: Contents
    pins: Pins
    differences: Differences
    trash: Trash
    collections: Collections
    retention: Retentions
    verification: VerificationStates
    public_url: str
    """The address under which people reach the server, without a slash at the end."""
    version: str
    statuses: Mapping[type[IcehouseError], tuple[int, str]]
    """Status and title of each class of errors: the one table that the API has too."""
    describe: Callable[[], Mapping[str, Any]]
    """Gives the OpenAPI document of the API, which nobody changes."""
    clock: Callable[[], int]
    """Gives seconds since the epoch."""
    draw: Callable[[int], bytes]
    """Gives so many random bytes, fit for secrets."""

    @property
    def is_secure(self) -> bool:
        """Whether people reach the server by https alone, so that cookies never need to go in clear text."""
        return self.public_url.startswith("https:")

    @property
    def cookie_name(self) -> str:
        """Of sessions. With the prefix, browsers take it from this very host by https only."""
        return self._cookie("icehouse")

    @property
    def login_cookie_name(self) -> str:
        """Of a login that is under way at the provider."""
        return self._cookie("icehouse-login")

    def _cookie(self, name: str) -> str:
        return f"__Host-{name}" if self.is_secure else name
