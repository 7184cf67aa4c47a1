"""Measuring several things beside each other, so that a machine that grows slower slows all of them alike."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one thing, a round each."""

    values: list[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two things that were measured in the same rounds compare."""

    median: float
    """Of the medians."""
    lowest: float
    """Of any one round."""
    highest: float


def compare(ours: Series, theirs: Series) -> Ratio:
    """Ours by theirs."""
    rounds = [mine / other for mine, other in zip(ours.values, theirs.values, strict=True)]
    return Ratio(ours.median / theirs.median, min(rounds), max(rounds))


def interleave(measures: Mapping[str, Callable[[], T]], *, rounds: int, warm_up: bool = True) -> dict[str, list[T]]:
    """Call each of *measures* in turn, *rounds* times: A B A B A B. With *warm_up*, one round more that is not kept."""
    values: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(rounds + warm_up):
        for name, measure in measures.items():
            value = measure()
            if number >= warm_up:
                values[name].append(value)
    return values
