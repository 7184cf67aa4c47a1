"""Faults of one text, collected so that its author reads about all of them at once."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from icehouse.errors import InvalidFormat

_MAX_REPORTED: Final = 20


class Faults:
    """What is wrong with one text so far. Of very many faults the first twenty are told, and how many there are."""

    def __init__(self, what: str) -> None:
        """*what* names the text in the report."""
        self._what = what
        self._reported: list[str] = []
        self._count = 0

    def add(self, place: str, problem: str) -> None:
        """Note a *problem* at a *place* of the text."""
        self._count += 1
        if self._count <= _MAX_REPORTED:
            self._reported.append(f"{place}: {problem}" if place else problem)

    @contextmanager
    def at(self, place: str) -> Generator[None]:
        """Note an `InvalidFormat` from the block as a fault at *place*, and go on after the block."""
        try:
            yield
        except InvalidFormat as exc:
            self.add(place, str(exc))

    def raise_any(self) -> None:
        """Raise what was noted, if anything was.

        Raises:
            InvalidFormat: there was at least one fault.
        """
        if not self._count:
            return
        more = [f"and {self._count - _MAX_REPORTED} more faults"] if self._count > _MAX_REPORTED else []
        raise InvalidFormat(f"{self._what} " + "; ".join(self._reported + more))
