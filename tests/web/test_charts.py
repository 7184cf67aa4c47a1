from __future__ import annotations

import pytest

from icehouse.web.charts import HEIGHT, WIDTH, Series, draw_bars, draw_lines, nice_ceiling
from icehouse.web.pages import show_size


@pytest.mark.parametrize(
    ("most", "base", "ceiling"),
    [
        (0, 10, 1),
        (1, 10, 1),
        (3, 10, 5),
        (10, 10, 10),
        (11, 10, 20),
        (999, 10, 1000),
        (600, 1024, 1000),
        (1024, 1024, 1024),
        (3_000, 1024, 5 * 1024),
        (70 * 2**30, 1024, 100 * 2**30),
    ],
)
def test_ceiling_is_a_round_number_above(most: int, base: int, ceiling: int) -> None:
    assert nice_ceiling(most, base) == ceiling


def test_bars_stand_on_one_another_and_tell_their_figures() -> None:
    chart = draw_bars("x", "X", ["1:00", "2:00"], [Series("hits", [30, 0]), Series("misses", [20, None])], str)
    assert (chart.top, chart.middle) == ("50", "25")
    first, second = chart.columns
    assert first.says == "1:00: 30 hits, 20 misses"
    assert [(bar.series, bar.y, bar.height) for bar in first.bars] == [(1, 40, 60), (2, 0, 40)]
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH / 2 for bar in first.bars)
    assert second.bars == []
    assert chart.rows == [("1:00", ["30", "20"]), ("2:00", ["0", "not known"])]
    assert not chart.is_empty


def test_line_leaves_out_what_is_not_known() -> None:
    sizes = [Series("NARs", [None, 1024, None, 512]), Series("stored", [None, 256, None, None])]
    chart = draw_lines("x", "X", ["a", "b", "c", "d"], sizes, show_size, base=1024)
    assert chart.top == "1.0 KiB"
    assert [line.path for line in chart.lines] == [f"M375.0 0.0L875.0 {HEIGHT / 2}", f"M375.0 {HEIGHT * 0.75}h20"]


def test_nothing_is_an_empty_chart() -> None:
    assert draw_bars("x", "X", ["a"], [Series("hits", [0])], str).is_empty
    assert draw_lines("x", "X", ["a"], [Series("NARs", [None])], str).is_empty
