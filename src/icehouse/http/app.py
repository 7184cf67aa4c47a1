"""The whole network face as one ASGI application."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, cast

import structlog
from litestar import Litestar, Request
from litestar.datastructures import ResponseHeader
from litestar.di import Provide
from litestar.exceptions import HTTPException

from icehouse.errors import IcehouseError
from icehouse.http import (
    activity_routes,
    audit_routes,
    cache_routes,
    collection_routes,
    content_routes,
    difference_routes,
    key_routes,
    log_routes,
    person_routes,
    pin_files,
    pin_routes,
    publish_routes,
    realisation_routes,
    revocation_routes,
    server_routes,
    token_routes,
    traffic_routes,
    trash_routes,
    trust_routes,
    upload_routes,
)
from icehouse.http.asgi import Application, Header, Receive, Scope, Send, SmallAnswer, answer, read_origin
from icehouse.http.bodies import ApiRequest
from icehouse.http.cache_files import CacheFiles, FileRoute
from icehouse.http.errors import answer_error
from icehouse.http.front import Front, is_of_api
from icehouse.http.hot import HotParts, HotRoutes
from icehouse.http.limits import Limits
from icehouse.http.parts import ServerParts
from icehouse.rules.audit import Origin
from icehouse.services.access import Credential
from icehouse.services.live_streams import LiveStreams

_log = structlog.get_logger(__name__)

ROUTES = (
    server_routes.show_server,
    server_routes.show_document,
    server_routes.tell_health,
    server_routes.tell_readiness,
    server_routes.show_metrics,
    activity_routes.show_activity,
    cache_routes.list_caches,
    cache_routes.create_cache,
    cache_routes.show_cache,
    cache_routes.configure_cache,
    cache_routes.measure_cache,
    traffic_routes.show_traffic,
    cache_routes.delete_cache,
    cache_routes.list_paths,
    cache_routes.show_one_path,
    cache_routes.restore_path,
    cache_routes.delete_path,
    cache_routes.explain_one_path,
    cache_routes.list_referrers,
    cache_routes.show_closure,
    cache_routes.find_chain,
    cache_routes.search_paths,
    publish_routes.find_missing,
    publish_routes.find_missing_chunks,
    publish_routes.receive_pack,
    publish_routes.register_nars,
    publish_routes.show_nar,
    publish_routes.publish_paths,
    publish_routes.promote_path,
    difference_routes.show_difference,
    pin_routes.list_pins,
    pin_routes.show_pin,
    pin_routes.put_pin,
    pin_routes.delete_pin,
    collection_routes.collect_cache,
    collection_routes.collect_all,
    collection_routes.list_cache_collections,
    collection_routes.list_collections,
    collection_routes.preview_retention,
    collection_routes.show_cache_collection,
    collection_routes.show_verification,
    token_routes.list_tokens,
    token_routes.search_tokens,
    token_routes.show_own_token,
    token_routes.create_token,
    token_routes.revoke_token,
    person_routes.list_people,
    person_routes.revoke_person,
    trust_routes.list_trust,
    trust_routes.add_trust,
    trust_routes.remove_trust,
    trust_routes.exchange_identity,
    audit_routes.list_changes,
    revocation_routes.revoke_publications,
    revocation_routes.list_revocations,
    revocation_routes.undo_revocation,
    key_routes.list_keys,
    key_routes.add_key,
    key_routes.activate_key,
    key_routes.retire_key,
    key_routes.show_signing_progress,
    *trash_routes.ROUTES,
)
"""Every route of the API."""

FILE_ROUTES: tuple[FileRoute, ...] = (
    *upload_routes.ROUTES,
    *log_routes.ROUTES,
    *realisation_routes.ROUTES,
    *content_routes.ROUTES,
    *pin_files.ROUTES,
)
"""Every file of a cache beside those of the hot routes, and all that stock Nix uploads. The first match counts."""


def make_app(parts: ServerParts, hot: HotParts, pages: Application) -> HotRoutes:
    """The application for HTTP requests: the hot routes, before what stands around all others, before these."""
    api = cast("Application", make_api(parts))
    parts.counters.add_routes(re.sub(r":[a-z]+}", "}", path) for route in ROUTES for path in route.paths)

    def choose(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        chosen = api if is_of_api(scope["raw_path"]) else pages
        return chosen(scope, receive, send)

    limits = Limits(
        choose,
        requests_per_second=parts.requests_per_second,
        failed_logins_per_minute=parts.failed_logins_per_minute,
        is_accepted=parts.access.is_accepted,
        clock=time.monotonic,
    )
    front = Front(
        limits,
        CacheFiles(parts, FILE_ROUTES),
        parts.counters,
        trusted_proxies=parts.trusted_proxies,
    )
    return HotRoutes(hot, front)


def provide_credential(request: Request[Any, Any, Any]) -> Credential:
    """What a request of the API says of who sends it."""
    return Credential(request.headers.get("authorization"), read_origin(request.scope["state"]).address)


def make_api(parts: ServerParts) -> Litestar:
    """The API alone."""

    def provide_parts() -> ServerParts:
        return parts

    def provide_origin(request: Request[Any, Any, Any]) -> Origin:
        return read_origin(request.scope["state"])

    return Litestar(
        [*ROUTES],
        dependencies={
            "parts": Provide(provide_parts, sync_to_thread=False),
            "origin": Provide(provide_origin, sync_to_thread=False),
            "credential": Provide(provide_credential, sync_to_thread=False),
        },
        request_class=ApiRequest,
        exception_handlers={IcehouseError: answer_error, HTTPException: answer_error, Exception: answer_error},
        openapi_config=None,
        response_headers=[ResponseHeader(name="cache-control", value="no-store")],
        logging_config=None,
        pdb_on_exception=False,
        debug=False,
    )


Parts = Callable[[], AbstractAsyncContextManager[tuple[ServerParts, HotParts, Application]]]


class Server:
    """The ASGI application of one worker process.

    Its parts are made when it starts, in the event loop that uses them, and are taken down when it stops.
    """

    __slots__ = ("_app", "_parts", "_streams")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._app: Application = _answer_too_early
        self._streams: LiveStreams | None = None

    def end_streams(self) -> None:
        """The server stops: what would go on for as long as somebody looks ends now."""
        if self._streams is not None:
            self._streams.end_all()

    def answer_now(self, raw_path: bytes, headers: Iterable[Header], *, peer: str, is_head: bool) -> SmallAnswer | None:
        """See `HotRoutes.answer_now`; `None` before the server has started."""
        app = self._app
        return app.answer_now(raw_path, headers, peer=peer, is_head=is_head) if isinstance(app, HotRoutes) else None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request, or follow the server's life."""
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        return self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                parts, hot, pages = await stack.enter_async_context(self._parts())
                self._app = make_app(parts, hot, pages)
                self._streams = parts.streams
            except Exception as exc:  # noqa: BLE001  whatever it is, the server is told that it cannot start
                _log.error("the server could not start", error=str(exc), exc_info=not isinstance(exc, IcehouseError))
                await send({"type": "lifespan.startup.failed", "message": ""})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def _answer_too_early(scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, 503, [(b"content-type", b"text/plain")], b"Not ready.\n", is_head=scope["method"] == "HEAD")
