"""How often somebody may do something: token buckets, in bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

MAX_KEYS: Final = 20_000


class Buckets:
    """One bucket for each key. It holds *burst* drops at most, and gets *per_second* new ones; each use takes one.

    Of more keys than `MAX_KEYS` the one that was used longest ago is forgotten, which only makes its bucket full again:
    whoever invents keys gains nothing for them, and slows nobody. Used by one thread.
    """

    __slots__ = ("_burst", "_levels", "_max_keys", "_per_second")

    def __init__(self, *, per_second: float, burst: float, max_keys: int = MAX_KEYS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_keys = max_keys
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, now: float) -> int:
        """Take a drop for *key* at *now*, in seconds of any steady clock.

        0: there was one. Else nothing is taken, and that many seconds, at least 1, pass until there is one.
        """
        level = self._level(key, now)
        if level < 1:
            return max(1, math.ceil((1 - level) / self._per_second))
        self._levels[key] = (level - 1, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return 0

    def seconds_until(self, key: Hashable, now: float) -> int:
        """As `take`, without taking."""
        level = self._level(key, now)
        return 0 if level >= 1 else max(1, math.ceil((1 - level) / self._per_second))

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._levels)

    def _level(self, key: Hashable, now: float) -> float:
        found = self._levels.get(key)
        if found is None:
            return self._burst
        level, since = found
        return min(self._burst, level + (now - since) * self._per_second)
