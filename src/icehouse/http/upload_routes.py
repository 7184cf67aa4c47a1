"""What stock Nix sends with `nix copy --to`, and the NARs that it uploaded under the names that it gave them."""

from __future__ import annotations

import re
from typing import Final

from icehouse.errors import Conflict, NotFound, Unsupported
from icehouse.http.asgi import Header, find_header
from icehouse.http.cache_files import FileRequest, FileRoute, expects_continue
from icehouse.http.files import PRIVATE_FOREVER, PUBLIC_FOREVER, VARY, send_file
from icehouse.http.streaming import send_blocks
from icehouse.nix.cache_info import MAX_CACHE_INFO_BYTES, parse_cache_info
from icehouse.nix.compression import Compression
from icehouse.nix.narinfo import MAX_NARINFO_BYTES
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.services.access import Entry
from icehouse.services.aliases import RecompressedAlias

MAX_UPLOADED_FILE_BYTES: Final = 80 * 1024**3
"""Of a NAR file. The NAR in it has a limit of its own; files that do not compress are a little longer."""

_NAR_TYPE: Final[Header] = (b"content-type", b"application/x-nix-nar")


async def show_uploaded_nar(request: FileRequest) -> None:
    """Answer with a NAR under the name of its upload.

    GET needs a path of the cache with that NAR. HEAD also finds what a narinfo could commit, so that Nix does not
    upload it again.
    """
    entry = await request.enter(Permission.PULL)
    found = await request.parts.aliases.find(entry.cache, request.names[0])
    if found is None or not (found.path_id is not None or request.is_head):
        raise NotFound("There is no such NAR in this cache.")
    file = await request.parts.aliases.open(found)
    if found.path_id is not None and not request.is_head:
        request.parts.downloads.note(
            found.path_id, _token_id(entry), request.origin.address or "", request.parts.clock()
        )
    headers = [_NAR_TYPE, *([PUBLIC_FOREVER] if entry.cache.is_public else [PRIVATE_FOREVER, VARY])]
    if not isinstance(file, RecompressedAlias):
        # That of the NAR's own URL where its bytes are sent, which are others after a repair.
        is_stored = found.file.compression == Compression.ZSTD.value
        etag = found.stored_hash.hex() if is_stored else f"{found.nar_hash.hex()}-{found.file.compression}"
        await send_file(request.scope, request.receive, request.send, file, headers=headers, etag=f'"{etag}"'.encode())
        return
    await request.send({"type": "http.response.start", "status": 200, "headers": headers})
    if request.is_head:
        await request.send({"type": "http.response.body", "body": b""})
    else:
        await send_blocks(file.blocks(), request.receive, request.send)


async def receive_nar(request: FileRequest) -> None:
    """Take a NAR in any compression that is read here. It is staged until a narinfo names it."""
    entry = await request.enter(Permission.PUSH)
    if find_header(request.scope, b"content-encoding") not in {None, b"identity"}:
        raise Unsupported("Content-Encoding: a NAR is sent as its name says")
    with request.parts.activity.pushes.receive(entry, request.names[0]) as receiving:
        await request.parts.nar_uploads.receive_nar(
            entry.cache,
            request.names[0],
            receiving.count(request.pieces(max_bytes=MAX_UPLOADED_FILE_BYTES)),
            token_id=_token_id(entry),
            can_come_again=expects_continue(request.scope),
        )
    await request.answer_stored()


async def receive_narinfo(request: FileRequest) -> None:
    """Take a narinfo: its path becomes visible, if its references are."""
    entry = await request.enter(Permission.PUSH)
    hash_part = parse_hash_part(request.names[0])
    text = await request.read_body(max_bytes=MAX_NARINFO_BYTES)
    absent = await request.parts.narinfo_uploads.receive_narinfo(
        entry.cache, hash_part, text, token_id=_token_id(entry), address=request.origin.address
    )
    if not absent:
        request.parts.activity.pushes.note_published(entry, [hash_part])
    awaited = ", ".join(path.base_name for path in absent)
    await request.answer_stored(text=f"Kept, and not visible before: {awaited}\n".encode() if absent else b"")


async def receive_cache_info(request: FileRequest) -> None:
    """Take a nix-cache-info that agrees with the cache's. Nix sends one where it could not read ours."""
    entry = await request.enter(Permission.PUSH)
    info = parse_cache_info(await request.read_body(max_bytes=MAX_CACHE_INFO_BYTES))
    if info.store_dir is not None and info.store_dir != entry.cache.store_dir:
        raise Conflict(
            f"nix-cache-info StoreDir {info.store_dir}: that of cache {entry.cache.name!r} is {entry.cache.store_dir}"
        )
    await request.answer_stored()


def _token_id(entry: Entry) -> int | None:
    return None if entry.grant is None else entry.grant.token_id


ROUTES: Final = (
    FileRoute("/{cache}/nar/{file}", re.compile(rb"nar/([^/]{1,80})"), show_uploaded_nar, receive_nar),
    FileRoute("/{cache}/{hash}.narinfo", re.compile(rb"([0-9a-df-np-sv-z]{32})\.narinfo"), None, receive_narinfo),
    FileRoute("/{cache}/nix-cache-info", re.compile(rb"nix-cache-info"), None, receive_cache_info),
)
