"""What becomes of packs whose chunks nobody needs any more (design, section 7): condemned, deleted, or compacted.

A pack is condemned when no recipe names a chunk of it, and deleted when that is still so a day later. Publishing a NAR
lifts the condemnation of its packs in its own transaction, so that no lock and no lease is needed between the two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from icehouse.errors import Unavailable

GRACE_SECONDS: Final = 24 * 3600
"""How long a pack must have been there before it is condemned, and condemned before it is deleted; and how long what
was uploaded for a path may wait for that path. A push may take that long from its first chunk to its last path."""

COMPACT_BELOW: Final = 0.5
"""Packs of which less than this share is alive are copied, and so are small ones."""

SMALL_PACK_BYTES: Final = 1024 * 1024
_FEW: Final = 8  # small packs that are worth a copy
_COMPACTED_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackFacts:
    """A pack, and what recipes need of it."""

    id: int
    name: bytes
    size_bytes: int
    created_at: int
    condemned_at: int | None
    live_bytes: int
    """Of the frames that some recipe names."""
    sound_bytes: int
    """Of those of them that can be copied: the others were found damaged, and wait for a push that heals them."""


@dataclass(frozen=True, slots=True)
class PackPlan:
    """What to do with the packs of one domain."""

    condemn: tuple[PackFacts, ...]
    lift: tuple[PackFacts, ...]
    """Condemned, and needed again."""
    delete: tuple[PackFacts, ...]
    compact: tuple[tuple[PackFacts, ...], ...]
    """Groups, each of which becomes one pack of its live frames."""

    @property
    def deleted_bytes(self) -> int:
        """What comes back from the disk at once."""
        return sum(pack.size_bytes for pack in self.delete)


def check_is_fresh(made_at: int, now: int) -> None:
    """Return if the rows of an object may still follow: nobody can have taken it for a stray yet.

    Usually milliseconds lie between the two. A machine that slept, or whose clock was set, may find them days apart.

    Args:
        made_at: before the object was made durable, seconds since the epoch.
        now: in the transaction that adds its rows.

    Raises:
        Unavailable: it was made too long ago, and may be gone.
    """
    if now - made_at >= GRACE_SECONDS // 2:
        raise Unavailable(
            f"storing this took {now - made_at} seconds by the server's clock; collection may have removed it: send it "
            "again"
        )


def plan_packs(packs: Iterable[PackFacts], *, now: int) -> PackPlan:
    """Decide about the packs of one domain. Reads and writes nothing."""
    condemn: list[PackFacts] = []
    lift: list[PackFacts] = []
    delete: list[PackFacts] = []
    sparse: list[PackFacts] = []
    small: list[PackFacts] = []
    for pack in packs:
        if pack.condemned_at is not None:
            if pack.live_bytes:
                lift.append(pack)
            elif now - pack.condemned_at >= GRACE_SECONDS:
                delete.append(pack)
        elif now - pack.created_at < GRACE_SECONDS:
            continue
        elif not pack.live_bytes:
            condemn.append(pack)
        elif not pack.sound_bytes:
            continue
        elif pack.sound_bytes < COMPACT_BELOW * pack.size_bytes:
            sparse.append(pack)
        elif pack.size_bytes < SMALL_PACK_BYTES:
            small.append(pack)
    if len(small) < _FEW:
        small = []
    return PackPlan(tuple(condemn), tuple(lift), tuple(delete), tuple(_group([*sparse, *small])))


def _group(packs: Iterable[PackFacts]) -> Iterable[tuple[PackFacts, ...]]:
    group: list[PackFacts] = []
    size = 0
    for pack in packs:
        group.append(pack)
        size += pack.sound_bytes
        if size >= _COMPACTED_BYTES:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)
