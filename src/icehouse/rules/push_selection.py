"""Which of the paths that a cache lacks a push sends, where its user excludes some.

A cache has whole closures only. So what needs an excluded path that the cache lacks cannot be pushed either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.store_paths import StorePath


@dataclass(frozen=True, slots=True)
class Exclusion:
    """What the user does not want to push."""

    globs: tuple[str, ...] = ()
    """Patterns of names, without hash parts: ``*`` any letters, ``?`` one, ``[…]`` one of these."""
    larger_than_bytes: int | None = None
    """NARs of more than so many bytes."""

    def covers(self, info: ValidPath) -> bool:
        """Whether a path is one of those."""
        if self.larger_than_bytes is not None and info.nar_size > self.larger_than_bytes:
            return True
        return any(fnmatchcase(info.store_path.name, glob) for glob in self.globs)


@dataclass(frozen=True, slots=True)
class Selection:
    """What becomes of the paths that a cache lacks. Each is in one of the three, in the order given."""

    publish: tuple[ValidPath, ...]
    excluded: tuple[ValidPath, ...]
    """The user excludes them."""
    dependents: tuple[ValidPath, ...]
    """They need one of the excluded."""


def select(lacking: Sequence[ValidPath], exclusion: Exclusion) -> Selection:
    """Split *lacking*, references first. What a path refers to and is not among them is in the cache, or upstream."""
    publish: list[ValidPath] = []
    excluded: list[ValidPath] = []
    dependents: list[ValidPath] = []
    left: set[StorePath] = set()
    for info in lacking:
        if exclusion.covers(info):
            excluded.append(info)
        elif left.isdisjoint(info.references):
            publish.append(info)
            continue
        else:
            dependents.append(info)
        left.add(info.store_path)
    return Selection(tuple(publish), tuple(excluded), tuple(dependents))
