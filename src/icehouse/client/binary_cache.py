"""A binary cache of any make, read over HTTP as Nix reads it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, PyreqwestError

from icehouse.errors import InvalidFormat, Unavailable
from icehouse.nix.narinfo import MAX_NARINFO_BYTES, NarInfo, parse_narinfo
from icehouse.nix.store_paths import HashPart

_PIECE_BYTES: Final = 1024 * 1024
_IDLE_SECONDS: Final = 60


class BinaryCache:
    """One binary cache. Nothing that it says is trusted: whoever asks checks hashes."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self.url = url.rstrip("/")

    async def find(self, hash_part: HashPart) -> NarInfo | None:
        """The narinfo of a path; `None`: it is not there.

        Raises:
            InvalidFormat: the answer is no narinfo, or the address is none.
            Unavailable: the cache cannot be reached, or fails.
        """
        data = bytearray()
        async with aclosing(self._get(f"{self.url}/{hash_part}.narinfo")) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > MAX_NARINFO_BYTES:
                    raise InvalidFormat(f"{self.url}/{hash_part}.narinfo: over {MAX_NARINFO_BYTES} bytes")
        return parse_narinfo(bytes(data)) if data else None

    async def read(self, info: NarInfo) -> AsyncGenerator[bytes]:
        """The NAR file of a path, as it is stored there; nothing, if it is gone. The errors are those of `find`."""
        url = info.url if "://" in info.url else f"{self.url}/{info.url}"
        async with aclosing(self._get(url)) as pieces:
            async for piece in pieces:
                yield piece

    async def _get(self, url: str) -> AsyncGenerator[bytes]:
        try:
            async with self._client.get(url).build_streamed() as response:
                if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:  # S3 says the latter
                    return
                if response.status != HTTPStatus.OK:
                    raise Unavailable(f"{url} answered with status {response.status}")
                while (piece := await response.body_reader.read(_PIECE_BYTES)) is not None:
                    yield bytes(piece)
        except BuilderError as exc:
            raise InvalidFormat(f"{url} is not the address of a binary cache: {exc.message}") from exc
        except PyreqwestError as exc:
            raise Unavailable(f"{url} cannot be reached: {exc.message}") from exc


@asynccontextmanager
async def binary_caches() -> AsyncGenerator[Client]:
    """A client for `BinaryCache`; its connections close at the end of the context."""
    client = ClientBuilder().read_timeout(timedelta(seconds=_IDLE_SECONDS)).build()
    async with client:
        yield client
