"""Measuring several things beside each other, so that a machine that grows slower slows all of them alike."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one thing, a round each."""

    values: list[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The largest value by the smallest: 1.0 is a quiet machine."""
        return max(self.values) / min(self.values)


def interleave(
    measures: Mapping[str, Callable[[], float]], *, rounds: int = 3, warm_up: bool = True
) -> dict[str, Series]:
    """Call each of *measures* in turn, *rounds* times: A B A B A B. With *warm_up*, one round more that is not kept."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + warm_up):
        for name, measure in measures.items():
            value = measure()
            if number >= warm_up:
                values[name].append(value)
    return {name: Series(kept) for name, kept in values.items()}
