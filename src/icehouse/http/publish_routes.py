"""Routes of native publishing, in the order in which a push uses them (design, section 5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, cast

from litestar import Request, Response, get, post, put
from litestar.params import PathParameter

from icehouse.api.publish import (
    ChunksMissingAnswer,
    ChunksMissingRequest,
    MissingAnswer,
    MissingRequest,
    NarResult,
    NarsAnswer,
    NarsRequest,
    PackAnswer,
    PathsAnswer,
    PathsRequest,
    PromoteAnswer,
    PromoteRequest,
)
from icehouse.errors import InvalidFormat, Unsupported
from icehouse.http.asgi import Receive
from icehouse.http.metrics import RouteCounters
from icehouse.http.parts import ServerParts
from icehouse.http.streaming import receive_pieces
from icehouse.nix import nix32
from icehouse.nix.hashes import SHA256_SIZE_BYTES, parse_sha256
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.access import Permission
from icehouse.rules.audit import Origin
from icehouse.rules.packs import MAX_INDEX_BYTES, MAX_PACK_BYTES
from icehouse.services.access import Credential

MAX_JSON_BYTES: Final = 4 * 1024 * 1024
MAX_RECORDS_BYTES: Final = 16 * 1024 * 1024
"""Bodies with recipes or path records, base64 and JSON included."""

MAX_UPLOAD_BYTES: Final = 4 + MAX_INDEX_BYTES + MAX_PACK_BYTES

Number = Annotated[int, PathParameter(ge=0, le=2**53)]
"""What numbers a row, in a path: SQLite has none beyond 64 bits, and fails where it is asked for one."""


@post(
    "/api/v1/caches/{cache_name:str}/missing",
    status_code=200,
    tags=["publishing"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def find_missing(
    cache_name: str, data: MissingRequest, parts: ServerParts, credential: Credential
) -> MissingAnswer:
    """Which of these hash parts are not visible in the cache. Changes nothing."""
    entry = await parts.access.enter(cache_name, Permission.PULL, credential)
    return await parts.publisher.find_missing(entry.cache, data)


@post(
    "/api/v1/caches/{cache_name:str}/chunks/missing",
    status_code=200,
    tags=["publishing"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def find_missing_chunks(
    cache_name: str, data: ChunksMissingRequest, parts: ServerParts, credential: Credential
) -> ChunksMissingAnswer:
    """Which of these chunks the cache's domain has, and their numbers. Changes nothing."""
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    return await parts.packs.find_missing_chunks(entry.cache, data)


@put("/api/v1/caches/{cache_name:str}/packs", status_code=200, tags=["publishing"], request_max_body_size=None)
async def receive_pack(
    cache_name: str, request: Request[Any, Any, Any], parts: ServerParts, credential: Credential
) -> PackAnswer:
    """Take frames of chunks: the index's length (four bytes, little-endian), the index, and the frames back to back.

    The body is `application/octet-stream`. Every frame is proved before it is kept. When too many uploads are under
    way, the answer is 429 with Retry-After.
    """
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Unsupported("Content-Encoding: a pack is sent as it is")
    counters = parts.counters.route("/api/v1/caches/{cache_name}/packs")
    with parts.uploads.take(None if entry.grant is None else entry.grant.token_id):
        announced = _parse_content_length(request.headers.get("content-length"))
        pieces = receive_pieces(cast("Receive", request.receive), announced=announced, max_bytes=MAX_UPLOAD_BYTES)
        with parts.activity.pushes.receive(entry, None) as receiving:
            return await parts.packs.receive_pack(entry.cache, receiving.count(_count(pieces, counters)))


@post(
    "/api/v1/caches/{cache_name:str}/nars",
    status_code=200,
    tags=["publishing"],
    request_max_body_size=MAX_RECORDS_BYTES,
)
async def register_nars(
    cache_name: str, data: NarsRequest, parts: ServerParts, credential: Credential
) -> Response[NarsAnswer]:
    """Register NARs by their recipes. Each is put together once and hashed before it counts as stored.

    Status 202 if any result is pending; with a single NAR, Location then says where to ask for it.
    """
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    answer = await parts.nars.register_nars(entry.cache, data)
    pending = [result for result in answer.results if result.state == "pending"]
    headers: dict[str, str] = {}
    if pending and len(answer.results) == 1:
        letters = nix32.encode(parse_sha256(pending[0].nar_hash))
        headers["location"] = f"/api/v1/caches/{cache_name}/nars/{letters}"
    return Response(answer, status_code=202 if pending else 200, headers=headers)


@get("/api/v1/caches/{cache_name:str}/nars/{nar_hash:str}", tags=["publishing"])
async def show_nar(cache_name: str, nar_hash: str, parts: ServerParts, credential: Credential) -> Response[NarResult]:
    """What became of a NAR, named by the 52 Nix32 letters of its SHA-256. Status 202 while it is pending."""
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    result = await parts.nars.get_nar(entry.cache, nix32.decode(nar_hash, SHA256_SIZE_BYTES))
    return Response(result, status_code=202 if result.state == "pending" else 200)


@post(
    "/api/v1/caches/{cache_name:str}/paths",
    status_code=200,
    tags=["publishing"],
    request_max_body_size=MAX_RECORDS_BYTES,
)
async def publish_paths(
    cache_name: str, data: PathsRequest, parts: ServerParts, credential: Credential, origin: Origin
) -> Response[PathsAnswer]:
    """Make paths visible, all together or not at all. Status 409 if any is refused; the body says which, and why."""
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    token_id = None if entry.grant is None else entry.grant.token_id
    answer = await parts.publisher.publish_paths(entry.cache, data, token_id=token_id, address=origin.address)
    if not answer.refused:
        parts.activity.pushes.note_published(entry, answer.published)
    return Response(answer, status_code=409 if answer.refused else 200)


@post(
    "/api/v1/caches/{cache_name:str}/promotions",
    status_code=200,
    tags=["publishing"],
    request_max_body_size=MAX_JSON_BYTES,
)
async def promote_path(
    cache_name: str, data: PromoteRequest, parts: ServerParts, credential: Credential, origin: Origin
) -> Response[PromoteAnswer]:
    """Publish a path of another cache, with all that it reaches, without sending bytes again.

    Needs `push`, and `pull` on the other cache. Status 409 if any path is refused, as when publishing. Status 202 if
    the caches are of two domains, and more is to be copied than one request copies: repeat it.
    """
    entry = await parts.access.enter(cache_name, Permission.PUSH, credential)
    source = await parts.access.enter(data.source, Permission.PULL, credential)
    part = parse_hash_part(data.hash_part)
    answer = await parts.promotions.promote(entry.cache, source.cache, part, origin.actor(entry.grant))
    return Response(answer, status_code=409 if answer.refused else 202 if answer.left_nars else 200)


def _parse_content_length(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isascii() or not value.isdecimal():
        raise InvalidFormat(f"Content-Length {value[:20]!r} is not a decimal number")
    return int(value[:20])


async def _count(pieces: AsyncIterator[bytes], counters: RouteCounters) -> AsyncIterator[bytes]:
    async for piece in pieces:
        counters.bytes_received += len(piece)
        yield piece
