"""A visit: one request for a page, with what is known of who sends it, and the way to answer with a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response

from icehouse.rules.access import Grant, Permission
from icehouse.services.access import Credential, Entry
from icehouse.web.pages import Frame, Page, Renderer
from icehouse.web.parts import WebParts


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page. Views ask it who is there, and answer by `show`."""

    parts: WebParts
    renderer: Renderer
    path: str
    credential: Credential

    async def enter(self, cache_name: str, permission: Permission) -> Entry:
        """The cache, if the visitor may do that to it. The errors are those of `Access.enter`."""
        return await self.parts.access.enter(cache_name, permission, self.credential)

    async def grant(self) -> Grant | None:
        """What the visitor may do; `None`: nobody is logged in."""
        return await self.parts.access.identify(self.credential)

    def show(self, page: Page, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
        """The answer that shows *page*."""
        frame = Frame(path=self.path, version=self.parts.version, public_url=self.parts.public_url)
        return Response(
            self.renderer.render(page, frame),
            status_code=status,
            headers={**(headers or {}), "cache-control": "no-store"},
            media_type="text/html",
        )


def make_visit(request: Request[Any, Any, Any], parts: WebParts, renderer: Renderer) -> Visit:
    """What a request says of itself."""
    credential = Credential(request.headers.get("authorization"), request.scope["state"]["client"])
    return Visit(parts, renderer, request.scope["path"], credential)
