"""No route takes a body of any size."""

from __future__ import annotations

import re

import pytest

from tests.http.asgi_client import Connection, make_scope
from tests.security.routes import RULES, Cache
from tests.security.world import World

WITH_BODY = [row for row, rule in RULES.items() if rule.body is not None]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("row", WITH_BODY)
async def test_body_that_announces_more_than_a_route_takes_is_refused_unread(row: str, world: World) -> None:
    rule = RULES[row]
    path = rule.path.replace("{cache}", Cache.PUBLIC).replace("{token}", str(world.victims[Cache.PUBLIC]))
    path = re.sub(r"\{[a-z_]+\}", "1", path)  # other rows are named by their numbers
    credential = world.credentials["admin of all", Cache.PUBLIC]
    assert credential is not None
    headers = {"authorization": credential, "content-length": str(10**15), "content-type": "application/json"}
    scope = make_scope(row.partition(" ")[0], path.encode(), headers)
    scope.update(query_string=b"", root_path="", scheme="http")
    connection = Connection(body=b"x")
    await world.app(scope, connection.receive, connection.send)
    assert connection.answer().status == 413
    assert connection.body is not None  # nobody read it
