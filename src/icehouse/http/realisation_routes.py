"""Realisations: ``realisations/<hash>!<output>.doi`` and ``build-trace-v2/<derivation>/<output>.doi``."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from blake3 import blake3

from icehouse.errors import InvalidFormat, NotFound, Unauthenticated
from icehouse.http.asgi import Header
from icehouse.http.cache_files import FileRequest, FileRoute, caching_headers
from icehouse.http.files import plan_file_answer
from icehouse.nix.realisation import MAX_REALISATION_BYTES, RealisationName
from icehouse.rules.access import Permission

_JSON: Final[Header] = (b"content-type", b"application/json")


def parse_realisation_name(names: tuple[str, ...]) -> RealisationName:
    """The realisation that a URL names: by a hash and an output in one, or by a derivation and an output.

    Raises:
        InvalidFormat: one of them is malformed.
    """
    decoded = [unquote(name) for name in names]
    if len(decoded) == 1:
        return RealisationName.of_hash(decoded[0])
    return RealisationName.of_derivation(*decoded)


async def send_realisation(request: FileRequest) -> None:
    """Answer GET and HEAD."""
    entry = await request.enter(Permission.PULL)
    try:
        name = parse_realisation_name(request.names)
    except InvalidFormat as exc:
        raise NotFound(str(exc)) from exc
    body = await request.parts.realisations.get_realisation(entry.cache, name)
    headers = [_JSON, *caching_headers(entry)]
    etag = f'"{blake3(body).hexdigest()}"'.encode()
    status, answered, part = plan_file_answer(request.scope, headers=headers, etag=etag, file_size=len(body))
    await request.send({"type": "http.response.start", "status": status, "headers": answered})
    sent = b"" if part is None or request.is_head else body[part.start : part.stop]
    await request.send({"type": "http.response.body", "body": sent})


async def take_realisation(request: FileRequest) -> None:
    """Answer PUT."""
    entry = await request.enter(Permission.PUSH)
    if entry.grant is None:
        raise Unauthenticated("an upload needs a token")
    name = parse_realisation_name(request.names)
    body = await request.read_body(max_bytes=MAX_REALISATION_BYTES)
    await request.parts.realisations.put_realisation(entry.cache, name, body, token_id=entry.grant.token_id)
    await request.answer_stored()


ROUTES: Final = (
    FileRoute(
        "/{cache}/realisations/{id}.doi", re.compile(rb"realisations/([^/]+)\.doi"), send_realisation, take_realisation
    ),
    FileRoute(
        "/{cache}/build-trace-v2/{derivation}/{output}.doi",
        re.compile(rb"build-trace-v2/([^/]+)/([^/]+)\.doi"),
        send_realisation,
        take_realisation,
    ),
)
