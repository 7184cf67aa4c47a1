"""The documents of OpenID Connect issuers, over HTTP: small, soon, and from nowhere else than was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, PyreqwestError
from pyreqwest.request import RequestBuilder

from icehouse import __version__
from icehouse.errors import InvalidFormat, Unavailable
from icehouse.rules.id_tokens import MAX_KEYS_BYTES

_CONNECT_SECONDS: Final = 5
_SECONDS: Final = 10
_REFUSALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_PIECE_BYTES: Final = 64 * 1024


class IssuerDocuments:
    """Fetches documents. Made by `issuer_documents`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def fetch(self, url: str) -> bytes:
        """What is at *url*.

        Raises:
            Unavailable: there was no answer in time, or one with another status than 200, a redirect too.
            InvalidFormat: it has more than `MAX_KEYS_BYTES`, or the address is none.
        """
        return await self._read(url, lambda: self._client.get(url))

    async def send_form(self, url: str, fields: Mapping[str, str], authorization: str | None) -> bytes:
        """The answer to a form that is sent to *url*.

        Raises:
            Unavailable: there was no answer in time, or one that tells of a fault of the server.
            InvalidFormat: it was refused, or the answer has more than `MAX_KEYS_BYTES`, or the address is none.
        """

        def build() -> RequestBuilder:
            request = self._client.post(url).form(dict(fields))
            return request if authorization is None else request.header("Authorization", authorization)

        return await self._read(url, build)

    async def _read(self, url: str, build: Callable[[], RequestBuilder]) -> bytes:
        data = bytearray()
        try:
            async with build().header("Accept", "application/json").build_streamed() as response:
                if response.status in _REFUSALS:
                    raise InvalidFormat(f"{url} refused with status {response.status}")
                if response.status != HTTPStatus.OK:
                    raise Unavailable(f"{url} answered with status {response.status}")
                while (piece := await response.body_reader.read(_PIECE_BYTES)) is not None:
                    data += piece
                    if len(data) > MAX_KEYS_BYTES:
                        raise InvalidFormat(f"{url} has more than {MAX_KEYS_BYTES} bytes")
        except BuilderError as exc:
            raise InvalidFormat(f"{url} is no address: {exc.message}") from exc
        except PyreqwestError as exc:
            raise Unavailable(f"{url} cannot be reached: {exc.message}") from exc
        return bytes(data)


@asynccontextmanager
async def issuer_documents() -> AsyncGenerator[IssuerDocuments]:
    """The documents of issuers; connections close at the end of the context."""
    client = (
        ClientBuilder()
        .user_agent(f"icehouse/{__version__}")
        .connect_timeout(timedelta(seconds=_CONNECT_SECONDS))
        .timeout(timedelta(seconds=_SECONDS))
        .follow_redirects(enable=False)
        .build()
    )
    async with client:
        yield IssuerDocuments(client)
