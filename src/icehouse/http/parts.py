"""What the API's routes work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from icehouse.api.server import ServerParameters
from icehouse.db.engine import Database
from icehouse.http.description import ApiDescription
from icehouse.http.metrics import Observed, ServerCounters
from icehouse.services.access import Access
from icehouse.services.activity import Activity
from icehouse.services.aliases import Aliases
from icehouse.services.audit import Audit
from icehouse.services.caches import Caches
from icehouse.services.closure_sizes import ClosureSizes
from icehouse.services.collections import Collections
from icehouse.services.contents import Contents
from icehouse.services.differences import Differences
from icehouse.services.downloads import Downloads
from icehouse.services.exchange import Exchange
from icehouse.services.keys import Keys
from icehouse.services.live_streams import LiveStreams
from icehouse.services.logs import Logs
from icehouse.services.nar_uploads import NarUploads
from icehouse.services.narinfo_uploads import NarinfoUploads
from icehouse.services.nars import NarRegistry
from icehouse.services.packs import PackReceiver
from icehouse.services.paths import Paths
from icehouse.services.people import People
from icehouse.services.pins import Pins
from icehouse.services.promote import Promotions
from icehouse.services.publish import Publisher
from icehouse.services.readiness import Readiness
from icehouse.services.realisations import Realisations
from icehouse.services.retention import Retentions
from icehouse.services.revocations import Revocations
from icehouse.services.signing_passes import SigningPasses
from icehouse.services.tokens import Tokens
from icehouse.services.traffic import TrafficCounts
from icehouse.services.trash import Trash
from icehouse.services.trust import Trust
from icehouse.services.upload_slots import UploadSlots
from icehouse.services.verification_state import VerificationStates

MAX_UPLOADS_AT_ONCE: Final = 8
"""Packs that are received at the same time; each takes some megabytes of memory and a thread's attention."""

MAX_UPLOADS_OF_TOKEN: Final = 6
"""Of them with one token. A push sends two at a time."""


@dataclass(frozen=True, slots=True)
class ServerParts:
    """The services behind the routes, and what the server says of itself."""

    database: Database
    access: Access
    activity: Activity
    streams: LiveStreams
    caches: Caches
    keys: Keys
    tokens: Tokens
    people: People
    trust: Trust
    exchange: Exchange
    revocations: Revocations
    promotions: Promotions
    packs: PackReceiver
    nars: NarRegistry
    publisher: Publisher
    signing_passes: SigningPasses
    nar_uploads: NarUploads
    narinfo_uploads: NarinfoUploads
    aliases: Aliases
    downloads: Downloads
    contents: Contents
    pins: Pins
    differences: Differences
    collections: Collections
    trash: Trash
    retention: Retentions
    verification: VerificationStates
    paths: Paths
    closure_sizes: ClosureSizes
    audit: Audit
    logs: Logs
    realisations: Realisations
    traffic: TrafficCounts
    counters: ServerCounters
    observed: Observed
    readiness: Readiness
    parameters: ServerParameters
    description: ApiDescription
    clock: Callable[[], int]
    """Gives seconds since the epoch."""
    requests_per_second: int = 0
    """Of the API, for each token and each address; 0: no limit."""
    failed_logins_per_minute: int = 0
    """For each address; 0: no limit."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies whose word about a client's address is believed."""
    uploads: UploadSlots = field(
        default_factory=lambda: UploadSlots(MAX_UPLOADS_AT_ONCE, of_one_token=MAX_UPLOADS_OF_TOKEN)
    )
    """Of packs."""
