"""A server with caches to look at."""

from collections.abc import Iterator

import pytest

from tests.http.running import RunningServer, run_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        running.create_cache("team")
        running.create_cache("nightly-builds")
        running.create_cache("secret", is_public=False)
        running.upload("team", b"something" * 100_000)
        yield running
