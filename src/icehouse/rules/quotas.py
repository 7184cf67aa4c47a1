"""How full a cache may be: the hard limit that refuses pushes, and the level from which people are warned."""

from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat, OverQuota
from icehouse.nix.excerpts import excerpt

WARN_FROM_PERCENT: Final = 85
"""Of the limit, or of the budget."""

DEFAULT_TRASH_SECONDS: Final = 7 * 86_400
MAX_SECONDS: Final = 100 * 366 * 86_400
MAX_BYTES: Final = (1 << 62) - 1

_UNITS: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a cache keeps, and how much it takes. `None` sets no bound."""

    keep_unused_seconds: int | None = None
    keep_pushed_seconds: int | None = None
    budget_bytes: int | None = None
    limit_bytes: int | None = None
    trash_seconds: int = DEFAULT_TRASH_SECONDS


def check_settings(settings: CacheSettings) -> CacheSettings:
    """*settings*, if they make sense.

    Raises:
        InvalidFormat: a number is out of bounds, or the limit is below the budget: pushes would be refused before
            anything is evicted.
    """
    for name in ("keep_unused_seconds", "keep_pushed_seconds"):
        seconds = getattr(settings, name)
        if seconds is not None and not 1 <= seconds <= MAX_SECONDS:
            raise InvalidFormat(f"{name} {excerpt(str(seconds))}: expected 1 to {MAX_SECONDS}, or null")
    for name in ("budget_bytes", "limit_bytes"):
        size = getattr(settings, name)
        if size is not None and not 1 <= size <= MAX_BYTES:
            raise InvalidFormat(f"{name} {excerpt(str(size))}: expected 1 to {MAX_BYTES}, or null")
    if not 0 <= settings.trash_seconds <= MAX_SECONDS:
        raise InvalidFormat(f"trash_seconds {excerpt(str(settings.trash_seconds))}: expected 0 to {MAX_SECONDS}")
    if settings.limit_bytes is not None and settings.limit_bytes < (settings.budget_bytes or 0):
        raise InvalidFormat(
            f"limit_bytes {settings.limit_bytes} is below budget_bytes {settings.budget_bytes}: pushes would be "
            "refused before anything is evicted"
        )
    return settings


def check_limit(cache_name: str, stored_bytes: int, limit_bytes: int | None) -> None:
    """Return if a cache of that size may be pushed to.

    Raises:
        OverQuota: it is as large as its limit, or larger.
    """
    if limit_bytes is not None and stored_bytes >= limit_bytes:
        raise OverQuota(
            f"cache {cache_name!r} has {size_text(stored_bytes)}, and its limit is {size_text(limit_bytes)}: nothing "
            "can be pushed until it is smaller. Let retention remove more (icehouse cache configure, icehouse gc), or "
            "raise the limit"
        )


def find_warning(stored_bytes: int, settings: CacheSettings) -> str | None:
    """What to tell people about a cache that is nearly as full as it may be; `None`: there is room.

    The limit comes first: it refuses pushes, while the budget only evicts.
    """
    for bound, name in ((settings.limit_bytes, "limit"), (settings.budget_bytes, "budget")):
        if bound is not None and stored_bytes * 100 >= bound * WARN_FROM_PERCENT:
            return f"{size_text(stored_bytes)} is {stored_bytes * 100 // bound} % of the {name} of {size_text(bound)}"
    return None


def size_text(size: int) -> str:
    """A number of bytes for people, in powers of 1024, exact below a KiB."""
    for unit, factor in _UNITS:
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
