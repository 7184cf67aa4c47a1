"""Bodies about collections that are asked for over the network, and those of the past."""

import msgspec

from icehouse.api.collection import CollectionReport, SweepReport


class RetentionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cache keeps. Null sets no bound."""

    keep_unused_seconds: int | None = None
    """Hide what was not used for so long."""
    keep_pushed_seconds: int | None = None
    """Hide what was pushed longer ago."""
    budget_bytes: int | None = None
    """Hide what was used least recently while the cache is larger."""


class PreviewedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path that would go to the trash."""

    store_path: str
    """Base name."""
    stored_bytes: int
    """What leaves the size of the cache with it, where all that was used less recently goes too."""


class RetentionPreview(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/retention/preview``: what other settings would hide, from sums that were made before."""

    made_at: int
    """When the cache was summed up. What was pushed, used or pinned since is not in it."""
    is_about: bool
    """Whether the numbers are near the exact ones only; a dry run with `retention` tells those."""
    paths: int
    """Visible ones then."""
    pinned_paths: int
    unused_paths: int
    """That would go for `keep_unused_seconds`."""
    unused_bytes: int
    old_paths: int
    """That would go for `keep_pushed_seconds`."""
    old_bytes: int
    budget_paths: int
    """That would go for `budget_bytes`."""
    budget_bytes: int
    stored_bytes_before: int
    stored_bytes_after: int
    largest: list[PreviewedPath]
    """Some of those that would go, the largest first."""


class CollectionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST …/collections``."""

    is_dry_run: bool = False
    """Only tell what would be done."""
    retention: RetentionBody | None = None
    """Of a dry run of one cache: what it goes by, instead of what the cache has set."""


class PinHold(msgspec.Struct, frozen=True, kw_only=True):
    """What a pin keeps."""

    cache: str
    pin: str
    revisions: int
    """That the pin keeps and that are visible."""
    paths: int
    """Of their closures. Other pins may keep the same ones."""
    stored_bytes: int
    """Of the distinct chunks of those paths."""


class CollectionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection did, or would do."""

    report: CollectionReport
    pins: list[PinHold]
    """Of a dry run, by cache and name; else empty."""


class CollectionEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the answer to ``POST …/collections``, in JSON. All but one of the fields are left out.

    Empty lines only show that the server is alive.
    """

    progress: str | None = None
    """What is being done."""
    result: CollectionResult | None = None
    """The end."""
    error: str | None = None
    """The end too: it failed. What was done by then is done, and the next collection goes on."""
    is_not_found: bool = False
    """With `error`: there is no such cache any more."""


class MarkSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a past collection hid in one cache."""

    cache: str
    hidden: int
    hidden_by_reason: dict[str, int] = {}
    """How many of them for each reason. Empty for what was collected before this was kept."""
    pinned_paths: int
    stored_bytes_before: int
    stored_bytes_after: int


class PastCollection(msgspec.Struct, frozen=True, kw_only=True):
    """A collection of the past."""

    id: int
    cache: str | None
    """Null: of all caches."""
    began_at: int
    ended_at: int
    started_by: str
    marks: list[MarkSummary]
    sweeps: list[SweepReport]
