"""Bodies about paths that are there, or are not."""

from typing import Literal

import msgspec

from icehouse.api.trust import JobView


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Who published a path."""

    token_id: int
    job: JobView | None
    """The job of a CI that the token was exchanged for. Null: somebody made the token."""
    address: str | None
    """Where it came from. Told to who has `admin` on the cache."""


class SignatureCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What became of looking at a signature."""

    key: str
    """Its name."""
    verdict: Literal["valid", "wrong", "unknown-key"]
    """`unknown-key`: neither the cache nor an upstream of it has a key of that name, so nobody here can tell."""
    whose: Literal["cache", "upstream"] | None
    """Whose key it was checked with."""


class PathView(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/paths/{hash part}``."""

    store_path: str
    """Base name."""
    nar_hash: str
    nar_size: int
    file_hash: str
    file_size: int
    url: str
    references: list[str]
    deriver: str | None
    system: str | None
    ca: str | None
    signatures: list[str]
    created_at: int
    published_by: str | None
    """Description of the token that published it."""
    provenance: Provenance | None = None
    """Null: it was published before this was kept, or the database was rebuilt since."""
    signature_checks: list[SignatureCheck] = []
    """In the order of the signatures."""
    last_used_at: int | None = None
    """When it was last pulled, pushed or asked for; told to who has `push`. Null: not since that is noted."""


class KeptBy(msgspec.Struct, frozen=True, kw_only=True):
    """The pin that keeps a path."""

    pin: str
    revision: int
    chain: list[str]
    """Base names: from what is pinned, each referring to the next, to the path itself."""


class WhyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/why/{hash part}``."""

    hash_part: str
    state: Literal["visible", "hidden", "external", "waiting", "purged", "never-pushed"]
    explanation: str
    """A few sentences for people."""
    since: int | None = None
    """When it became so."""
    upstream: str | None = None
    """Of an external path: where clients get it."""
    upstreams: list[str] = []
    """Of a path that is not here: the cache's upstreams, where clients look for it too."""
    published_by: str | None = None
    """Description of the token that pushed it."""
    kept_by: KeptBy | None = None
    """A pin that keeps it, by the shortest chain; there may be others."""
    is_every_pin_searched: bool = True
    """False: the pins keep too many paths to look at all of them; one of the others may keep this one."""
    hidden_because: str | None = None
    """The rule, or the person, that hid it; also of a purged path."""
    hidden_at: int | None = None
    restorable_until: int | None = None
    """Of a hidden path: when the next collection may purge it."""
    waiting_for: list[str] = []
    """Of a waiting path: the references, as base names, that are not there."""


class PathSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A path in a list."""

    store_path: str
    """Base name."""
    nar_size: int
    created_at: int
    hidden_at: int | None
    """Null: visible."""
    hidden_because: str | None
    restorable_until: int | None
    """Of a hidden path: when the next collection may purge it."""
    published_by: str | None = None
    """Description of the token that pushed it."""


class FoundPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/search`` and ``GET …/paths/{hash part}/referrers``: the newest first, at most 100."""

    paths: list[PathSummary]
    before: str | None
    """What `before` is to be set to for the next ones, even if there are few or none here; null: there are no more."""


class ClosureMember(msgspec.Struct, frozen=True, kw_only=True):
    """A path of a closure."""

    store_path: str
    """Base name."""
    nar_size: int
    added_size: int
    """Bytes of NARs that the closure would lose if nothing in it referred to this path: its own, and of what only this
    path brings in."""


class ClosureView(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/paths/{hash part}/closure``."""

    nar_size: int
    """Of all its paths."""
    paths: list[ClosureMember]
    """What brings most first; the path itself, which brings all, before all others."""
    externals: list[str]
    """Base names of what it reaches in upstreams of the cache, whose size does not count."""
    is_cut: bool
    """It is larger than what was looked at; all else here is of that."""


class ChainAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/paths/{hash part}/chain/{other}``."""

    chain: list[str]
    """Base names, each referring to the next, from the path to the other one by the shortest way; empty: by none."""
    is_complete: bool
    """False: the closure is too large to look at all of it, and the rest may have a way."""


class PathsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/paths``: paths by hash part."""

    paths: list[PathSummary]
    has_more: bool
    """Whether others follow; `after` set to the last one's hash part gives them."""


TrashReason = Literal["retention", "budget", "deleted", "revoked", "damaged", "other"]


class TrashedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path in the trash."""

    store_path: str
    """Base name."""
    nar_size: int
    created_at: int
    published_by: str | None
    """Description of the token."""
    hidden_at: int
    reason: TrashReason
    hidden_because: str
    """The same in words, with who or what did it."""
    restorable_until: int
    """When the next collection may purge it."""
    collection: int | None
    """Number of the collection that hid it."""


class TrashPage(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/trash``: what came last first."""

    paths: list[TrashedPath]
    before: str | None
    """Given as `before`, it has what came earlier. Null: there is nothing more. A search looks through 20,000 names at
    once, so there may be more where `paths` is empty."""


class RestoreRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST …/trash/restore``: either of the two."""

    hash_parts: list[str] | None = None
    """At most 1,000."""
    collection: int | None = None
    """All that this collection hid in the cache and that is still in the trash."""
    after: str | None = None
    """With `collection`: where the answer before left off."""


class RestoreManyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the answer to ``POST …/trash/restore``."""

    restored: list[str]
    """Base names, sorted: the paths and what they needed from the trash, without those that were visible already."""
    refused: list[str]
    """Hash parts of those that cannot come back: something that they reach is damaged, revoked or purged, or they lack
    a signature that the cache demands."""
    after: str | None
    """There is more of the collection; ask again with this."""


class DeletePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/paths/{hash part}/deletion``: what deleting a path would do."""

    store_path: str
    nar_size: int
    referrers: list[str]
    """Base names, sorted, at most 1,000: the visible paths that reach it, which would not be whole without it."""
    referrer_count: int
    kept_by: list[str]
    """Pins, with the revision, that keep it or one of the referrers; at most 100. None of them may be deleted."""


class RestoreAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST …/paths/{hash part}/restore``."""

    restored: list[str]
    """Base names, sorted: the path and what it needed from the trash. Empty: it was visible already."""


class DeleteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``DELETE …/paths/{hash part}``."""

    deleted: list[str]
    """Base names, sorted: the path, and with `with_referrers` all that reached it. Empty: it was in the trash."""
