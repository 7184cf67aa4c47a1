"""All pages as one ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, cast

import structlog
from litestar import Litestar, Request, Response, get
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from icehouse.errors import IcehouseError, NotFound, RateLimited, StorageError, Unauthenticated, Unavailable
from icehouse.rules.sessions import parse_return
from icehouse.web import (
    access_page,
    activity_page,
    audit_page,
    cache_page,
    closure_page,
    collections_page,
    delete_page,
    difference_page,
    docs_page,
    file_pages,
    home_page,
    login_page,
    new_cache_page,
    path_pages,
    people_page,
    pin_pages,
    provider_page,
    retention_page,
    token_pages,
    traffic_page,
    trash_page,
    trust_pages,
)
from icehouse.web.assets import SEGMENT, Assets
from icehouse.web.error_page import ErrorPage
from icehouse.web.forms import MAX_FORM_BYTES, Form, read_form
from icehouse.web.login_page import make_login_page
from icehouse.web.pages import Renderer
from icehouse.web.parts import WebParts
from icehouse.web.visits import Visit, find_visit, make_visit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": _POLICY,
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "vary": "Accept, Cookie",
    }.items()
)
"""What goes with every answer: nothing in a page runs or loads anything but the assets, and no other page holds it."""

_FOREVER: Final = "public, max-age=31536000, immutable"
_SERVER_FAULT: Final = 500

_log = structlog.get_logger(__name__)


@get(f"/{SEGMENT}/{{name:str}}")
async def show_asset(name: FromPath[str], assets: NamedDependency[Assets]) -> Response[bytes]:
    """A style, a script or a picture."""
    asset = assets.find(name)
    if asset is None:
        raise NotFound("there is no such file; a newer version of the page may have another one")
    return Response(asset.body, media_type=asset.media_type, headers={"cache-control": _FOREVER})


ROUTES: Final = (
    home_page.show_home,
    login_page.show_login,
    login_page.log_in,
    login_page.log_out,
    provider_page.begin_login,
    provider_page.finish_login,
    cache_page.show_cache,
    new_cache_page.show_new_cache,
    new_cache_page.create_cache,
    path_pages.show_paths,
    path_pages.show_path,
    path_pages.show_referrers,
    path_pages.show_why,
    closure_page.show_closure,
    file_pages.show_root,
    file_pages.show_files,
    file_pages.download_root,
    file_pages.download_file,
    file_pages.show_log,
    file_pages.download_log,
    difference_page.show_difference,
    pin_pages.show_pins,
    pin_pages.show_pin,
    pin_pages.show_new_pin,
    pin_pages.show_change,
    pin_pages.put_pin,
    pin_pages.show_unpin,
    pin_pages.unpin,
    traffic_page.show_traffic,
    token_pages.show_tokens,
    token_pages.show_all_tokens,
    token_pages.show_new_token,
    token_pages.create_token,
    token_pages.revoke_token,
    access_page.show_access,
    access_page.stage_key,
    access_page.activate_key,
    access_page.retire_key,
    access_page.demand_signatures,
    trust_pages.show_new_trust,
    trust_pages.add_trust,
    trust_pages.remove_trust,
    activity_page.show_activity,
    activity_page.stream_activity,
    audit_page.show_audit,
    audit_page.export_audit,
    trash_page.show_trash,
    trash_page.restore_ticked,
    trash_page.restore_collection,
    delete_page.show_delete,
    delete_page.delete_path,
    retention_page.show_retention,
    retention_page.preview_retention,
    retention_page.plan_retention,
    retention_page.save_retention,
    collections_page.show_collections,
    collections_page.show_collection,
    collections_page.plan_collection,
    collections_page.run_collection,
    people_page.show_people,
    people_page.revoke_person,
    docs_page.show_docs,
    show_asset,
)
"""Every route of the web page. GET answers HEAD too."""


class Pages:
    """The ASGI application. Front hands it what a browser asks for."""

    def __init__(self, parts: WebParts) -> None:
        self._app = make_pages(parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope
        scope["state"]["is_head"] = is_head

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            elif is_head:
                message["body"] = b""
            await send(message)

        await self._app(cast("Any", inner), cast("Any", receive), cast("Any", send_with_headers))
        scope["path_template"] = inner.get("path_template")


def make_pages(parts: WebParts) -> Litestar:
    """The routes of the web page."""
    assets = Assets.load()
    renderer = Renderer(assets)

    async def provide_visit(request: Request[Any, Any, Any]) -> Visit:
        return await make_visit(request, parts, renderer)

    async def provide_form(request: Request[Any, Any, Any], visit: NamedDependency[Visit]) -> Form:
        return await read_form(request, visit)

    def provide_assets() -> Assets:
        return assets

    def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        return _answer_error(request, error, find_visit(request, parts, renderer))

    def refuse_excess(request: Request[Any, Any, Any]) -> None:
        refusal: object = request.scope["state"].get("refusal")
        if isinstance(refusal, RateLimited):
            raise refusal

    return Litestar(
        [*ROUTES],
        dependencies={
            "visit": Provide(provide_visit),
            "form": Provide(provide_form),
            "assets": Provide(provide_assets, sync_to_thread=False),
        },
        before_request=refuse_excess,
        request_max_body_size=MAX_FORM_BYTES,
        exception_handlers={IcehouseError: answer_error, HTTPException: answer_error, Exception: answer_error},
        openapi_config=None,
        logging_config=None,
        pdb_on_exception=False,
        debug=False,
    )


def _answer_error(request: Request[Any, Any, Any], error: Exception, visit: Visit) -> Response[bytes]:
    if isinstance(error, Unauthenticated):
        page = make_login_page(visit, parse_return(visit.back), is_asked_for=False)
        return visit.show(page, status=visit.parts.statuses[Unauthenticated][0])
    headers: dict[str, str] = {}
    if isinstance(error, RateLimited):
        headers["retry-after"] = str(error.retry_after_seconds)
    detail = str(error)
    if isinstance(error, HTTPException):
        status, title, detail = error.status_code, error.detail, ""
        headers |= {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    else:
        statuses = visit.parts.statuses
        kind = next((kind for kind in type(error).__mro__ if kind in statuses), None)
        status, title = (_SERVER_FAULT, "Internal error") if kind is None else statuses[kind]
    if status >= _SERVER_FAULT:
        is_known = isinstance(error, StorageError)
        _log.error("a page failed", path=request.url.path, error=str(error) if is_known else None, exc_info=error)
        is_brief = isinstance(error, Unavailable)
        detail = "The server's storage does not answer for now; try again soon." if is_brief else ""
    request_id = request.scope["state"].get("request_id") if status >= _SERVER_FAULT else None
    return visit.show(ErrorPage(title, detail, request_id), status=status, headers=headers)
