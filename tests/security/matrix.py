"""The security matrix as it was measured, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.security.routes import CALLERS, RULES, Cache, expected_status

Cell = tuple[str, str, Cache]
"""A row, a caller's name, a cache."""

Plain = tuple[list[tuple[str, str, str, int]], int, int, list[str]]
"""Cells with their statuses, and the other fields of `Matrix` in its order."""

_TITLE: Final = """# Who may do what: the security matrix

Every method and route, asked by every kind of caller about a public, a private and an absent cache, with the statuses
in that order (one, if a route is about no cache). `invalid` stands for malformed, unknown, expired and revoked tokens,
`elsewhere` for tokens with `pull`, `push` and `admin` on another cache; each is tried, and they must be answered alike.
404 tells the same of a private cache as of an absent one, down to headers and to the statements that the database gets.
Methods that a route lacks are tried too.

Written by `pytest tests/security/test_matrix.py --security-matrix docs/security-matrix.md`; what is expected stands in
`tests/security/routes.py`.

"""

_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "nobody": ("nobody",),
    "invalid": ("malformed", "unknown", "expired", "revoked"),
    "elsewhere": ("pull elsewhere", "push elsewhere", "admin elsewhere"),
} | {caller.name: (caller.name,) for caller in CALLERS[8:]}


@dataclass
class Matrix:
    """What was measured so far."""

    statuses: dict[Cell, int] = field(default_factory=dict[Cell, int])
    refused_methods: int = 0
    """Cells of methods that a route does not have."""
    compared: int = 0
    """Pairs of a private and an absent cache that a caller may not tell apart."""
    surprises: list[str] = field(default_factory=list[str])

    def as_plain(self) -> Plain:
        """It as what can be sent to another process."""
        statuses = [(row, caller, cache.value, status) for (row, caller, cache), status in self.statuses.items()]
        return statuses, self.refused_methods, self.compared, self.surprises

    def add(self, plain: Plain) -> None:
        """Count what another one has, too."""
        statuses, refused_methods, compared, surprises = plain
        self.statuses |= {(row, caller, Cache(cache)): status for row, caller, cache, status in statuses}
        self.refused_methods += refused_methods
        self.compared += compared
        self.surprises += surprises

    def summary(self) -> str:
        """One line about all of it."""
        rows = {row for row, _, _ in self.statuses}
        return (
            f"{len(self.statuses) + self.refused_methods} cells: {len(self.statuses)} of {len(rows)} routes by "
            f"{len(CALLERS)} callers, {self.refused_methods} of methods that a route lacks; {self.compared} pairs of a "
            f"private and an absent cache compared; {len(self.surprises)} surprises"
        )


MEASURED: Final = "security-matrix"
"""Under which name a test's report has its part of the matrix."""


def expected_statuses() -> dict[Cell, int]:
    """The whole matrix as it must be."""
    return {
        (row, caller.name, cache): expected_status(rule, caller, cache)
        for row, rule in RULES.items()
        for caller in CALLERS
        for cache in caches_of(row)
    }


def caches_of(row: str) -> tuple[Cache, ...]:
    """The caches that a row is asked about; one stands for all where it is about none."""
    return tuple(Cache) if RULES[row].is_about_cache else (Cache.PUBLIC,)


def render_table(statuses: Mapping[Cell, int]) -> str:
    """The page about a whole matrix."""
    lines = [f"| route | {' | '.join(_COLUMNS)} |", f"|---|{'---|' * len(_COLUMNS)}"]
    for row in RULES:
        cells = [_render_cell(statuses, row, callers) for callers in _COLUMNS.values()]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return _TITLE + "\n".join(lines) + "\n"


def _render_cell(statuses: Mapping[Cell, int], row: str, callers: tuple[str, ...]) -> str:
    found = dict.fromkeys(" ".join(str(statuses[row, name, cache]) for cache in caches_of(row)) for name in callers)
    return " / ".join(found)
