"""Bodies about what a server does at this moment."""

import msgspec

from icehouse.api.collections import PastCollection


class UploadView(msgspec.Struct, frozen=True, kw_only=True):
    """A body that arrives, or waits for its turn."""

    file: str | None
    """The NAR's name, of stock Nix; null: it is a pack, with chunks of many paths."""
    began_at: int
    received_bytes: int
    """0: it waits."""


class PushView(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody pushes to a cache, from the first request until half a minute after the last."""

    cache: str
    who: str
    """The token's description."""
    began_at: int
    received_bytes: int
    bytes_per_second: int
    """Of the last ten seconds."""
    published_paths: int
    last_path: str | None
    """The base name of the path that was published last, or from stock Nix its hash part; null: none yet."""
    uploads: list[UploadView]


class VerificationView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the verification stands that goes on for ever."""

    is_between: bool
    """Whether it pauses until the next pass."""
    began_at: int
    read_bytes: int
    findings: int
    """What this pass has found wrong so far."""
    completed_at: int | None
    """The end of the pass before; null: there was none."""
    last_findings: int | None


class MaintenanceView(msgspec.Struct, frozen=True, kw_only=True):
    """What a server does by itself."""

    doing: str | None
    """The work that is under way; null: none."""
    began_at: int | None
    """Of the turn that is under way, or of the last one; null: there was none since the start."""
    ended_at: int | None
    error: str | None
    """Of that turn."""
    next_at: int | None
    last_collection: PastCollection | None
    verification: VerificationView | None


class ActivityView(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/activity``."""

    now: int
    pushes: list[PushView]
    """To caches that the caller administers, the newest first."""
    maintenance: MaintenanceView | None
    """Null: the caller does not administer all caches."""
