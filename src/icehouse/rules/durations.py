"""Durations counted in buckets, and what waits in a queue: what latencies are told by."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BUCKET_SECONDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0)
"""Upper ends of the buckets: fine where narinfos are, coarse where uploads and large NARs are."""


class Durations:
    """How many durations there were, by the first bucket that they fit in, and their sum. Any thread may add one."""

    __slots__ = ("_buckets", "_lock", "_seconds")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets = [0] * (len(BUCKET_SECONDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = bisect_left(BUCKET_SECONDS, seconds)
        with self._lock:
            self._buckets[bucket] += 1
            self._seconds += seconds

    def read(self) -> tuple[Sequence[int], float]:
        """The buckets, the last one for what fits in no other, and the sum in seconds."""
        with self._lock:
            return tuple(self._buckets), self._seconds


class QueueCounts:
    """What went through a queue since the process started, and what waits in it. Any thread may count."""

    __slots__ = ("_lock", "_waiting", "waits", "works")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self.waits = Durations()
        """How long each work waited for its turn."""
        self.works = Durations()
        """How long each took then."""

    @property
    def waiting(self) -> int:
        """How many works wait for their turn."""
        return self._waiting

    def enter(self) -> None:
        """A work waits from now on."""
        with self._lock:
            self._waiting += 1

    def give_up(self) -> None:
        """A work that waited is not done after all."""
        with self._lock:
            self._waiting -= 1

    def begin(self, waited_seconds: float) -> None:
        """A work that waited so long begins."""
        self.give_up()
        self.waits.add(waited_seconds)
