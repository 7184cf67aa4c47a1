"""Build logs: ``log/<base name of the derivation>``."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from icehouse.errors import InvalidFormat, NotFound
from icehouse.http.asgi import Header, Scope, find_header
from icehouse.http.cache_files import PLAIN_TEXT, FileRequest, FileRoute
from icehouse.http.files import PRIVATE, PUBLIC_HOUR, send_file
from icehouse.nix.compression import Compression, parse_compression
from icehouse.nix.derivations import parse_derivation
from icehouse.rules.access import Permission
from icehouse.services.logs import MAX_LOG_BYTES

_NO_SNIFFING: Final[Header] = (b"x-content-type-options", b"nosniff")
_ZSTD: Final[Header] = (b"content-encoding", b"zstd")
_QVALUE: Final = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


async def send_log(request: FileRequest) -> None:
    """Answer GET and HEAD: as it is stored for who reads zstd, else as text."""
    entry = await request.enter(Permission.PULL)
    try:
        derivation = parse_derivation(unquote(request.names[0]))
    except InvalidFormat as exc:
        raise NotFound(str(exc)) from exc
    log = await request.parts.logs.open_log(entry.cache, derivation)
    headers = [PLAIN_TEXT, _NO_SNIFFING]
    if entry.cache.is_public:
        headers += [PUBLIC_HOUR, (b"vary", b"accept-encoding")]
    else:
        headers += [PRIVATE, (b"vary", b"authorization, accept-encoding")]
    etag = log.name
    if prefers_zstd(request.scope):
        file = log.as_zstd()
        headers.append(_ZSTD)
        etag += "-zstd"
    else:
        file = log.as_text()
    await send_file(request.scope, request.receive, request.send, file, headers=headers, etag=f'"{etag}"'.encode())


async def take_log(request: FileRequest) -> None:
    """Answer PUT."""
    entry = await request.enter(Permission.PUSH)
    derivation = parse_derivation(unquote(request.names[0]))
    encoding = (find_header(request.scope, b"content-encoding") or b"identity").decode("latin-1").strip().lower()
    await request.parts.logs.receive_log(
        entry.cache,
        derivation,
        request.pieces(max_bytes=MAX_LOG_BYTES),
        compression=Compression.NONE if encoding == "identity" else parse_compression(encoding),
        token_id=None if entry.grant is None else entry.grant.token_id,
    )
    await request.answer_stored()


def prefers_zstd(scope: Scope) -> bool:
    """Whether ``Accept-Encoding`` names zstd, and gives it no lower weight than what is not encoded.

    Source: RFC 9110, sections 12.4.2 and 12.5.3.
    """
    weights: dict[bytes, float] = {}
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            for item in value.lower().split(b","):
                coding, _, parameter = item.partition(b";")
                weight = _QVALUE.fullmatch(parameter.strip()) if parameter else None
                if weight is not None or not parameter:
                    weights[coding.strip()] = 1.0 if weight is None else float(weight[1])
    zstd = weights.get(b"zstd", 0.0)
    return zstd > 0 and zstd >= weights.get(b"identity", 0.0)


ROUTES: Final = (FileRoute("/{cache}/log/{derivation}", re.compile(rb"log/([^/]+)"), send_log, take_log),)
