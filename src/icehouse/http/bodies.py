"""Bodies of requests to the API, with errors of ours for what is wrong with them."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.exceptions import InternalServerException

from icehouse.errors import InvalidFormat
from icehouse.http.streaming import ClientLeft


class ApiRequest(Request[Any, Any, Any]):
    """A request of the API."""

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            ClientLeft: it broke off, which litestar calls an error of the server.
        """
        try:
            return await super().body()
        except InternalServerException as exc:
            raise ClientLeft from exc

    async def json(self) -> Any:  # noqa: ANN401  as litestar's
        """The body as JSON.

        Raises:
            InvalidFormat: it is not UTF-8 or nests too deep, for which the JSON library has errors of their own.
        """
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError) as exc:
            raise InvalidFormat(f"the body is not JSON: {exc}") from exc
