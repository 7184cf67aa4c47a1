"""What pins stand for: ``pin/<name>``, and their artifacts below it.

A pin moves, so nobody may answer with what it was before without asking.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from icehouse.http.asgi import Header
from icehouse.http.cache_files import PLAIN_TEXT, FileRequest, FileRoute
from icehouse.http.content_routes import send_found
from icehouse.http.files import PRIVATE, VARY
from icehouse.rules.access import Permission
from icehouse.rules.pins import NAME_PATTERN
from icehouse.services.access import Entry

_ASK_AGAIN: Final[Header] = (b"cache-control", b"public, no-cache")


async def send_pin(request: FileRequest) -> None:
    """Answer GET and HEAD of ``pin/{name}``: the store path, with its directory, on a line."""
    entry = await request.enter(Permission.PULL)
    store_path = await request.parts.pins.resolve(entry.cache, request.names[0])
    text = f"{store_path.full(entry.cache.store_dir)}\n"
    await request.answer(200, [PLAIN_TEXT, *_caching_headers(entry)], text.encode())


async def send_artifact(request: FileRequest) -> None:
    """Answer GET and HEAD of ``pin/{name}/{path}``."""
    entry = await request.enter(Permission.PULL)
    way = request.names[1].encode("latin-1").removesuffix(b"/")
    names = [unquote_to_bytes(name) for name in way.split(b"/")]
    found = await request.parts.pins.find_artifact(entry.cache, request.names[0], names)
    await send_found(request, found, names, _caching_headers(entry))


def _caching_headers(entry: Entry) -> list[Header]:
    return [_ASK_AGAIN] if entry.cache.is_public else [PRIVATE, VARY]


ROUTES: Final = (
    FileRoute("/{cache}/pin/{name}", re.compile(f"pin/({NAME_PATTERN})".encode()), send_pin),
    FileRoute(
        "/{cache}/pin/{name}/{path}", re.compile(f"pin/({NAME_PATTERN})/(.+)".encode(), re.DOTALL), send_artifact
    ),
)
