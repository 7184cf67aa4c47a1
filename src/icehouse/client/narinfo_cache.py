"""What the user's Nix remembers of binary caches: which paths they have, and for an hour which they do not have.

Source: Nix, src/libstore/nar-info-disk-cache.cc: an SQLite file in the user's cache folder, root's for a daemon. The
number in its name is that of its schema; the tables used here are the same in 6 to 8.
"""

import contextlib
import sqlite3
from collections.abc import Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import Final

from icehouse.nix.store_paths import HashPart

MISS_SECONDS: Final = 3600
"""How long Nix believes that a path is not there, unless ``narinfo-cache-negative-ttl`` says otherwise."""

_NAMES: Final = ("binary-cache-v6.sqlite", "binary-cache-v7.sqlite", "binary-cache-v8.sqlite")
_WAIT_SECONDS: Final = 5.0
_BATCH: Final = 500

# Parameters of a store stand behind its address, as in `https://cache.example.org/team?priority=30`.
_OF_CACHE: Final = "cache IN (SELECT id FROM BinaryCaches WHERE url = ? OR url LIKE ? || '?%')"


def find_narinfo_caches(environment: Mapping[str, str]) -> list[Path]:
    """The files of the user whose environment this is, those that are there."""
    folder = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or Path.home()}/.cache"
    return [file for name in _NAMES if (file := Path(folder) / "nix" / name).is_file()]


def find_misses(files: Sequence[Path], url: str, *, now: int) -> dict[HashPart, int]:
    """The paths that Nix believes not to be in the cache at *url*, and for how many seconds yet.

    A file that cannot be read counts as empty: it is only what Nix would ask again.
    """
    found: dict[HashPart, int] = {}
    statement = f"SELECT hashPart, timestamp FROM NARs WHERE present = 0 AND timestamp > ? AND {_OF_CACHE}"  # noqa: S608  no values in it
    for file in files:
        with contextlib.suppress(sqlite3.Error), _opened(file) as connection:
            for hash_part, timestamp in connection.execute(statement, (now - MISS_SECONDS, url, url)):
                found[HashPart(hash_part)] = timestamp + MISS_SECONDS - now
    return found


def forget_misses(files: Sequence[Path], url: str, hash_parts: Collection[HashPart], key_names: Collection[str]) -> int:
    """Let Nix ask the cache at *url* again for those paths that it believes absent, or not signed by *key_names*.

    Nix remembers the narinfo that it wrote itself, without the cache's signature, for 30 days.

    Returns:
        How many entries were deleted. A file that is locked or cannot be written is left as it is.
    """
    forgotten = 0
    parts = list(hash_parts)
    is_signed = " OR ".join("sigs LIKE ? || ':%' OR sigs LIKE '% ' || ? || ':%'" for _ in key_names) or "0"
    names = [name for name in key_names for _ in range(2)]
    for file in files:
        with contextlib.suppress(sqlite3.Error), _opened(file, is_written=True) as connection, connection:
            for start in range(0, len(parts), _BATCH):
                batch = parts[start : start + _BATCH]
                marks = ", ".join("?" * len(batch))
                statement = (
                    f"DELETE FROM NARs WHERE {_OF_CACHE} AND hashPart IN ({marks}) "  # noqa: S608  marks only
                    f"AND (present = 0 OR NOT ({is_signed}))"
                )
                forgotten += connection.execute(statement, (url, url, *batch, *names)).rowcount
    return forgotten


@contextlib.contextmanager
def _opened(file: Path, *, is_written: bool = False) -> Generator[sqlite3.Connection]:
    mode = "rw" if is_written else "ro"
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=_WAIT_SECONDS)
    try:
        yield connection
    finally:
        connection.close()
