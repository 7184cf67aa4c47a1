"""Tables of what the tests of a run measured, told at its end. The tests may run in several processes."""

from pathlib import Path
from typing import Any, cast

import pytest

from tests.end_to_end.nix_clients import CLIENT_CELL, ClientTable
from tests.security.matrix import MEASURED, Matrix, expected_statuses, render_table


class EndTables:
    """A plugin that gathers what tests say with their reports, and prints it."""

    def __init__(self, matrix_file: str | None) -> None:
        self._matrix_file = matrix_file
        self._clients = ClientTable()
        self._matrix = Matrix()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called in the process that prints, whichever one ran the test."""
        for name, value in cast("list[tuple[str, Any]]", report.user_properties):
            if name == CLIENT_CELL:
                line, column = value
                self._clients.note(line, column, report)
            elif name == MEASURED and report.when == "teardown":
                self._matrix.add(value)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._clients.cells:
            terminalreporter.section("stock Nix as a client")
            for line in self._clients.render():
                terminalreporter.line(line)
        if self._matrix.statuses:
            self._tell_matrix(terminalreporter)

    def _tell_matrix(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("security matrix")
        terminalreporter.line(self._matrix.summary())
        for surprise in self._matrix.surprises:
            terminalreporter.line(f"surprise: {surprise}")
        if self._matrix_file is not None and self._matrix.statuses.keys() == expected_statuses().keys():
            Path(self._matrix_file).write_text(render_table(self._matrix.statuses))
            terminalreporter.line(f"written to {self._matrix_file}")
