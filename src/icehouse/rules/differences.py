"""What differs between two closures, package by package.

A package has the paths of one name: `parse_package` takes versions and outputs off it, as Nix does. Two paths have the
same contents if their NARs are alike but for the hashes of store paths in them, which is what rebuilds change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from icehouse.nix.store_paths import HASH_PART_LENGTH

_OUTPUT: Final = re.compile(r"-(?:[a-z]+|lib32|lib64)\Z")
_VERSION: Final = re.compile(r"-(?=[^A-Za-z])")


@dataclass(frozen=True, slots=True)
class Package:
    """What the name of a store path says."""

    name: str
    version: str
    """Empty: it has none."""


def parse_package(name: str) -> Package:
    """Read the name of a store path, as ``glibc-2.40-66-bin``, as ``nix store diff-closures`` does.

    First a last part of small letters, or ``lib32`` or ``lib64``, is taken for an output and dropped, also where it is
    none: ``bash-interactive`` is an output of ``bash``. The version follows the first dash that no letter follows.

    Source: Nix's manual, ``builtins.parseDrvName`` and ``nix store diff-closures``.
    """
    found = _OUTPUT.search(name)
    rest = name if found is None else name[: found.start()]
    dash = _VERSION.search(rest)
    return Package(rest, "") if dash is None else Package(rest[: dash.start()], rest[dash.end() :])


class Change(StrEnum):
    """What became of a package."""

    ADDED = "added"
    REMOVED = "removed"
    VERSION = "version"
    """Its versions differ."""
    CONTENTS = "contents"
    """The same versions, with other contents, or more or fewer paths."""
    REBUILT = "rebuilt"
    """The same versions and contents, in paths with other hashes."""


@dataclass(frozen=True, slots=True)
class ClosurePath:
    """A path of a closure. A base name always stands for the same path."""

    base_name: str
    nar_hash: str
    nar_size: int

    @property
    def name(self) -> str:
        """The part behind the hash."""
        return self.base_name[HASH_PART_LENGTH + 1 :]


@dataclass(frozen=True, slots=True)
class PackageDifference:
    """A package that is not the same in both closures."""

    name: str
    change: Change
    versions_before: tuple[str, ...]
    """All that the one closure has, sorted; one may be empty."""
    versions_after: tuple[str, ...]
    size_before: int
    """Bytes of the NARs of all the package's paths."""
    size_after: int
    gone: tuple[ClosurePath, ...]
    """Those that only the one closure has, by name."""
    new: tuple[ClosurePath, ...]
    """Those that only the other has."""

    @property
    def size_change(self) -> int:
        """By how many bytes the package grew."""
        return self.size_after - self.size_before


@dataclass(frozen=True, slots=True)
class Side:
    """One of the closures."""

    path_count: int
    size: int
    """Bytes of the NARs of all its paths."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two closures."""

    before: Side
    after: Side
    common_count: int
    """Paths that both have."""
    packages: tuple[PackageDifference, ...]
    """Those that differ, the largest change of size first, then by name; at the end those that were only rebuilt."""


def find_alike(before: Collection[ClosurePath], after: Collection[ClosurePath]) -> set[str]:
    """Base names of the paths whose contents must be known: others have their name and size, and another NAR.

    Of all others the NAR's hash alone says what `compare_closures` needs.
    """
    gone, new = _only(before, after), _only(after, before)
    groups: dict[tuple[str, int], tuple[list[ClosurePath], list[ClosurePath]]] = {}
    for side, paths in enumerate((gone, new)):
        for path in paths:
            groups.setdefault((path.name, path.nar_size), ([], []))[side].append(path)
    return {
        path.base_name
        for one, other in groups.values()
        if one and other and len({path.nar_hash for path in (*one, *other)}) > 1
        for path in (*one, *other)
    }


def compare_closures(
    before: Collection[ClosurePath], after: Collection[ClosurePath], contents: Mapping[str, Hashable]
) -> Difference:
    """Compare two closures. Reads and writes nothing.

    Args:
        before: the one, each path once.
        after: the other.
        contents: for base names that `find_alike` gave what is equal for paths with the same contents, and for no
            others. Of whatever is not among these, the hash of the NAR counts.
    """
    touched = {parse_package(path.name).name for path in (*_only(before, after), *_only(after, before))}
    packages_before, packages_after = _group(before, touched), _group(after, touched)
    found = (
        _compare_package(name, packages_before.get(name, {}), packages_after.get(name, {}), contents)
        for name in touched
    )
    packages = sorted(
        found,
        key=lambda package: (package.change is Change.REBUILT, -abs(package.size_change), package.name),
    )
    return Difference(
        before=_measure(before),
        after=_measure(after),
        common_count=len({path.base_name for path in before} & {path.base_name for path in after}),
        packages=tuple(packages),
    )


def _group(paths: Iterable[ClosurePath], names: Container[str]) -> dict[str, dict[str, list[ClosurePath]]]:
    """Those of the packages with these *names*, by package, then by version."""
    packages: dict[str, dict[str, list[ClosurePath]]] = {}
    for path in paths:
        package = parse_package(path.name)
        if package.name in names:
            packages.setdefault(package.name, {}).setdefault(package.version, []).append(path)
    return packages


def _compare_package(
    name: str,
    before: Mapping[str, list[ClosurePath]],
    after: Mapping[str, list[ClosurePath]],
    contents: Mapping[str, Hashable],
) -> PackageDifference:
    all_before = [path for paths in before.values() for path in paths]
    all_after = [path for paths in after.values() for path in paths]
    gone, new = _only(all_before, all_after), _only(all_after, all_before)
    if not before or not after:
        change = Change.REMOVED if before else Change.ADDED
    elif before.keys() != after.keys():
        change = Change.VERSION
    else:
        same = _count_contents(gone, contents) == _count_contents(new, contents)
        change = Change.REBUILT if same else Change.CONTENTS
    return PackageDifference(
        name=name,
        change=change,
        versions_before=tuple(sorted(before)),
        versions_after=tuple(sorted(after)),
        size_before=sum(path.nar_size for path in all_before),
        size_after=sum(path.nar_size for path in all_after),
        gone=tuple(sorted(gone, key=_by_name)),
        new=tuple(sorted(new, key=_by_name)),
    )


def _count_contents(paths: Iterable[ClosurePath], contents: Mapping[str, Hashable]) -> Counter[Hashable]:
    return Counter((path.name, contents.get(path.base_name, path.nar_hash)) for path in paths)


def _only(paths: Iterable[ClosurePath], others: Iterable[ClosurePath]) -> list[ClosurePath]:
    """Those of *paths* that are not among *others*."""
    known = {path.base_name for path in others}
    return [path for path in paths if path.base_name not in known]


def _measure(paths: Collection[ClosurePath]) -> Side:
    return Side(len(paths), sum(path.nar_size for path in paths))


def _by_name(path: ClosurePath) -> tuple[str, str]:
    return path.name, path.base_name
