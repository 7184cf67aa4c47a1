"""Having SQLite carry out a statement as is best for large databases: it has no statistics, and guesses."""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement


def by_id(column: Column[int]) -> ColumnElement[int]:
    """The column as no index knows it, in statements that select by ranges of the primary key.

    SQLite would rather look up the other column's index, read all rows of the domain or the cache, and sort them.
    """
    return column + 0
