"""Treemaps: sizes as rectangles that fill one, none of them much longer than wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


def lay_out(sizes: Sequence[int], width: float, height: float) -> list[Tile]:
    """A tile for each of *sizes*, which are positive and descend, with areas in their proportion.

    Source: Bruls, Huizing and van Wijk, Squarified Treemaps, 2000.
    """
    total = sum(sizes)
    areas = [size * width * height / total for size in sizes]
    tiles: list[Tile] = []
    x = y = 0.0
    start = 0
    while start < len(areas):
        side = min(width, height)
        stop = start + 1
        sum_of_row = areas[start]
        worst = _worst(areas[start], areas[start], sum_of_row, side)
        while stop < len(areas):
            with_next = sum_of_row + areas[stop]
            next_worst = _worst(areas[start], areas[stop], with_next, side)
            if next_worst > worst:
                break
            worst, sum_of_row = next_worst, with_next
            stop += 1
        thickness = sum_of_row / side if side else 0.0
        along = 0.0
        for area in areas[start:stop]:
            length = area / thickness if thickness else 0.0
            if width >= height:  # a column at the left of what is free
                tiles.append(Tile(x, y + along, thickness, length))
            else:
                tiles.append(Tile(x + along, y, length, thickness))
            along += length
        if width >= height:
            x, width = x + thickness, max(0.0, width - thickness)
        else:
            y, height = y + thickness, max(0.0, height - thickness)
        start = stop
    return tiles


def _worst(largest: float, smallest: float, total: float, side: float) -> float:
    """The worst ratio of the sides of a row's tiles; 1 is a square."""
    if not side or not smallest:
        return float("inf")
    square = side * side
    return max(square * largest / (total * total), total * total / (square * smallest))
