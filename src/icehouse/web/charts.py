"""Charts: figures over time as what a template draws, a bar or a line for each series, with few legible marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 100
"""Of the drawing, in units of its own: the page stretches it, and writes the marks beside it."""

_GAP: Final = 0.18
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Series:
    """Figures of one kind, one for each time. `None`: not known."""

    name: str
    values: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of the drawing; `series` counts from 1."""

    series: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """What stands above one time, and its figures in words."""

    says: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the drawing, as the value of an SVG path's `d`; `series` counts from 1."""

    series: int
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs to draw a chart, and to tell the same in a table."""

    name: str
    """Of the chart, for identifiers."""
    title: str
    series: Sequence[str]
    columns: Sequence[Column]
    lines: Sequence[Line]
    top: str
    """What the upper edge stands for; the lower one is zero."""
    middle: str
    times: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    """Each time with its figures, in words."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.lines and not any(column.bars for column in self.columns)


def draw_bars(
    name: str, title: str, times: Sequence[str], series: Sequence[Series], show: Callable[[int], str], *, base: int = 10
) -> Chart:
    """Bars that stand on one another, in the order of *series*. *base*: 1024 where *show* tells bytes."""
    totals = [sum(value or 0 for value in values) for values in zip(*(each.values for each in series), strict=True)]
    top = nice_ceiling(max(totals, default=0), base)
    step = WIDTH / max(len(times), 1)
    columns: list[Column] = []
    rows = _tell(times, series, show)
    for index, (time, figures) in enumerate(rows):
        bars: list[Bar] = []
        below = 0
        for number, each in enumerate(series, 1):
            value = each.values[index] or 0
            if value:
                y, height = HEIGHT * (1 - (below + value) / top), HEIGHT * value / top
                bars.append(
                    Bar(number, _round(step * (index + _GAP / 2)), _round(y), _round(step * (1 - _GAP)), _round(height))
                )
                below += value
        said = ", ".join(f"{figure} {each.name}" for figure, each in zip(figures, series, strict=True))
        columns.append(Column(f"{time}: {said}", bars))
    return Chart(name, title, [each.name for each in series], columns, [], show(top), show(top // 2), times, rows)


def draw_lines(
    name: str, title: str, times: Sequence[str], series: Sequence[Series], show: Callable[[int], str], *, base: int = 10
) -> Chart:
    """A line for each of *series*, with gaps where nothing is known but for times between two that are."""
    known = [value for each in series for value in each.values if value is not None]
    top = nice_ceiling(max(known, default=0), base)
    step = WIDTH / max(len(times), 1)
    lines: list[Line] = []
    for number, each in enumerate(series, 1):
        places = [
            f"{_round(step * (index + 0.5))} {_round(HEIGHT * (1 - value / top))}"
            for index, value in enumerate(each.values)
            if value is not None
        ]
        if places:
            # A single place is a line too, so that it is seen.
            lines.append(Line(number, "M" + "L".join(places) + ("h20" if len(places) == 1 else "")))
    rows = _tell(times, series, show)
    return Chart(name, title, [each.name for each in series], [], lines, show(top), show(top // 2), times, rows)


def nice_ceiling(most: int, base: int) -> int:
    """The least of 1, 2, 5, 10, 20, … that is not below *most*; with a *base* of 1024, times a power of that."""
    unit = 1
    if base != 10:  # noqa: PLR2004  then there are units of which people count some
        while most >= unit * base:
            unit *= base
    power = unit
    while True:
        for step in _STEPS:
            if step * power >= most:
                return step * power
        power *= 10


def _tell(times: Sequence[str], series: Sequence[Series], show: Callable[[int], str]) -> list[tuple[str, list[str]]]:
    return [
        (time, ["not known" if value is None else show(value) for value in values])
        for time, values in zip(times, zip(*(each.values for each in series), strict=True), strict=True)
    ]


def _round(number: float) -> float:
    return round(number, 2)
