"""Names of caches and pins, for completion in a shell: asked once, for a moment, and without saying what went wrong."""

from datetime import timedelta
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import msgspec
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from icehouse.client.logins import CacheAddress, Login
from icehouse.errors import InvalidFormat
from icehouse.rules.access import parse_cache_name
from icehouse.rules.pins import parse_pin_name

ANSWER_SECONDS: Final = 1.0
"""How long a person is kept waiting by a server that is slow or away."""


class _Named(msgspec.Struct):
    name: str


async def find_cache_names(login: Login) -> list[str]:
    """The caches of a server that may be seen; none, if it does not say."""
    return [name for name in await _ask(login, "/caches") if _is_name(name, of_pin=False)]


async def find_pin_names(address: CacheAddress) -> list[str]:
    """The pins of a cache; none, if the server does not say."""
    names = await _ask(address.login, f"/caches/{quote(address.name, safe='')}/pins")
    return [name for name in names if _is_name(name, of_pin=True)]


async def _ask(login: Login, path: str) -> list[str]:
    client = ClientBuilder().timeout(timedelta(seconds=ANSWER_SECONDS)).follow_redirects(enable=False).build()
    try:
        async with client:
            request = client.get(f"{login.url}/api/v1{path}")
            if login.token is not None:
                request = request.bearer_auth(login.token)
            response = await request.build().send()
            data = bytes(await response.bytes())
        if response.status != HTTPStatus.OK:
            return []
        return [named.name for named in msgspec.json.decode(data, type=list[_Named])]
    except (PyreqwestError, msgspec.DecodeError):
        return []


def _is_name(text: str, *, of_pin: bool) -> bool:
    """Whether it is what it should be: shells evaluate what they are given, and the server may be any program."""
    try:
        parse_pin_name(text) if of_pin else parse_cache_name(text)
    except InvalidFormat:
        return False
    return True
