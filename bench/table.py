"""The table that a run ends with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.rounds import Series, compare


@dataclass(frozen=True, slots=True)
class Goal:
    """What a number must reach."""

    bound: float
    kind: Literal["at least", "at most"]
    text: str
    """As the table shows it."""

    def is_met(self, value: float) -> bool:
        """Whether *value* is good enough."""
        return value >= self.bound if self.kind == "at least" else value <= self.bound


def at_least(bound: float, text: str = "") -> Goal:
    """A goal for what should be large."""
    return Goal(bound, "at least", f"≥ {text or f'{bound:g}'}")


def at_most(bound: float, text: str = "") -> Goal:
    """A goal for what should be small."""
    return Goal(bound, "at most", f"≤ {text or f'{bound:g}'}")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    title: str
    ours: str
    theirs: str = ""
    ratio: str = ""
    goal: str = ""
    is_met: bool | None = None
    """None: a number without a goal, which explains another."""


def compared(title: str, ours: Series, theirs: Series, unit: str, goal: Goal | None = None) -> Row:
    """Two things measured in the same rounds: the goal is for the ratio of their medians."""
    ratio = compare(ours, theirs)
    return Row(
        title,
        amount(ours.median, unit),
        amount(theirs.median, unit),
        f"{ratio.median:.3f} ({ratio.lowest:.2f}-{ratio.highest:.2f})",
        "" if goal is None else goal.text,
        None if goal is None else goal.is_met(ratio.median),
    )


def measured(title: str, value: float, unit: str, goal: Goal | None = None) -> Row:
    """One number of ours, with a goal for itself."""
    met = None if goal is None else goal.is_met(value)
    return Row(title, amount(value, unit), goal="" if goal is None else goal.text, is_met=met)


def amount(value: float, unit: str) -> str:
    """A number for people. *unit* is ``B``, ``B/s``, ``s``, ``/s``, or empty for a count."""
    match unit:
        case "B" | "B/s":
            for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
                if value >= factor:
                    return (
                        f"{value / factor:.3g} {name}{unit}"
                        if value < 100 * factor
                        else f"{value / factor:,.0f} {name}{unit}"
                    )
            return f"{value:,.0f} {unit}"
        case "s" if value < 1e-3:
            return f"{value * 1e6:.1f} µs"
        case "s" if value < 0.1:
            return f"{value * 1e3:.0f} ms"
        case "s":
            return f"{value:.2f} s"
        case _:
            return f"{value:,.0f}{unit}"


def render_table(rows: Sequence[Row]) -> str:
    """All rows as a table that is Markdown too."""
    met = {True: "yes", False: "NO", None: ""}
    lines = [
        ("", "ours", "theirs", "ratio (of single rounds)", "goal", "met"),
        *((row.title, row.ours, row.theirs, row.ratio, row.goal, met[row.is_met]) for row in rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = [
        f"| {line[0]:<{widths[0]}} | "
        + " | ".join(f"{text:>{width}}" for text, width in zip(line[1:], widths[1:], strict=True))
        + " |"
        for line in lines
    ]
    rule = "|".join(["", f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:]), ""])
    return "\n".join([texts[0], rule, *texts[1:]])
