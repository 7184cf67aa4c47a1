"""What brings the size into a closure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClosurePath:
    """One path of a closure."""

    base_name: str
    nar_size: int
    references: tuple[int, ...]
    """Places, in the closure, of those that it refers to and that the closure has; not its own."""


@dataclass(frozen=True, slots=True)
class Closure:
    """A path, which comes first, with all that it reaches, level by level."""

    paths: tuple[ClosurePath, ...]
    externals: tuple[str, ...]
    """Base names of what upstreams have, of which neither size nor references count here."""
    is_cut: bool
    """It is larger, and this is its beginning."""

    @property
    def nar_size(self) -> int:
        """Of all its paths."""
        return sum(path.nar_size for path in self.paths)


def find_chain(closure: Closure, target: int) -> list[int]:
    """The shortest way from the first path of a closure to another: each refers to the next. As `nix why-depends`."""
    came_from: dict[int, int] = {}
    waiting = deque([0])
    while waiting and target not in came_from and target != 0:
        place = waiting.popleft()
        for reference in closure.paths[place].references:
            if reference not in came_from and reference != 0:
                came_from[reference] = place
                waiting.append(reference)
    chain = [target]
    while chain[-1] in came_from:
        chain.append(came_from[chain[-1]])
    return chain[::-1]


def measure_added(closure: Closure) -> list[int]:
    """For each path the bytes of NARs that the closure would lose if nothing referred to it.

    That is its own size, and that of what only it brings in: of what every way from the first path reaches by it. Such
    it dominates: it is its subtree in the tree of immediate dominators.
    """
    idom = find_dominators([path.references for path in closure.paths])
    added = [path.nar_size for path in closure.paths]
    children_left = [0] * len(idom)
    for place in range(1, len(idom)):
        children_left[idom[place]] += 1
    # Sums go up the tree, from its leaves.
    leaves = [place for place in range(len(idom)) if not children_left[place]]
    while leaves:
        place = leaves.pop()
        if place == 0:
            continue
        parent = idom[place]
        added[parent] += added[place]
        children_left[parent] -= 1
        if not children_left[parent]:
            leaves.append(parent)
    return added


def find_dominators(successors: Sequence[Sequence[int]]) -> list[int]:
    """The immediate dominator of each node of a graph in which node 0 reaches all; 0 for itself.

    Time grows little faster than the edges, for whatever graph somebody pushes.

    Source: Lengauer and Tarjan, A Fast Algorithm for Finding Dominators in a Flowgraph, 1979, with simple linking.
    """
    number, order, parent = _number_depth_first(successors)
    count = len(order)
    predecessors: list[list[int]] = [[] for _ in range(count)]
    for node, targets in enumerate(successors):
        for target in targets:
            predecessors[number[target]].append(number[node])
    semi = list(range(count))  # from here on nodes are their numbers
    label = list(range(count))
    ancestor = [-1] * count
    bucket: list[list[int]] = [[] for _ in range(count)]
    idom = [0] * count
    for node in range(count - 1, 0, -1):
        for predecessor in predecessors[node]:
            semi[node] = min(semi[node], semi[_evaluate(predecessor, ancestor, label, semi)])
        bucket[semi[node]].append(node)
        above = parent[node]
        ancestor[node] = above
        for each in bucket[above]:
            lowest = _evaluate(each, ancestor, label, semi)
            idom[each] = lowest if semi[lowest] < semi[each] else above
        bucket[above].clear()
    for node in range(1, count):
        if idom[node] != semi[node]:
            idom[node] = idom[idom[node]]
    found = [0] * count
    for node in range(1, count):
        found[order[node]] = order[idom[node]]
    return found


def _number_depth_first(successors: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """Each node's number in a depth-first search; by number the nodes; and by number the numbers of their parents."""
    number = [-1] * len(successors)
    number[0] = 0
    order, parent = [0], [0]
    stack = [(0, iter(successors[0]))]
    while stack:
        node, left = stack[-1]
        for target in left:
            if number[target] < 0:
                number[target] = len(order)
                order.append(target)
                parent.append(number[node])
                stack.append((target, iter(successors[target])))
                break
        else:
            stack.pop()
    return number, order, parent


def _evaluate(node: int, ancestor: list[int], label: list[int], semi: list[int]) -> int:
    """The node of lowest semidominator on the way up to the root of *node*'s tree, which is made short."""
    if ancestor[node] < 0:
        return node
    way: list[int] = []
    place = node
    while ancestor[ancestor[place]] >= 0:
        way.append(place)
        place = ancestor[place]
    for each in reversed(way):
        above = ancestor[each]
        if semi[label[above]] < semi[label[each]]:
            label[each] = label[above]
        ancestor[each] = ancestor[above]
    return label[node]
