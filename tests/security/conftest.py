"""One server in this process for all tests here, and the matrix that they measure, told at the end of the run."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.security.matrix import MATRIX, Matrix, expected_statuses, render_table
from tests.security.world import World, open_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    async with open_world(tmp_path_factory.mktemp("security") / "data") as world:
        yield world


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> Matrix:
    return pytestconfig.stash.setdefault(MATRIX, Matrix())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    matrix = config.stash.get(MATRIX, None)
    if matrix is None or not matrix.statuses:
        return
    terminalreporter.section("security matrix")
    terminalreporter.line(matrix.summary())
    for surprise in matrix.surprises:
        terminalreporter.line(f"surprise: {surprise}")
    file: str | None = config.getoption("--security-matrix")
    if file is not None and matrix.statuses.keys() == expected_statuses().keys():
        Path(file).write_text(render_table(matrix.statuses))
        terminalreporter.line(f"written to {file}")
