"""What each pin of a cache keeps."""

from collections.abc import Iterable
from dataclasses import dataclass

from icehouse.rules.retention import CacheFacts


@dataclass(frozen=True, slots=True)
class Hold:
    """What some paths keep: themselves with their closures."""

    paths: int
    stored_bytes: int
    """Of the distinct chunks."""


def measure_hold(facts: CacheFacts, roots: Iterable[int]) -> Hold:
    """Measure what *roots*, places of paths, keep."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if place not in seen:
            seen.add(place)
            waiting.extend(facts.references[place])
    chunks = {chunk for nar in {facts.nars[place] for place in seen} for chunk in facts.chunks[nar]}
    return Hold(len(seen), sum(facts.chunk_bytes[chunk] for chunk in chunks))
