"""What is in the store paths of a cache: listings, files out of NARs, and debug files by build id.

All of it is made from the NARs. What stock Nix uploads of it is therefore looked at and not kept.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from posixpath import splitext
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from icehouse.errors import InvalidFormat
from icehouse.http.asgi import Header
from icehouse.http.cache_files import FileRequest, FileRoute, caching_headers
from icehouse.http.files import OpenFile, send_file
from icehouse.http.folder_page import PAGE_HEADERS, FolderPage, render_folder_page
from icehouse.nix.debug_info import parse_build_id, render_debug_info
from icehouse.nix.excerpts import show_name
from icehouse.nix.listing import LISTING_VERSION
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.services.contents import FoundFile, FoundFolder, is_text
from icehouse.storage.nar_contents import ContentsSlice

MAX_LISTING_BYTES: Final = 64 * 1024 * 1024
MAX_CHECKED_BYTES: Final = 8 * 1024 * 1024
"""A longer listing is taken unread."""

MAX_DEBUG_INFO_BYTES: Final = 4096

_JSON: Final[Header] = (b"content-type", b"application/json")
_NO_SNIFFING: Final[Header] = (b"x-content-type-options", b"nosniff")
_OCTETS: Final = "application/octet-stream"
# What somebody packaged must be nothing but a document: in a browser it would else act with the rights of our pages.
_INERT: Final[Header] = (
    b"content-security-policy",
    (
        b"sandbox; default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
        b"media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
)
_SNIFFED_BYTES: Final = 4096
# The library's own table: that of the machine would make answers differ between servers.
_TYPES: Final = mimetypes.MimeTypes()

_LETTER: Final = "[0-9a-df-np-sv-z]"
_HASH_PART: Final = f"({_LETTER}{{32}})"
_BUILD_ID: Final = "([0-9a-f]{40})"


class _SentListing(msgspec.Struct):
    version: int
    root: msgspec.Raw


class _SentDebugInfo(msgspec.Struct):
    archive: str
    member: str


_Sent = TypeVar("_Sent", _SentListing, _SentDebugInfo)


@dataclass(frozen=True, slots=True)
class _Text:
    """A small file made for this answer."""

    text: bytes

    @property
    def file_size(self) -> int:
        return len(self.text)

    async def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]:
        yield self.text[start:stop]


async def send_listing(request: FileRequest) -> None:
    """Answer GET and HEAD of ``{hash part}.ls``."""
    entry = await request.enter(Permission.PULL)
    listing = await request.parts.contents.render_listing(entry.cache, parse_hash_part(request.names[0]))
    headers = [_JSON, *caching_headers(entry)]
    await _send(request, _Text(listing.text), headers, f"{listing.nar_hash.hex()}-ls")


async def take_listing(request: FileRequest) -> None:
    """Answer PUT of ``{hash part}.ls``: a listing is accepted, and ours is served."""
    await request.enter(Permission.PUSH)
    text = bytearray()
    size = 0
    async for piece in request.decoded_pieces(max_bytes=MAX_LISTING_BYTES):
        size += len(piece)
        if size <= MAX_CHECKED_BYTES:
            text += piece
        else:
            text.clear()
    if size <= MAX_CHECKED_BYTES and _read(text, _SentListing, "listing").version != LISTING_VERSION:
        raise InvalidFormat(f"the listing has another version than {LISTING_VERSION}, the only one that there is")
    await request.answer_stored()


async def send_debug_info(request: FileRequest) -> None:
    """Answer GET and HEAD of ``debuginfo/{build id}``."""
    entry = await request.enter(Permission.PULL)
    build_id = parse_build_id(request.names[0])
    nar_hash = await request.parts.contents.find_debug_nar(entry.cache, build_id)
    text = render_debug_info(nar_hash, build_id)
    await _send(request, _Text(text), [_JSON, *caching_headers(entry)], f"{nar_hash.hex()}-{build_id.hex()}")


async def take_debug_info(request: FileRequest) -> None:
    """Answer PUT of ``debuginfo/{build id}``: it is accepted, and ours is served."""
    await request.enter(Permission.PUSH)
    _read(await request.read_body(max_bytes=MAX_DEBUG_INFO_BYTES), _SentDebugInfo, "debug info")
    await request.answer_stored()


async def send_debug_file(request: FileRequest) -> None:
    """Answer GET and HEAD of ``buildid/{build id}/debuginfo``, as debuggers ask for it.

    Source: elfutils, debuginfod(8), "WEBAPI".
    """
    entry = await request.enter(Permission.PULL)
    found = await request.parts.contents.open_debug_file(entry.cache, parse_build_id(request.names[0]))
    headers = [(b"content-type", _OCTETS.encode()), _NO_SNIFFING, *caching_headers(entry)]
    await _send(request, found.file, headers, _name_file(found))


async def send_from_nar(request: FileRequest) -> None:
    """Answer GET and HEAD of ``serve/{hash part}/{path}``."""
    entry = await request.enter(Permission.PULL)
    hash_part = parse_hash_part(request.names[0])
    way = request.names[1].encode("latin-1").removesuffix(b"/")
    names = [unquote_to_bytes(name) for name in way.split(b"/")[1:]]
    found = await request.parts.contents.find(entry.cache, hash_part, names)
    await send_found(request, found, names, caching_headers(entry))


async def send_found(
    request: FileRequest, found: FoundFile | FoundFolder, names: Sequence[bytes], caching: Sequence[Header]
) -> None:
    """Answer with what a store path has at *names*: a file that browsers only show, or the page of a folder."""
    if isinstance(found, FoundFolder):
        store_path = found.store_path
        page = FolderPage(request.cache_name, store_path.base_name, store_path.hash_part, names, found.node)
        text = await asyncio.to_thread(partial(render_folder_page, page))
        await _send(request, _Text(text), [*PAGE_HEADERS, *caching], sha256(text).hexdigest())
        return
    name = show_name(names[-1]) if names else found.store_path.name
    kind = await asyncio.to_thread(partial(_choose_type, name, found.file))
    headers = [(b"content-type", kind.encode()), _NO_SNIFFING, _INERT, *caching]
    await _send(request, found.file, headers, _name_file(found))


async def _send(request: FileRequest, file: OpenFile, headers: list[Header], etag: str) -> None:
    await send_file(request.scope, request.receive, request.send, file, headers=headers, etag=f'"{etag}"'.encode())


def _name_file(found: FoundFile) -> str:
    return f"{found.nar_hash.hex()}-{found.nar_offset}"


def _choose_type(name: str, file: ContentsSlice) -> str:
    """The media type of a file by its name, and if that says too little, by its first bytes; blocks."""
    suffix = splitext(name)[1].lower()
    kind = _TYPES.types_map[True].get(suffix)
    if suffix in _TYPES.encodings_map or suffix in _TYPES.suffix_map:  # compressed, so that what is inside says nothing
        return _OCTETS
    if kind is not None and not kind.startswith("text/"):
        return kind
    start = bytes(file.read(0, min(_SNIFFED_BYTES, file.file_size)))
    if is_text(start, is_whole=len(start) == file.file_size):
        return f"{kind or 'text/plain'}; charset=utf-8"
    return kind or _OCTETS


def _read(text: bytes | bytearray, kind: type[_Sent], what: str) -> _Sent:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidFormat(f"the {what} is not as Nix writes it: {exc}") from exc


ROUTES: Final = (
    FileRoute("/{cache}/{hash part}.ls", re.compile(rf"{_HASH_PART}\.ls".encode()), send_listing, take_listing),
    FileRoute(
        "/{cache}/debuginfo/{build id}",
        re.compile(rf"debuginfo/{_BUILD_ID}(?:\.debug)?".encode()),
        send_debug_info,
        take_debug_info,
    ),
    FileRoute(
        "/{cache}/buildid/{build id}/debuginfo", re.compile(f"buildid/{_BUILD_ID}/debuginfo".encode()), send_debug_file
    ),
    FileRoute(
        "/{cache}/serve/{hash part}/{path}",
        re.compile(rf"serve/{_HASH_PART}((?:/.*)?)".encode(), re.DOTALL),
        send_from_nar,
    ),
)
