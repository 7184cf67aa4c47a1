"""Every form of the web page refuses what its own pages did not send."""

from __future__ import annotations

import re

import pytest

from icehouse.rules.sessions import make_form_key, parse_secret
from icehouse.web.app import ROUTES
from tests.security.routes import RULES, Cache
from tests.security.world import World

in_world = pytest.mark.asyncio(loop_scope="module")

POSTS = [path for route in ROUTES for path in route.paths if "POST" in route.http_methods]


def test_there_are_forms() -> None:
    assert {"/login", "/logout"} <= set(POSTS)


FAULTS = ("no key", "key of another session", "other site", "no origin")
# The login is for who has no session yet, so it has no key.
CASES = [(path, fault) for path in POSTS for fault in FAULTS if path != "/login" or "key" not in fault]


@pytest.mark.parametrize(("path", "fault"), CASES)
@in_world
async def test_form_of_another_site_or_session_is_refused(path: str, fault: str, world: World) -> None:
    rule = next(rule for row, rule in RULES.items() if rule.is_page and row == "POST " + re.sub(r":[a-z]+}", "}", path))
    mine, other = (world.cookies[caller, Cache.PUBLIC] for caller in ("admin of all", "admin"))
    secrets = {"key of another session": parse_secret(other), "no key": None}
    secret = secrets.get(fault, parse_secret(mine))
    key = "" if secret is None else make_form_key(secret)
    headers = {"cookie": f"icehouse={mine}", "content-type": "application/x-www-form-urlencoded", "host": "here"}
    headers |= {"other site": {"origin": "http://there"}, "no origin": {"origin": "null"}}.get(fault, {})
    body = (rule.body or b"") + f"&form_key={key}".encode()
    asked = rule.path.replace("{token}", "1").replace("{trust}", "1").replace("{person}", "1")
    answer = await world.ask("POST", asked, body, headers=headers)
    assert answer.status == 403
