"""Pins: names that keep store paths and their closures, revision by revision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.nix.excerpts import excerpt

MAX_PINS: Final = 10_000
"""Pins of one cache."""

MAX_NAME_LENGTH: Final = 100
MAX_KEEP_DAYS: Final = 36_500
MAX_KEEP_REVISIONS: Final = 1_000_000
MAX_ARTIFACTS: Final = 100
"""Artifacts of one revision."""

MAX_ARTIFACTS_LENGTH: Final = 8_192
"""Characters of all artifacts of a revision together: listings hold those of many."""

NAME_PATTERN: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"

_NAME: Final = re.compile(NAME_PATTERN)
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Keep:
    """Which revisions a pin keeps beside its newest, which always stays. Both `None`: all. At most one is given."""

    days: int | None = None
    """Those that are younger than this."""
    revisions: int | None = None
    """So many of the newest, that one included."""

    @property
    def is_all(self) -> bool:
        """Whether nothing is ever let go."""
        return self.days is None and self.revisions is None


KEEP_ALL: Final = Keep()


@dataclass(frozen=True, slots=True)
class Revision:
    """A path that a pin was put on."""

    number: int
    """1 is the first of the pin; later ones are higher."""
    path_id: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A name in a cache, and what it was put on. The newest revision is there in any case; others may be left out."""

    name: str
    keep: Keep
    revisions: tuple[Revision, ...]
    """Ascending by number, never empty."""

    @property
    def newest(self) -> Revision:
        """What the name stands for."""
        return self.revisions[-1]


@dataclass(frozen=True, slots=True)
class PinPlan:
    """What putting a pin on a path changes."""

    keep: Keep
    number: int
    """Of the newest revision afterwards."""
    is_new_revision: bool
    """False: the pin is on that path already."""
    forget: tuple[int, ...]
    """Numbers of revisions that are let go for good."""


def kept_revisions(pin: Pin, now: int) -> tuple[Revision, ...]:
    """Those of the pin's revisions whose paths it keeps at *now*, ascending. The newest is one of them."""
    *older, newest = pin.revisions
    if pin.keep.revisions is not None:
        older = older[max(0, len(pin.revisions) - pin.keep.revisions) :]
    if pin.keep.days is not None:
        oldest = now - pin.keep.days * _DAY_SECONDS
        older = [revision for revision in older if revision.created_at > oldest]
    return (*older, newest)


def plan_pin(pin: Pin | None, path_id: int, keep: Keep | None, *, now: int) -> PinPlan:
    """Decide what putting a pin on a path changes.

    What the pin did not keep any more is forgotten before a new rule holds: its paths may be gone, and a rule that
    keeps more must not promise them again.

    Args:
        pin: as it is; `None`: there is none of that name.
        path_id: the path that it is put on.
        keep: the rule from now on; `None`: as before, or all for a new pin.
        now: seconds since the epoch.
    """
    if pin is None:
        return PinPlan(keep or KEEP_ALL, 1, is_new_revision=True, forget=())
    is_new = pin.newest.path_id != path_id
    newest = Revision(pin.newest.number + 1, path_id, now) if is_new else pin.newest
    before = kept_revisions(pin, now)
    after = Pin(pin.name, keep or pin.keep, (*before, newest) if is_new else before)
    kept = {revision.number for revision in kept_revisions(after, now)}
    forget = tuple(revision.number for revision in pin.revisions if revision.number not in kept)
    return PinPlan(after.keep, newest.number, is_new_revision=is_new, forget=forget)


def parse_pin_name(text: str) -> str:
    """Read the name of a pin, which also stands in URLs.

    Raises:
        InvalidFormat: other than 1 to 100 of ``A-Z a-z 0-9 . _ -``, or a dot at the beginning.
    """
    if _NAME.fullmatch(text) is None:
        raise InvalidFormat(
            f"pin name {excerpt(text)}: expected 1 to {MAX_NAME_LENGTH} characters of A-Z a-z 0-9 . _ and -, "
            "without a dot at the beginning"
        )
    return text


def make_keep(*, days: int | None, revisions: int | None, forever: bool) -> Keep | None:
    """The rule that somebody asked for; `None`: for none.

    Raises:
        InvalidFormat: more than one was asked for, or a number is out of bounds.
    """
    if [days is not None, revisions is not None, forever].count(True) > 1:
        raise InvalidFormat("a pin keeps revisions by days, by number or for ever: name one of these")
    if days is not None and not 1 <= days <= MAX_KEEP_DAYS:
        raise InvalidFormat(f"keep_days {days}: expected 1 to {MAX_KEEP_DAYS}")
    if revisions is not None and not 1 <= revisions <= MAX_KEEP_REVISIONS:
        raise InvalidFormat(f"keep_revisions {revisions}: expected 1 to {MAX_KEEP_REVISIONS}")
    if days is None and revisions is None:
        return KEEP_ALL if forever else None
    return Keep(days, revisions)


def describe_keep(*, days: int | None, revisions: int | None) -> str:
    """What a pin keeps, for people."""
    if days is not None:
        return f"{days} day{'' if days == 1 else 's'}"
    if revisions is not None:
        return "the last revision" if revisions == 1 else f"the last {revisions} revisions"
    return "all revisions"


def parse_artifacts(texts: Sequence[str]) -> tuple[str, ...]:
    """Read paths inside a store path, each of files or folders that are to be had by the name of a pin.

    A slash at the end is dropped, and so is what is named twice.

    Raises:
        InvalidFormat: a path is absolute, has an empty segment, ``.``, ``..`` or a backslash, or cannot be printed.
        TooLarge: more than `MAX_ARTIFACTS`, or with more letters than `MAX_ARTIFACTS_LENGTH`.
    """
    length = sum(map(len, texts))
    if len(texts) > MAX_ARTIFACTS or length > MAX_ARTIFACTS_LENGTH:
        raise TooLarge(
            f"{len(texts)} artifacts with {length} characters: expected at most {MAX_ARTIFACTS}, "
            f"with {MAX_ARTIFACTS_LENGTH} together"
        )
    return tuple(dict.fromkeys(_parse_artifact(text) for text in texts))


def is_artifact(artifacts: Iterable[str], names: Sequence[bytes]) -> bool:
    """Tell whether the way along *names* leads to one of *artifacts*, or to something below one."""
    ways = (artifact.encode().split(b"/") for artifact in artifacts)
    return any(list(names[: len(way)]) == way for way in ways)


def _parse_artifact(text: str) -> str:
    path = text.removesuffix("/")
    # URLs cannot name a backslash here: browsers take it for a slash.
    if not {"", ".", ".."}.isdisjoint(path.split("/")) or "\\" in path or not path.isprintable():
        raise InvalidFormat(
            f"artifact {excerpt(text)}: expected a path inside the store path, such as bin/app: relative, printable, "
            "without '.', '..', empty segments and backslashes"
        )
    return path
