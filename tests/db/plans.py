"""How SQLite would carry out a statement: a wrong index shows in large databases only, and there by minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event


def steps_of(connection: Connection, work: Callable[[], object]) -> list[str]:
    """The steps of the statements that *work* executes, as SQLite explains them."""
    statements: list[tuple[str, Any]] = []

    def note(_: Connection, __: object, statement: str, parameters: object, *___: object) -> None:
        statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    work()
    event.remove(connection, "before_cursor_execute", note)
    assert statements
    return [
        row.detail
        for statement, parameters in statements
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    ]
