"""Stagings: a cache for what nobody looked at yet, beside the one that it is promoted to.

The two share nothing but what they would share otherwise: a staging of a private cache has a domain of its own, since
whoever pushes there could find out what the main cache has. So only a promotion changes what the main cache serves.
"""

from __future__ import annotations

from dataclasses import dataclass

from icehouse.errors import InvalidFormat
from icehouse.nix.store_paths import StoreDir


@dataclass(frozen=True, slots=True)
class StagingFacts:
    """What matters of either of the two caches."""

    name: str
    is_public: bool
    store_dir: StoreDir
    is_staging: bool
    """Of a third cache."""
    has_stagings: bool


def check_may_stage(staging: StagingFacts, main: StagingFacts) -> None:
    """Return if the one can be a staging of the other.

    Raises:
        InvalidFormat: it cannot.
    """
    if staging.name == main.name:
        raise InvalidFormat(f"staging_of: {main.name} cannot be a staging of itself")
    if main.is_staging:
        raise InvalidFormat(f"staging_of: {main.name} is a staging itself; expected the cache that it is promoted to")
    if staging.has_stagings:
        raise InvalidFormat(f"staging_of: {staging.name} has stagings, so it cannot be one")
    if staging.store_dir != main.store_dir:
        raise InvalidFormat(
            f"staging_of: {main.name} is for {main.store_dir}, and {staging.name} for {staging.store_dir}: nothing "
            "could be promoted"
        )
    if staging.is_public and not main.is_public:
        raise InvalidFormat(
            f"staging_of: {main.name} is private, so {staging.name} must be too: it would show everybody what is built "
            "for the other"
        )
