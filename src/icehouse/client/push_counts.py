"""What a push has done so far."""

from dataclasses import dataclass, field

from icehouse.nix.store_paths import StorePath


@dataclass(slots=True)
class PushCounts:
    """Counted up while a push runs; others may read it meanwhile."""

    paths: int = 0
    """Paths of the closure."""
    paths_present: int = 0
    """Those that the cache had already."""
    paths_upstream: int = 0
    """Those that an upstream of the cache vouches for: they are not sent."""
    paths_excluded: int = 0
    """Those that the cache lacks, and the user excludes; and those that need one of these."""
    paths_pushed: int = 0
    """Those that this push published."""
    paths_to_push: int = 0
    """Those that it set out to publish."""
    nar_bytes: int = 0
    """NARs of the paths to push, each distinct one once."""
    read_bytes: int = 0
    """Of these, what was read."""
    new_bytes: int = 0
    """Raw bytes of the chunks that the server lacked."""
    sent_bytes: int = 0
    """Bodies of all requests."""
    stored_bytes: int = 0
    """What the server's packs grew by."""
    waiting: dict[StorePath, None] = field(default_factory=dict[StorePath, None])
    """The paths to push that this push has not published yet, references first."""
