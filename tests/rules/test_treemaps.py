"""Treemaps."""

from __future__ import annotations

import pytest

from icehouse.rules.treemaps import Tile, lay_out

SIZES = {
    "one": [5],
    "the paper's": [6, 6, 4, 3, 2, 2, 1],
    "equal": [1] * 50,
    "steep": [2**place for place in range(40, 0, -1)],
}


@pytest.mark.parametrize("name", SIZES)
def test_tiles_fill_the_map_by_their_sizes(name: str) -> None:
    sizes = SIZES[name]
    tiles = lay_out(sizes, 600, 400)
    for size, tile in zip(sizes, tiles, strict=True):
        assert tile.width * tile.height == pytest.approx(size / sum(sizes) * 600 * 400)
        assert tile.x >= 0
        assert tile.y >= 0
        assert tile.x + tile.width <= 600 + 1e-6
        assert tile.y + tile.height <= 400 + 1e-6
    for index, one in enumerate(tiles):
        assert not any(overlap(one, other) > 1e-6 for other in tiles[:index])


def overlap(one: Tile, other: Tile) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(0.0, width) * max(0.0, height)


def test_tiles_are_those_of_the_paper() -> None:
    """Its figure 3: 6 by 4, of which the first two stand above each other at the left, 3 wide."""
    tiles = lay_out(SIZES["the paper's"], 6, 4)
    assert tiles[:2] == [Tile(0, 0, 3, 2), Tile(0, 2, 3, 2)]
    # Then 4 and 3 beside each other, at the top of what is free.
    assert [(round(each.width, 3), round(each.height, 3)) for each in tiles[2:4]] == [(1.714, 2.333), (1.286, 2.333)]


def test_no_tile_is_a_sliver_where_sizes_are_alike() -> None:
    for tile in lay_out(SIZES["equal"], 600, 400):
        assert max(tile.width / tile.height, tile.height / tile.width) < 2
