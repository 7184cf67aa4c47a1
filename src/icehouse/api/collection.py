"""Bodies about collection."""

import msgspec


class HiddenPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path that goes to the trash, and why."""

    store_path: str
    """Base name."""
    reason: str


class MarkReport(msgspec.Struct, frozen=True, kw_only=True):
    """What retention hides in one cache."""

    cache: str
    hidden: list[HiddenPath]
    """Referrers before what they refer to."""
    hidden_by_reason: dict[str, int]
    """How many for each reason; also of those that `hidden` leaves out where not all were asked for."""
    pinned_paths: int
    """Paths that pins keep, with their closures."""
    stored_bytes_before: int
    """Stored bytes of the distinct chunks of the cache's paths: the size that its budget is about."""
    stored_bytes_after: int


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is removed for good in one domain, for all caches that share it."""

    domain: int
    purged_paths: int
    """Whose time in the trash is over."""
    purged_nars: int
    """That no path needs any more."""
    condemned_packs: int
    """That nothing needs; deleted a day later, if that stays so."""
    condemned_bytes: int
    lifted_packs: int
    """That were condemned and are needed again."""
    deleted_packs: int
    deleted_bytes: int
    """What comes back from the disk."""
    compacted_packs: int
    """Whose living chunks are copied into new packs."""
    compacted_bytes: int
    """Of the new packs' frames."""
    deleted_strays: int
    """Objects that no row knows and that are older than a day."""
    stray_bytes: int


class CollectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection did, or with `is_dry_run` what it would do."""

    is_dry_run: bool
    marks: list[MarkReport]
    sweeps: list[SweepReport]
