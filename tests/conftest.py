"""What every test may use."""

import os
import shutil
import threading
from collections.abc import Callable, Generator
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.scripted_server import Answer, Handler, ScriptedServer

# One commit gives one result, however often it runs: examples are derived from the test, and slowness is no fault.
settings.register_profile(
    "ci", derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def skip_or_fail(message: str) -> NoReturn:
    """End a test for which something real is missing: skipped, or failed where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def find_program(program: str) -> str:
    """The path of *program*. Without it the test is skipped, or fails where CI is set: a pass there misses nothing."""
    path = shutil.which(program)
    if path is None:
        skip_or_fail(f"{program} is not in PATH; `make system` installs what the tests use")
    return path


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """`require("nix-store")` gives the program's path, or ends the test."""
    return find_program


@pytest.fixture
def scripted() -> Generator[Callable[..., ScriptedServer]]:
    """`scripted(answer, …)` gives a server that answers so."""
    servers: list[ScriptedServer] = []

    def start(*answers: Answer) -> ScriptedServer:
        server = ScriptedServer(("127.0.0.1", 0), Handler)
        server.answers, server.requests, server.answered = list(answers), [], []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--security-matrix", metavar="FILE", help="write the table of tests/security to FILE")
    parser.addoption("--record-answers", action="store_true", help="write what a server answers to the API's examples")


def pytest_configure(config: pytest.Config) -> None:
    from tests.end_tables import EndTables  # noqa: PLC0415  it takes this module

    config.pluginmanager.register(EndTables(config.getoption("--security-matrix")))
