"""Tokens of a job: exchanged for its identity, kept while they are good, and exchanged anew before they end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

import msgspec

from icehouse.api.trust import ExchangeAnswer, ExchangeRequest
from icehouse.client.jobs import AskedIdentity, GivenIdentity, JobLogin, NoIdentity
from icehouse.client.private_files import read_text, write_text
from icehouse.errors import Denied, IcehouseError, InvalidFormat, TooLarge, Unauthenticated, Unavailable

EARLY_SECONDS: Final = 60
"""How long before its end a token is exchanged anew, or a quarter of its life, if that is less."""

_EARLY_SHARE: Final = 4

Exchange = Callable[[ExchangeRequest, str | None], Awaitable[ExchangeAnswer]]
"""Sends an exchange with the token that it comes from, if there is one."""

Ask = Callable[[str, str], Awaitable[bytes]]
"""Sends GET to a URL with a bearer token, and gives the body of the answer, whose status was 200."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was given for an identity, in the file that is the job's memory. The last one is the newest."""

    identity: str
    """SHA-256 of the identity token: it is no use to whoever reads the file."""
    server: str
    cache: str
    permissions: list[str] | None
    token: str
    expires_at: int
    early_seconds: int


class _Identity(msgspec.Struct):
    value: str


class JobTokens:
    """The tokens of one job for one cache. Any number of tasks of one event loop may ask."""

    def __init__(self, login: JobLogin, server_url: str, exchange: Exchange, ask: Ask) -> None:
        self._login = login
        self._server_url = server_url
        self._exchange = exchange
        self._ask = ask
        self._current: _Kept | None = None
        self._renewing = asyncio.Lock()
        self.refusal: str | None = None
        """Why the job has no token; it goes on without, since public caches need none."""

    async def get(self) -> str | None:
        """A token that is good for a while; `None`: the job gets none.

        Raises:
            Unavailable, RateLimited: the server, or who gives identities, does not answer for now.
        """
        async with self._renewing:
            if self.refusal is None and not _is_good(self._current):
                try:
                    self._current = await self._renew()
                except (Unauthenticated, InvalidFormat, Denied) as error:
                    self.refusal, self._current = str(error), None
            return None if self._current is None else self._current.token

    async def drop(self, token: str) -> bool:
        """Forget *token*, which the server refuses; whether there is another one, or one may be had."""
        async with self._renewing:
            if self._current is not None and self._current.token == token:
                self._current = None
            return self._current is not None or isinstance(self._login.identity, AskedIdentity)

    async def _renew(self) -> _Kept:
        match self._login.identity:
            case NoIdentity(reason):
                raise Unauthenticated(reason)
            case GivenIdentity(id_token):
                return await self._renew_given(id_token)
            case AskedIdentity(url, token):
                address = f"{url}{'&' if '?' in url else '?'}audience={quote(self._login.audience, safe='')}"
                try:
                    identity = msgspec.json.decode(await self._ask(address, token), type=_Identity)
                except msgspec.DecodeError as exc:
                    raise InvalidFormat(f"the CI's answer holds no identity: {exc}") from exc
                return await self._exchange_for(identity.value, None)

    async def _renew_given(self, id_token: str) -> _Kept:
        """One that an earlier command of this job got, or a new one for the last of these."""
        name = hashlib.sha256(id_token.encode()).hexdigest()
        earlier = [one for one in self._remember() if one.identity == name and one.server == self._server_url]
        wanted = None if self._login.permissions is None else list(self._login.permissions)
        for one in earlier:
            if one.cache == self._login.cache and one.permissions == wanted and _is_good(one):
                return one
        new = await self._exchange_for(id_token, earlier[-1].token if earlier else None)
        kept = [one for one in earlier if (one.cache, one.permissions) != (new.cache, new.permissions)]
        with contextlib.suppress(Denied, Unavailable):  # The next command is refused then, which says so.
            write_text(self._login.memory, msgspec.json.encode([*kept, new]).decode())
        return new

    def _remember(self) -> list[_Kept]:
        try:
            text = read_text(self._login.memory)
            return [] if text is None else msgspec.json.decode(text, type=list[_Kept])
        except (msgspec.DecodeError, Denied, InvalidFormat, TooLarge, Unavailable):
            return []

    async def _exchange_for(self, id_token: str, earlier: str | None) -> _Kept:
        permissions = None if self._login.permissions is None else list(self._login.permissions)
        request = ExchangeRequest(cache=self._login.cache, id_token=id_token, permissions=permissions)
        answer = await self._exchange(request, earlier)
        early = min(EARLY_SECONDS, answer.expires_in_seconds // _EARLY_SHARE)
        return _Kept(
            identity=hashlib.sha256(id_token.encode()).hexdigest(),
            server=self._server_url,
            cache=self._login.cache,
            permissions=None if permissions is None else list(permissions),
            token=answer.token,
            # By this machine's clock, which need not be the server's.
            expires_at=int(time.time()) + answer.expires_in_seconds,
            early_seconds=early,
        )


def explain(error: Unauthenticated, refusal: str | None) -> IcehouseError:
    """*error*, with the reason why the job has no token, if there is one."""
    return error if refusal is None else Unauthenticated(f"{error}; and {refusal}")


def _is_good(kept: _Kept | None) -> bool:
    return kept is not None and time.time() < kept.expires_at - kept.early_seconds
