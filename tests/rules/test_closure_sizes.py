"""What brings the size into a closure."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from icehouse.rules.closure_sizes import Closure, ClosurePath, find_chain, find_dominators, measure_added


def make(references: Sequence[Sequence[int]], sizes: Sequence[int] | None = None) -> Closure:
    sizes = sizes or [1] * len(references)
    paths = [ClosurePath(str(place), sizes[place], tuple(each)) for place, each in enumerate(references)]
    return Closure(tuple(paths), (), is_cut=False)


def reach(references: Sequence[Sequence[int]], without: int | None = None) -> set[int]:
    seen = {0} - {without}
    waiting = list(seen)
    while waiting:
        for each in references[waiting.pop()]:
            if each not in seen and each != without:
                seen.add(each)
                waiting.append(each)
    return seen


def make_graph(seed: int, *, has_cycles: bool) -> list[list[int]]:
    """A graph of some nodes all of which the first one reaches."""
    draw = random.Random(seed)
    count = draw.randrange(1, 30)
    references: list[list[int]] = [[] for _ in range(count)]
    for node in range(1, count):
        references[draw.randrange(node)].append(node)
    for _ in range(draw.randrange(2 * count)):
        source, target = draw.randrange(count), draw.randrange(count)
        if source != target and (has_cycles or source < target) and target not in references[source]:
            references[source].append(target)
    return references


@pytest.mark.parametrize("has_cycles", [False, True])
def test_what_goes_with_a_path_is_what_cannot_be_reached_without_it(*, has_cycles: bool) -> None:
    for seed in range(300):
        references = make_graph(seed, has_cycles=has_cycles)
        sizes = [3**place % 1_009 for place in range(len(references))]
        everything = set(range(len(references)))
        expected = [
            sum(sizes[each] for each in everything - reach(references, without=place))
            for place in range(len(references))
        ]
        assert measure_added(make(references, sizes)) == expected, references


def test_long_chain_with_a_bypass_to_each_part_takes_no_long_time_and_no_deep_stack() -> None:
    count = 20_000
    references = [[place + 1] if place + 1 < count else [] for place in range(count)]
    references[0] = list(range(1, count))
    assert set(find_dominators(references)) == {0}
    straight = [[place + 1] if place + 1 < count else [] for place in range(count)]
    assert measure_added(make(straight))[:2] == [count, count - 1]


def test_chain_is_the_shortest_way() -> None:
    closure = make([[1, 3], [2], [4], [4, 0], [5, 3], []])
    assert find_chain(closure, 5) == [0, 3, 4, 5]
    assert find_chain(closure, 0) == [0]
    assert find_chain(closure, 2) == [0, 1, 2]
