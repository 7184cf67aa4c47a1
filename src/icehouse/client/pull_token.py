"""The token that Nix gets for a private cache: one that may only pull, wherever that can be had.

It lies in a file that others than `icehouse` read, and outlives the task at hand; a token that may change or administer
caches does not belong there. Nix knows one password for a host, so one token serves all caches of a server.
"""

import socket
import time
from dataclasses import dataclass, field
from typing import Final

from icehouse.api.tokens import TokenCreate, TokenView
from icehouse.client.logins import CacheAddress, Login, require_token
from icehouse.client.server import connect
from icehouse.errors import Denied, Unauthenticated
from icehouse.rules.access import covers

_EARLIER_SECONDS: Final = 300
"""How much sooner than its maker a token ends, which may not outlive it: clocks differ."""


@dataclass(frozen=True, slots=True)
class PullToken:
    """A token for Nix, and what its user should know of it; empty: nothing."""

    token: str = field(repr=False)
    remark: str = ""


async def choose_pull_token(address: CacheAddress, kept: str | None) -> PullToken:
    """The token to write for a private cache: *kept*, the login's own, or one that is made here.

    Args:
        address: the cache, and the login for its server.
        kept: what was written for this server before.

    Raises:
        Conflict: the login has no token.
        IcehouseError: as the requests of `Server`.
    """
    if address.login.token is None and address.login.job is not None:
        login = Login(address.login.url, None, address.login.job.narrowed("pull"))
        async with connect(login) as server:
            token = await server.get_job_token()
            return PullToken(token, "Nix gets a token of this job, which may only pull, and not for long.")
    token = require_token(address.login)
    before = None if kept is None else await _show(Login(address.login.url, kept))
    if kept is not None and before is not None and _only_pulls(before) and covers(before.cache_pattern, address.name):
        return PullToken(kept)
    async with connect(address.login) as server:
        own = await server.show_own_token()
        if _only_pulls(own):
            return PullToken(token)
        request = plan_pull_token(own, address.name, before, now=int(time.time()))
        try:
            if request is not None:
                created = await server.create_token(request)
                view = created.view
                return PullToken(
                    created.token, f"Made token {view.id}, which may only pull from {view.cache_pattern}, for Nix."
                )
        except Denied:
            pass  # as if it could not make any
    return PullToken(
        token,
        f"Nix gets the token that you are logged in with, which may {', '.join(own.permissions)} on "
        f"{own.cache_pattern}. Better log in with one that may only pull, made by an administrator with "
        f"`icehouse token create DESCRIPTION --allow pull --caches {address.name}`, and run this again.",
    )


def plan_pull_token(own: TokenView, cache: str, before: TokenView | None, *, now: int) -> TokenCreate | None:
    """The token to ask for with the token *own*; None: it may make none.

    It is for *cache* alone; but where *before*, which it takes the place of, served another cache, for all that *own*
    reaches: there is no pattern for two names.
    """
    if "admin" not in own.permissions or not covers(own.cache_pattern, cache):
        return None
    pattern = cache
    if before is not None and _only_pulls(before) and covers(own.cache_pattern, before.cache_pattern):
        pattern = own.cache_pattern
    remaining = None if own.expires_at is None else own.expires_at - now - _EARLIER_SECONDS
    if remaining is not None and remaining <= 0:
        return None
    return TokenCreate(
        description=_description(), permissions=["pull"], cache_pattern=pattern, expires_in_seconds=remaining
    )


def _description() -> str:
    name = "".join(letter for letter in socket.gethostname() if letter.isprintable())
    return f"icehouse use on {name}"[:200]


def _only_pulls(view: TokenView) -> bool:
    return view.permissions == ["pull"]


async def _show(login: Login) -> TokenView | None:
    async with connect(login) as server:
        try:
            return await server.show_own_token()
        except Unauthenticated:
            return None
