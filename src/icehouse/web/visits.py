"""A visit: one request for a page, with what is known of who sends it, and the way to answer with a page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.response import Stream

from icehouse.api.caches import CacheView
from icehouse.db.caches import CacheRow
from icehouse.errors import Denied, IcehouseError, Unauthenticated
from icehouse.rules.access import Grant, Permission, check_access
from icehouse.rules.audit import Actor, Origin
from icehouse.rules.sessions import SessionSecret, parse_secret
from icehouse.services.access import Entry
from icehouse.services.sessions import Begun, Session
from icehouse.web.pages import Frame, Page, Renderer
from icehouse.web.parts import WebParts

PIECES: Final = b"<!-- pieces -->"
"""What a template holds in the place of what `Visit.stream` sends."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page. Views ask it who is there, and answer by `show` or `go`."""

    parts: WebParts
    renderer: Renderer
    path: str
    back: str
    """Where a login leads that begins here: to the same page, with its query; after a form, to the first page."""
    origin: Origin
    session: Session | None
    """`None`: nobody is logged in, or no longer."""
    secret: SessionSecret | None
    """Of the session that the browser believes to have."""

    @property
    def grant(self) -> Grant | None:
        """What the visitor may do; `None`: nobody is logged in."""
        return None if self.session is None else self.session.grant

    @property
    def actor(self) -> Actor:
        """Who does what is done here, for the audit log."""
        return self.origin.actor(self.grant)

    def require_session(self) -> Session:
        """The session.

        Raises:
            Unauthenticated: nobody is logged in. It is answered with the login, which leads back here.
        """
        if self.session is None:
            raise Unauthenticated("this page is for who is logged in")
        return self.session

    async def enter(self, cache_name: str, permission: Permission) -> Entry:
        """The cache, if the visitor may do that to it. The errors are those of `Access.enter_as`."""
        return await self.parts.access.enter_as(cache_name, permission, self.grant)

    def status_of(self, error: IcehouseError) -> int:
        """The status of an answer that tells of *error*, as the API's."""
        statuses = self.parts.statuses
        return statuses[next(kind for kind in type(error).__mro__ if kind in statuses)][0]

    def may(self, cache: CacheRow | CacheView, permission: Permission) -> bool:
        """Whether the visitor may do that to a cache that there is."""
        try:
            check_access(self.grant, permission, cache.name, is_public=cache.is_public)
        except (Denied, Unauthenticated):
            return False
        return True

    def show(
        self,
        page: Page,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        cookies: Iterable[Cookie] = (),
    ) -> Response[bytes]:
        """The answer that shows *page*."""
        return Response(
            self.renderer.render(page, self._frame()),
            status_code=status,
            headers={**(headers or {}), "cache-control": "no-store"},
            cookies=list(cookies),
            media_type="text/html",
        )

    def stream(self, page: Page, pieces: AsyncIterator[bytes]) -> Stream:
        """The answer that shows *page* with *pieces* of HTML in it, as they come, where its template says `PIECES`."""
        before, _, after = self.renderer.render(page, self._frame()).partition(PIECES)

        async def parts() -> AsyncGenerator[bytes]:
            yield before
            async for piece in pieces:
                yield piece
            yield after

        return Stream(parts(), status_code=200, headers={"cache-control": "no-store"}, media_type="text/html")

    def render(self, part: Page) -> bytes:
        """A part of a page, as HTML, that is sent by itself."""
        return self.renderer.render(part, self._frame())

    def _frame(self) -> Frame:
        return Frame(
            path=self.path,
            back=self.back,
            version=self.parts.version,
            public_url=self.parts.public_url,
            is_admin_of_all=self.grant is not None and self.grant.administers("*"),
            is_admin=self.grant is not None and bool(self.grant.admin_patterns),
            who=None if self.session is None else self.session.grant.description,
            form_key="" if self.session is None else self.session.form_key,
        )

    def go(self, location: str, *, cookies: Iterable[Cookie] = ()) -> Response[bytes]:
        """The answer that has the browser open another page: a path of this server, or the provider's address."""
        headers = {"location": location, "cache-control": "no-store"}
        return Response(b"", status_code=303, headers=headers, cookies=list(cookies), media_type="text/html")


async def make_visit(request: Request[Any, Any, Any], parts: WebParts, renderer: Renderer) -> Visit:
    """What a request says of itself, and the session that its cookie names."""
    known: object = request.scope["state"].get("visit")
    if isinstance(known, Visit):
        return known
    visit = _stranger(request, parts, renderer)
    if visit.secret is not None:
        session = await parts.sessions.find(visit.secret, visit.origin.address)
        visit = replace(visit, session=session)
    request.scope["state"]["visit"] = visit
    return visit


def find_visit(request: Request[Any, Any, Any], parts: WebParts, renderer: Renderer) -> Visit:
    """The visit, if it was made before what went wrong; else that of a stranger."""
    known: object = request.scope["state"].get("visit")
    return known if isinstance(known, Visit) else _stranger(request, parts, renderer)


def begin_cookie(parts: WebParts, begun: Begun, now: int) -> Cookie:
    """The cookie of a session that begins."""
    return make_cookie(parts, parts.cookie_name, begun.secret, max(0, begun.expires_at - now))


def end_cookie(parts: WebParts) -> Cookie:
    """The cookie that takes a session's cookie away."""
    return make_cookie(parts, parts.cookie_name, "", 0)


def make_cookie(parts: WebParts, name: str, value: str, seconds: int) -> Cookie:
    """A cookie that scripts cannot read, for this server alone."""
    return Cookie(
        key=name,
        value=value,
        max_age=seconds,
        path="/",
        secure=parts.is_secure,
        httponly=True,
        samesite="lax",
    )


def _stranger(request: Request[Any, Any, Any], parts: WebParts, renderer: Renderer) -> Visit:
    state = request.scope["state"]
    query = request.scope["query_string"].decode("latin-1")
    path = request.scope["raw_path"].decode("latin-1")
    back = "/" if request.method != "GET" else f"{path}?{query}" if query else path
    origin = Origin(state.get("client") or None, state.get("request_id") or "")
    return Visit(parts, renderer, path, back, origin, None, parse_secret(request.cookies.get(parts.cookie_name)))
