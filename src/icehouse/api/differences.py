"""Bodies about the difference of two closures."""

from typing import Literal

import msgspec


class SideView(msgspec.Struct, frozen=True, kw_only=True):
    """One of two closures that are compared."""

    store_path: str
    """Base name."""
    paths: int
    """How many the closure has, those in upstreams too."""
    nar_bytes: int
    """Of all their NARs."""
    unknown: int
    """Paths beside these that only upstreams know of, so that neither their size nor what they need is known here."""


class ChangedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path that only one of the closures has."""

    store_path: str
    """Base name."""
    nar_size: int


class ChangedPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is not the same in both closures."""

    name: str
    change: Literal["added", "removed", "version", "contents", "rebuilt"]
    """`contents`: the versions are the same; `rebuilt`: the contents too, but for the hashes of store paths in them."""
    versions_before: list[str]
    """All of the package in that closure; an empty one is that of paths without a version."""
    versions_after: list[str]
    bytes_before: int
    """Of the NARs of all the package's paths in that closure."""
    bytes_after: int
    gone: list[ChangedPath]
    """Those that only the first closure has."""
    new: list[ChangedPath]
    """Those that only the second closure has."""


class DifferenceView(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/difference``."""

    before: SideView
    after: SideView
    common_paths: int
    """How many both have."""
    packages: list[ChangedPackage]
    """The largest change of size first; at the end those that were only rebuilt."""
