"""Which store paths may have become valid, as told by what happens in the store's folder. Touches nothing.

Nix locks a path in ``<path>.lock`` while it makes it, and deletes the lock once the path is registered: a lock that
disappears is the sign that tells best. It also disappears after a build that failed, and, for a derivation whose output
is addressed by its content, a moment before the path is registered. So a path that is not valid is asked for again,
a few times, as is one whose files appeared without a lock.

Source: Nix, src/libstore/pathlocks.cc, and what calls ``setDeletion``.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from icehouse.client.inotify import FolderEvent, Happened
from icehouse.errors import InvalidFormat
from icehouse.nix.derivations import DERIVATION_EXTENSION
from icehouse.nix.store_paths import StorePath

_LOCK_SUFFIX: Final = ".lock"
_UNLOCKED_WAITS: Final = (0.0, 0.3, 2.0, 20.0)
"""Seconds from one question to the next, after a lock disappeared."""
_APPEARED_WAITS: Final = (3.0, 60.0)
"""After files appeared: most have a lock, which is going to tell better."""
MAX_CANDIDATES: Final = 100_000
"""Some 30 MB. Beyond it the store is looked through instead."""

_ASKED: Final = float("inf")


@dataclass(slots=True)
class _Candidate:
    waits: tuple[float, ...]
    """Those that are left after the next question."""
    due: float


class NewPaths:
    """Candidates and when each is to be asked for. Times are in seconds, of any one clock."""

    def __init__(self) -> None:
        self._candidates: dict[StorePath, _Candidate] = {}
        self._has_missed = False

    @property
    def has_missed(self) -> bool:
        """Whether the whole store is to be looked through, since something was missed, and there is room for it."""
        return self._has_missed and len(self._candidates) < MAX_CANDIDATES

    def note(self, events: Iterable[FolderEvent], now: float) -> None:
        """Take in what happened."""
        for event in events:
            if event.happened is Happened.OVERFLOWED:
                self._has_missed = True
            elif event.happened is Happened.DISAPPEARED and event.name.endswith(_LOCK_SUFFIX):
                self._add(event.name.removesuffix(_LOCK_SUFFIX), _UNLOCKED_WAITS, now)
            elif event.happened is Happened.APPEARED and not event.name.endswith(_LOCK_SUFFIX):
                self._add(event.name, _APPEARED_WAITS, now)

    def looked_through(self, names: Iterable[str], now: float) -> None:
        """Take in the entries that a look through the store found; it began after `has_missed` was asked."""
        self._has_missed = False
        for name in names:
            self._add(name, _UNLOCKED_WAITS, now)

    def next_due(self) -> float | None:
        """When something is to be asked for next; None: nothing is."""
        due = min((candidate.due for candidate in self._candidates.values()), default=_ASKED)
        return None if due == _ASKED else due

    def take_due(self, now: float, limit: int) -> list[StorePath]:
        """Those to be asked for at *now*, at most *limit*. The answer goes to `settle`."""
        found = (path for path, candidate in self._candidates.items() if candidate.due <= now)
        taken = list(islice(found, limit))
        for path in taken:
            self._candidates[path].due = _ASKED
        return taken

    def all_due(self) -> None:
        """Let everything be asked for at once, and for the last time."""
        for candidate in self._candidates.values():
            candidate.waits, candidate.due = (), float("-inf")

    def settle(self, asked: Iterable[StorePath], valid: Collection[StorePath], now: float) -> None:
        """Take in the answer: what is valid is done, what is not is asked for again later or given up."""
        for path in asked:
            candidate = self._candidates[path]
            if path in valid:
                del self._candidates[path]
            elif candidate.due == _ASKED:  # else something happened to it since
                if candidate.waits:
                    candidate.due, candidate.waits = now + candidate.waits[0], candidate.waits[1:]
                else:
                    del self._candidates[path]

    def put_off(self, asked: Iterable[StorePath], due: float) -> None:
        """Take in that there was no answer."""
        for path in asked:
            self._candidates[path].due = due

    def _add(self, name: str, waits: tuple[float, ...], now: float) -> None:
        try:
            path = StorePath.parse(name)
        except InvalidFormat:
            return  # what Nix keeps there beside store paths: `.links`, temporary files
        if path.name.endswith(DERIVATION_EXTENSION):
            return
        known = self._candidates.get(path)
        due = now + waits[0]
        if known is None and len(self._candidates) >= MAX_CANDIDATES:
            self._has_missed = True
        elif known is None or due < known.due:
            self._candidates[path] = _Candidate(waits[1:], due)
