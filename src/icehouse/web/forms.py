"""Forms that browsers send, and the proof that a page of ours sent them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from litestar import Request
from litestar.exceptions import InternalServerException

from icehouse.errors import Denied, InvalidFormat, TooLarge, Unsupported
from icehouse.web.parts import WebParts
from icehouse.web.visits import Visit

MAX_FORM_BYTES: Final = 64 * 1024
LOGIN_PATH: Final = "/login"

_MAX_FIELDS: Final = 200
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_KEY_FIELD: Final = "form_key"


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form that was sent by a page of ours, for the session that the visit is of."""

    fields: Mapping[str, list[str]]

    def text(self, name: str) -> str:
        """The value of a field, without spaces around it; empty if it is not there."""
        return self.fields.get(name, [""])[0].strip()

    def texts(self, name: str) -> list[str]:
        """All values of a field that may be there more than once, as boxes that are ticked."""
        return self.fields.get(name, [])


async def read_form(request: Request[Any, Any, Any], visit: Visit) -> Form:
    """The form in a POST. Every handler of POST takes one, which is what defends it.

    A browser tells where a form comes from, and other sites cannot read the key in ours.

    Raises:
        Unauthenticated: nobody is logged in, and it is not the login.
        Denied: another site sent it, or it belongs to another session.
        InvalidFormat: it is malformed.
        TooLarge: it has more than `MAX_FORM_BYTES`.
        Unsupported: it is no form.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > MAX_FORM_BYTES:
        raise TooLarge(f"a form of {announced[:20]} bytes; at most {MAX_FORM_BYTES} are read")
    _check_origin(request, visit.parts)
    is_login = request.scope["path"] == LOGIN_PATH
    session = None if is_login else visit.require_session()
    if request.content_type[0] != _FORM_TYPE:
        raise Unsupported(f"expected a form, {_FORM_TYPE}")
    try:
        body = (await request.body()).decode()
        fields = parse_qs(body, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except InternalServerException as exc:
        raise InvalidFormat("the form broke off before its end") from exc
    except ValueError as exc:
        raise InvalidFormat("the form is malformed") from exc
    form = Form(fields)
    if session is not None and not hmac.compare_digest(form.text(_KEY_FIELD).encode(), session.form_key.encode()):
        raise Denied("this form belongs to an earlier login; open the page again")
    return form


def _check_origin(request: Request[Any, Any, Any], parts: WebParts) -> None:
    """Refuse what another site sends. What names no origin is no browser, or one without the cookie's SameSite too."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    if origin is not None:
        is_ours = origin == parts.public_url or (origin != "null" and _host(origin) == request.headers.get("host"))
    else:
        is_ours = site in {None, "same-origin"}
    if not is_ours:
        raise Denied("this form was sent by another site")


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None
