"""A server for the tests that need no server of their own."""

from collections.abc import Iterator

import pytest

from tests.http.running import RunningServer, run_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running
