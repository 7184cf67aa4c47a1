"""Bodies about the verification that goes on for ever."""

from typing import Literal

import msgspec


class DamagedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path that damage hides, its own or that of what it reaches."""

    store_path: str
    """Base name."""
    reason: str
    since: int


class VerificationState(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/verification``: where the pass over all that is stored is, and what is damaged in a cache."""

    phase: Literal["packs", "nars", "paths"] | None
    """What is read now. Null: the pass rests, or never began."""
    percent: int
    """Of that phase, by what was stored until now; near enough to see that it goes on."""
    began_at: int | None
    """Of the pass that goes on."""
    completed_at: int | None
    """Of the last one that came to its end."""
    damaged_paths: list[DamagedPath]
    """At most 100."""
    damaged_path_count: int
    """At most 1,000."""
    damaged_chunks: int
    """Of the domain of the cache, which others may share: they wait for a push or a repair. At most 1,000."""
