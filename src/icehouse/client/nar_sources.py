"""Binary caches of any make that are imported from: over HTTP, or plain folders.

Nothing that they say is trusted: whoever reads checks signatures, hashes and sizes.
"""

import asyncio
import netrc
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, PyreqwestError

from icehouse.client.causes import cause_of
from icehouse.errors import Denied, InvalidFormat, NotFound, Unavailable, Unsupported
from icehouse.nix.narinfo import MAX_NARINFO_BYTES, NarInfo, parse_narinfo
from icehouse.nix.store_paths import HashPart, parse_hash_part

PIECE_BYTES: Final = 1024 * 1024
_NARINFO: Final = ".narinfo"
_IDLE_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 15


class NarSource(Protocol):
    """A binary cache that is read."""

    @property
    def url(self) -> str:
        """Its address, for messages."""
        ...

    def read(self, place: str) -> AsyncGenerator[bytes]:
        """A file in pieces of at most some MiB.

        *place* is relative to the cache, as in a narinfo's URL; a whole URL only where the source is read over HTTP.

        Raises:
            NotFound: it is not there.
            Denied: it may not be read.
            InvalidFormat: *place* leads out of the cache.
            Unavailable: the source cannot be reached, or fails.
        """
        ...

    async def list_hash_parts(self) -> list[HashPart]:
        """All that it has narinfos of.

        Raises:
            Unsupported: such a source cannot be listed.
            Unavailable: it fails.
        """
        ...


async def read_small(source: NarSource, place: str, max_bytes: int) -> bytes:
    """A small file, whole.

    Raises:
        InvalidFormat: it is larger than that.
        IcehouseError: as `NarSource.read`.
    """
    data = bytearray()
    async with aclosing(source.read(place)) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > max_bytes:
                raise InvalidFormat(f"{source.url}/{place}: over {max_bytes} bytes")
    return bytes(data)


async def find_narinfo(source: NarSource, hash_part: HashPart) -> NarInfo | None:
    """The narinfo of a path; `None`: it is not there. The errors are those of `read_small`."""
    try:
        data = await read_small(source, f"{hash_part}{_NARINFO}", MAX_NARINFO_BYTES)
    except NotFound:
        return None
    try:
        return parse_narinfo(data)
    except InvalidFormat as exc:
        raise InvalidFormat(f"{source.url}/{hash_part}{_NARINFO}: {exc}") from exc


class FolderSource:
    """A folder as ``nix copy --to file://…`` makes it. Symbolic links in it are followed."""

    def __init__(self, folder: Path) -> None:
        """Read from *folder*."""
        self._folder: Final = folder

    @property
    def url(self) -> str:
        """``file://`` and the folder."""
        return f"file://{self._folder}"

    async def read(self, place: str) -> AsyncGenerator[bytes]:
        """As the protocol says."""
        segments = unquote(place).split("/")
        if "://" in place or not all(segments) or any(each in {".", ".."} or "\0" in each for each in segments):
            raise InvalidFormat(f"{self.url}: a file {place!r} is named, which leads out of that folder")
        try:
            file = await asyncio.to_thread(self._folder.joinpath(*segments).open, "rb")
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound(f"{self.url}/{place} is not there") from exc
        except OSError as exc:
            raise Unavailable(f"{self.url}/{place} cannot be read: {exc.strerror}") from exc
        with file:
            try:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    yield piece
            except OSError as exc:
                raise Unavailable(f"{self.url}/{place} cannot be read: {exc.strerror}") from exc

    async def list_hash_parts(self) -> list[HashPart]:
        """As the protocol says."""
        try:
            names = await asyncio.to_thread(os.listdir, self._folder)
        except FileNotFoundError as exc:
            raise NotFound(f"{self.url} is not there") from exc
        except OSError as exc:
            raise Unavailable(f"{self.url} cannot be read: {exc.strerror}") from exc
        return parse_narinfo_names(names)


class HttpSource:
    """A cache over HTTP. Its password is sent to its own host only; redirects are followed without it."""

    def __init__(self, client: Client, url: str, login: tuple[str, str] | None) -> None:
        """Read with *client*, which follows redirects, as *login*: a user and a password."""
        self._client = client
        self._url: Final = url.rstrip("/")
        self._login = login

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return self._url

    async def read(self, place: str) -> AsyncGenerator[bytes]:
        """As the protocol says."""
        url = place if "://" in place else f"{self._url}/{place}"
        try:
            request = self._client.get(url)
            if self._login is not None and urlsplit(url).netloc == urlsplit(self._url).netloc:
                request = request.basic_auth(*self._login)
            async with request.build_streamed() as response:
                _check_status(url, response.status)
                while (piece := await response.body_reader.read(PIECE_BYTES)) is not None:
                    yield bytes(piece)
        except BuilderError as exc:
            raise InvalidFormat(f"{url} is not the address of a binary cache: {exc.message}") from exc
        except PyreqwestError as exc:
            raise Unavailable(f"{url} cannot be reached: {cause_of(exc)}") from exc

    async def list_hash_parts(self) -> list[HashPart]:
        """As the protocol says: it cannot."""
        raise Unsupported(f"{self._url}: what a cache over HTTP has cannot be listed; name paths, or give --paths-from")


def _check_status(url: str, status: int) -> None:
    if status == HTTPStatus.NOT_FOUND:
        raise NotFound(f"{url} is not there")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise Denied(f"{url} may not be read (status {status}); a password for it is looked for in the netrc file")
    if status != HTTPStatus.OK:
        raise Unavailable(f"{url} answered with status {status}")


def parse_narinfo_names(names: list[str]) -> list[HashPart]:
    """The hash parts that files are named for; other files say nothing."""
    found: list[HashPart] = []
    for name in sorted(names):
        if name.endswith(_NARINFO):
            try:
                found.append(parse_hash_part(name.removesuffix(_NARINFO)))
            except InvalidFormat:
                continue
    return found


@asynccontextmanager
async def open_source(
    text: str, environment: Mapping[str, str], netrc_file: Path | None = None
) -> AsyncGenerator[NarSource]:
    """The cache that the user means: an address of http, https or s3, ``file://`` and a folder, or a folder's path.

    Raises:
        InvalidFormat: another kind of address, or a netrc file that is none.
        NotFound: the netrc file that was named is not there.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        yield _folder(text)
    elif scheme == "file":
        yield _folder(unquote(rest.partition("?")[0]))
    elif scheme in {"http", "https"} and urlsplit(text).hostname:
        async with _client() as client:
            yield HttpSource(client, text, _find_login(text, environment, netrc_file))
    elif scheme == "s3":
        from icehouse.client.s3_source import S3Source  # noqa: PLC0415  it takes a library that only this needs

        yield S3Source.open(text, environment)
    else:
        raise InvalidFormat(f"source {text!r}: expected http://…, https://…, s3://…, file:///… or a folder")


@asynccontextmanager
async def open_cache(url: str, token: str | None) -> AsyncGenerator[NarSource]:
    """A cache of ours over HTTP, with a token."""
    async with _client() as client:
        yield HttpSource(client, url, None if token is None else ("icehouse", token))


def _client() -> Client:
    return (
        ClientBuilder()
        .connect_timeout(timedelta(seconds=_CONNECT_SECONDS))
        .read_timeout(timedelta(seconds=_IDLE_SECONDS))
        .build()
    )


def _folder(text: str) -> FolderSource:
    return FolderSource(Path(text).absolute())


def _find_login(url: str, environment: Mapping[str, str], netrc_file: Path | None) -> tuple[str, str] | None:
    """User and password for the host of *url*, from the file that was named, ``$NETRC``, or ``~/.netrc``."""
    host = urlsplit(url).hostname or ""
    named = environment.get("NETRC")
    file = netrc_file or (Path(named) if named else Path(environment.get("HOME") or Path.home()) / ".netrc")
    try:
        entry = netrc.netrc(file).authenticators(host)
    except FileNotFoundError as exc:
        if netrc_file is None:
            return None
        raise NotFound(f"{netrc_file} is not there") from exc
    except (OSError, netrc.NetrcParseError) as exc:
        raise InvalidFormat(f"{file} cannot be read as a netrc file: {exc}") from exc
    return None if entry is None else (entry[0] or "", entry[2] or "")
