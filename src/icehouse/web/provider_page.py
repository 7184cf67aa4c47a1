"""Logging in by the provider: the way there, and the way back."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency

from icehouse.errors import NotFound, Unauthenticated
from icehouse.rules.login_secrets import MAX_LOGIN_SECONDS
from icehouse.rules.sessions import SECRET_BYTES, make_secret, parse_return, parse_secret
from icehouse.services.provider_logins import CALLBACK_PATH, ProviderLogins
from icehouse.web.login_page import Next, make_login_page
from icehouse.web.parts import WebParts
from icehouse.web.visits import Visit, begin_cookie, make_cookie

_SEPARATOR: Final = "."
_FAILED: Final = "The login failed, was begun in another browser, or took too long. Try again."


@get("/login/provider")
async def begin_login(visit: NamedDependency[Visit], *, next_: Next = None) -> Response[Any]:
    """Send the browser to the provider, with a cookie by which it is known when it comes back."""
    parts = visit.parts
    secret = make_secret(parts.draw(SECRET_BYTES))
    address = await _require_provider(parts).begin(secret)
    # The page to come back to is checked again then: whoever plants a cookie must gain nothing.
    value = f"{secret}{_SEPARATOR}{parse_return(next_).encode().hex()}"
    return visit.go(address, cookies=[make_cookie(parts, parts.login_cookie_name, value, MAX_LOGIN_SECONDS)])


@get(CALLBACK_PATH)
async def finish_login(request: Request[Any, Any, Any], visit: NamedDependency[Visit]) -> Response[Any]:
    """Begin a session for who comes back from the provider."""
    parts = visit.parts
    logins = _require_provider(parts)
    text, _, target = request.cookies.get(parts.login_cookie_name, "").partition(_SEPARATOR)
    forget = make_cookie(parts, parts.login_cookie_name, "", 0)
    answer = {name: request.query_params[name] for name in request.query_params}
    try:
        begun = await logins.finish(answer, parse_secret(text), visit.origin, before=visit.secret)
    except Unauthenticated:
        page = make_login_page(visit, _read_target(target), failure=_FAILED)
        return visit.show(page, status=400, cookies=[forget])
    return visit.go(_read_target(target), cookies=[begin_cookie(parts, begun, parts.clock()), forget])


def _require_provider(parts: WebParts) -> ProviderLogins:
    if parts.logins is None:
        raise NotFound("this server has no provider to log in by; use a token")
    return parts.logins


def _read_target(text: str) -> str:
    try:
        return parse_return(bytes.fromhex(text).decode())
    except ValueError:
        return "/"
