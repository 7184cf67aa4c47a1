"""One server for the tests of each module here, and the matrix that they measure."""

from collections.abc import AsyncGenerator, Callable, Generator

import pytest
import pytest_asyncio

from tests.security.matrix import MEASURED, Matrix
from tests.security.world import World, open_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    async with open_world(tmp_path_factory.mktemp("security") / "data") as world:
        yield world


@pytest.fixture
def matrix(record_property: Callable[[str, object], None]) -> Generator[Matrix]:
    """What a test measures, which the end of the run tells with the rest."""
    measured = Matrix()
    yield measured
    record_property(MEASURED, measured.as_plain())
