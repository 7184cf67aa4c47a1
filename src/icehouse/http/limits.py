"""How much of the API one client gets: a rate for each token and each address, and few tries with wrong credentials.

Only the API is limited. What Nix reads is not: after a 429 some versions wait for a minute and others give a build up;
nor what stock Nix uploads, since it cannot send a body twice.

A token has 256 random bits, so nobody finds one by trying. Tries are limited so that a job that repeats a dead token,
or somebody who does not know better, costs little. Many people may share an address with them, so a token that was
accepted before is looked up even then: nobody can lock out those who are at work, only make a token's first use wait.

Each process counts for itself, in bounded memory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

import msgspec

from icehouse.errors import RateLimited
from icehouse.http.asgi import Application, Message, Receive, Scope, Send, answer, find_header
from icehouse.http.errors import make_problem
from icehouse.http.front import is_of_api
from icehouse.rules.rates import Buckets

BURST_SECONDS: Final = 10
"""A bucket holds what so many seconds bring."""

_IPV6_NETWORK: Final = 64
"""Bits that tell one client's addresses from another's: whoever has one IPv6 address has all below that."""

LOGIN_PATH: Final = b"/login"
"""Where the web page's form with a token is sent."""

_UNAUTHENTICATED: Final = 401


class Limits:
    """The ASGI application before the API and the pages. 0 in place of a number: no limit."""

    def __init__(
        self,
        api: Application,
        *,
        requests_per_second: int,
        failed_logins_per_minute: int,
        is_accepted: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        """*is_accepted* tells whether a token in an ``Authorization`` header was valid before; *clock* is steady."""
        self._api = api
        self._clock = clock
        self._is_accepted = is_accepted
        self._requests = _make_buckets(requests_per_second, burst=requests_per_second * BURST_SECONDS)
        self._failures = _make_buckets(failed_logins_per_minute / 60, burst=failed_logins_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, if it is within the limits."""
        if scope["type"] != "http" or scope["raw_path"] == b"/health":
            await self._api(scope, receive, send)
            return
        address = name_client(scope["state"]["client"])
        header = find_header(scope, b"authorization")
        is_login = scope["method"] == "POST" and scope["raw_path"] == LOGIN_PATH
        error = self._find_excess(address, header, is_login=is_login)
        if error is not None and not is_of_api(scope["raw_path"]):
            scope["state"]["refusal"] = error  # people get a page that says so
            await self._api(scope, receive, send)
            return
        if error is not None:
            problem, headers = make_problem(error, scope["state"]["request_id"])
            sent = [(name.encode(), value.encode()) for name, value in headers.items()]
            sent += [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
            is_head = scope["method"] == "HEAD"
            await answer(send, problem.status, sent, msgspec.json.encode(problem), is_head=is_head)
            return

        async def send_noting(message: Message) -> None:
            if (
                message["type"] == "http.response.start"
                and message["status"] == _UNAUTHENTICATED
                and (header is not None or is_login)
            ):
                self._note_failure(address)
            await send(message)

        await self._api(scope, receive, send_noting)

    def _find_excess(self, address: str, header: bytes | None, *, is_login: bool) -> RateLimited | None:
        now = self._clock()
        if self._requests is not None:
            # What stands in the header is not looked at, and only its keyed hash is kept. A loopback address is that
            # of a proxy which nobody called trusted, with everybody behind it.
            keys = [] if header is None else [("token", hash(header))]
            keys += [] if _is_loopback(address) else [("address", hash(address))]
            for key in keys:
                seconds = self._requests.take(key, now)
                if seconds:
                    return RateLimited(f"too many requests from this {key[0]}", retry_after_seconds=seconds)
        if self._failures is not None and (header is not None or is_login):
            seconds = self._failures.seconds_until(address, now)
            if seconds and (header is None or not self._is_accepted(header.decode("latin-1"))):
                text = "too many requests with wrong credentials from this address"
                return RateLimited(text, retry_after_seconds=seconds)
        return None

    def _note_failure(self, address: str) -> None:
        if self._failures is not None:
            self._failures.take(address, self._clock())


def name_client(address: str) -> str:
    """What all addresses of one client have in common."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None and not parsed.is_loopback:
        return str(ipaddress.ip_network((int(parsed), _IPV6_NETWORK), strict=False))
    return address


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _make_buckets(per_second: float, *, burst: float) -> Buckets | None:
    return Buckets(per_second=per_second, burst=burst) if per_second else None
