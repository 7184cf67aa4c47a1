"""How pages name a store path of a cache: its name, its hash, and the page that tells about it."""

from __future__ import annotations

from dataclasses import dataclass

from icehouse.nix.store_paths import HASH_PART_LENGTH


@dataclass(frozen=True, slots=True)
class PathLink:
    """A path, and the page that tells about it. `ui.path_link` shows it."""

    base_name: str
    page: str

    @property
    def hash_part(self) -> str:
        """Its beginning."""
        return self.base_name[:HASH_PART_LENGTH]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.base_name[HASH_PART_LENGTH + 1 :]


def link_to(cache_name: str, base_name: str) -> PathLink:
    """A path with the address of its page; *base_name* may be a hash part alone."""
    return PathLink(base_name, f"/ui/caches/{cache_name}/paths/{base_name[:HASH_PART_LENGTH]}")
