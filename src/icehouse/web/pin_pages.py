"""A cache's pins: listed, shown with their revisions, put, and removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.pins import PinDetails, PinPut, PinView, RevisionView
from icehouse.errors import Conflict, InvalidFormat, NotFound, TooLarge
from icehouse.rules.access import Permission
from icehouse.rules.pins import MAX_KEEP_DAYS, MAX_KEEP_REVISIONS, describe_keep
from icehouse.services.access import Entry
from icehouse.services.pins import REVISIONS_A_PAGE
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.path_links import PathLink, link_to
from icehouse.web.visits import Visit

_TAB: Final = "Pins"
_PINS_A_PAGE: Final = 100
_MAX_BEFORE: Final = 2**53
_MAX_DIGITS: Final = 15

Text = Annotated[str, QueryParameter(max_length=300)]


@dataclass(frozen=True, slots=True)
class ListedPin:
    """A pin as the list shows it."""

    pin: PinView
    page: str
    link: PathLink
    """What it stands for."""

    @property
    def keeps(self) -> str:
        """Which revisions it keeps."""
        return describe_keep(days=self.pin.keep_days, revisions=self.pin.keep_revisions)


@dataclass(frozen=True, slots=True)
class PinsPage(Page):
    """All that the template sees."""

    template = "pins.html"

    head: CacheHead
    pins: Sequence[ListedPin]
    compare_path: str
    """Of the form that compares two paths."""
    new_path: str | None
    """Of the form for a new pin; `None`: the visitor may not pin."""
    next_path: str | None
    """Of the list's next page."""
    is_first: bool

    @property
    def title(self) -> str:
        """What the page lists."""
        return f"Pins of {self.head.name}"


@dataclass(frozen=True, slots=True)
class ListedRevision:
    """A revision as its pin's page shows it."""

    revision: RevisionView
    link: PathLink
    difference_path: str | None
    """Of the page that compares it with the one before; `None`: that is not there, or one of them is in the trash."""


@dataclass(frozen=True, slots=True)
class PinPage(Page):
    """All that the template sees."""

    template = "pin.html"

    head: CacheHead
    pin: PinDetails
    link: PathLink
    """What it stands for."""
    revisions: Sequence[ListedRevision]
    older_path: str | None
    change_path: str | None
    """Of the form that changes the pin; `None`: the visitor may not."""
    unpin_path: str
    resolve_command: str
    text_url: str
    """Where the newest path is to be had as text, and below it the artifacts."""

    @property
    def title(self) -> str:
        """The pin's name."""
        return f"{self.pin.name} · {self.head.name}"

    @property
    def keeps(self) -> str:
        """Which revisions it keeps."""
        return describe_keep(days=self.pin.keep_days, revisions=self.pin.keep_revisions)


@dataclass(frozen=True, slots=True)
class PinFormPage(Page):
    """All that the template sees."""

    template = "pin_form.html"

    head: CacheHead
    action: str
    name: str
    store_path: str
    artifacts: str
    """One a line."""
    keep: str
    """``all``, ``revisions`` or ``days``."""
    keep_revisions: str
    keep_days: str
    now: PinView | None
    """The pin that is changed, as it is; `None`: it is a new one."""
    pin_path: str
    """Of the page of that pin, or of the list."""
    fault: str | None = None
    is_taken: bool = False
    """Whether somebody wanted a new pin, and there is one of that name."""
    max_revisions: int = MAX_KEEP_REVISIONS
    max_days: int = MAX_KEEP_DAYS

    @property
    def title(self) -> str:
        """What the page is for."""
        return "New pin" if self.now is None else f"Change {self.name}"


@dataclass(frozen=True, slots=True)
class UnpinPage(Page):
    """All that the template sees."""

    template = "unpin.html"

    head: CacheHead
    pin: PinView
    pin_path: str
    action: str

    @property
    def title(self) -> str:
        """What the page asks."""
        return f"Remove {self.pin.name}"


@get(f"{CACHE_PATH}/pins")
async def show_pins(cache: FromPath[str], visit: NamedDependency[Visit], after: Text = "") -> Response[Any]:
    """The pins of a cache, by name."""
    entry = await visit.enter(cache, Permission.PULL)
    pins = await visit.parts.pins.page_pins(entry.cache, after=after, limit=_PINS_A_PAGE + 1)
    shown = pins[:_PINS_A_PAGE]
    page = PinsPage(
        make_head(visit, entry, _TAB),
        [ListedPin(each, pin_path(cache, each.name), link_to(cache, each.newest.store_path)) for each in shown],
        f"/ui/caches/{cache}/compare",
        f"/ui/caches/{cache}/new-pin" if visit.may(entry.cache, Permission.PIN) else None,
        f"{_list_path(cache)}?{urlencode({'after': shown[-1].name})}" if len(pins) > len(shown) else None,
        is_first=not after,
    )
    return visit.show(page)


@get(f"{CACHE_PATH}/pins/{{pin:str}}")
async def show_pin(
    cache: FromPath[str],
    pin: FromPath[str],
    visit: NamedDependency[Visit],
    before: Annotated[int | None, QueryParameter(ge=1, le=_MAX_BEFORE)] = None,
) -> Response[Any]:
    """A pin with its revisions, the newest first."""
    entry = await visit.enter(cache, Permission.PULL)
    details = await visit.parts.pins.show_pin(entry.cache, pin, before=before)
    shown, is_more = _cut_page(details)
    page = PinPage(
        make_head(visit, entry, _TAB),
        details,
        link_to(cache, details.newest.store_path),
        [
            ListedRevision(
                revision, link_to(cache, revision.store_path), _difference(cache, details.revisions[index : index + 2])
            )
            for index, revision in enumerate(shown)
        ],
        f"{pin_path(cache, pin)}?before={shown[-1].number}" if is_more else None,
        f"{pin_path(cache, pin)}/change" if visit.may(entry.cache, Permission.PIN) else None,
        f"{pin_path(cache, pin)}/unpin",
        f"icehouse resolve {cache} {pin}",
        f"/{cache}/pin/{quote(pin)}",
    )
    return visit.show(page)


@get(f"{CACHE_PATH}/new-pin")
async def show_new_pin(
    cache: FromPath[str], visit: NamedDependency[Visit], name: Text = "", path: Text = ""
) -> Response[Any]:
    """The form for a new pin."""
    entry = await visit.enter(cache, Permission.PIN)
    return visit.show(_make_form(visit, entry, name, None, store_path=path))


@get(f"{CACHE_PATH}/pins/{{pin:str}}/change")
async def show_change(
    cache: FromPath[str], pin: FromPath[str], visit: NamedDependency[Visit], path: Text = ""
) -> Response[Any]:
    """The form that puts a pin on another path, or changes what it keeps."""
    entry = await visit.enter(cache, Permission.PIN)
    now = await visit.parts.pins.show_pin(entry.cache, pin)
    return visit.show(_make_form(visit, entry, pin, now, store_path=path))


@post(f"{CACHE_PATH}/pins", status_code=303)
async def put_pin(cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]) -> Response[Any]:
    """Make a pin, move it, or change what it keeps."""
    entry = await visit.enter(cache, Permission.PIN)
    pins = visit.parts.pins
    name = form.text("name")
    seen = _number(form, "seen") or 0
    try:
        await pins.put_pin(entry.cache, name, _read_form(form), visit.actor, seen=seen)
    except (InvalidFormat, TooLarge, NotFound, Conflict) as exc:
        status = visit.status_of(exc)
        try:
            now = await pins.show_pin(entry.cache, name)
        except NotFound:
            now = None
        return visit.show(_answer_fault(visit, entry, form, now, str(exc)), status=status)
    return visit.go(pin_path(cache, name))


@get(f"{CACHE_PATH}/pins/{{pin:str}}/unpin")
async def show_unpin(cache: FromPath[str], pin: FromPath[str], visit: NamedDependency[Visit]) -> Response[Any]:
    """Ask whether a pin is to be removed."""
    entry = await visit.enter(cache, Permission.PIN)
    now = await visit.parts.pins.show_pin(entry.cache, pin)
    own = pin_path(cache, pin)
    return visit.show(UnpinPage(make_head(visit, entry, _TAB), now, own, f"{own}/unpin"))


@post(f"{CACHE_PATH}/pins/{{pin:str}}/unpin", status_code=303)
async def unpin(
    cache: FromPath[str], pin: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Remove a pin with all its revisions."""
    del form  # It was checked, which is all that is needed of it.
    entry = await visit.enter(cache, Permission.PIN)
    await visit.parts.pins.delete_pin(entry.cache, pin, visit.actor)
    return visit.go(_list_path(cache))


def pin_path(cache_name: str, name: str) -> str:
    """The path of a pin's page."""
    return f"{_list_path(cache_name)}/{quote(name, safe='')}"


def _list_path(cache_name: str) -> str:
    return f"/ui/caches/{cache_name}/pins"


def _cut_page(details: PinDetails) -> tuple[list[RevisionView], bool]:
    """The revisions to show, and whether there are more: half of a full page, so that each knows the one before it."""
    if not details.has_older:
        return details.revisions, False
    return details.revisions[: REVISIONS_A_PAGE // 2], True


def _difference(cache_name: str, revisions: Sequence[RevisionView]) -> str | None:
    """Where the first of *revisions* is compared with the second."""
    if len(revisions) == 1 or not all(each.is_visible for each in revisions[:2]):
        return None
    newer, older = revisions[:2]
    query = urlencode({"from": older.store_path, "to": newer.store_path})
    return f"/ui/caches/{cache_name}/compare?{query}"


def _make_form(visit: Visit, entry: Entry, name: str, now: PinView | None, *, store_path: str = "") -> PinFormPage:
    """The form as it is opened."""
    cache_name = entry.cache.name
    days, revisions = (None, None) if now is None else (now.keep_days, now.keep_revisions)
    return PinFormPage(
        make_head(visit, entry, _TAB),
        _list_path(cache_name),
        name,
        store_path or ("" if now is None else now.newest.store_path),
        "" if now is None else "\n".join(now.newest.artifacts),
        "days" if days else "revisions" if revisions else "all",
        str(revisions or 5),
        str(days or 30),
        now,
        _list_path(cache_name) if now is None else pin_path(cache_name, name),
    )


def _answer_fault(visit: Visit, entry: Entry, form: Form, now: PinDetails | None, fault: str) -> PinFormPage:
    """The form as it was sent. With that of a pin that changed meanwhile, what it is now can be changed."""
    cache_name, name = entry.cache.name, form.text("name")
    return PinFormPage(
        make_head(visit, entry, _TAB),
        _list_path(cache_name),
        name,
        form.text("store_path"),
        form.text("artifacts"),
        form.text("keep"),
        form.text("keep_revisions"),
        form.text("keep_days"),
        now,
        _list_path(cache_name) if now is None else pin_path(cache_name, name),
        fault,
        is_taken=now is not None and not _number(form, "seen"),
    )


def _read_form(form: Form) -> PinPut:
    keep = form.text("keep")
    if keep not in {"all", "revisions", "days"}:
        raise InvalidFormat("keeps: expected all, revisions or days")
    days, revisions = _number(form, "keep_days"), _number(form, "keep_revisions")
    if keep == "days" and days is None:
        raise InvalidFormat("keeps: expected a number of days")
    if keep == "revisions" and revisions is None:
        raise InvalidFormat("keeps: expected a number of revisions")
    return PinPut(
        store_path=form.text("store_path"),
        artifacts=[line.strip() for line in form.text("artifacts").splitlines() if line.strip()],
        keep_days=days if keep == "days" else None,
        keep_revisions=revisions if keep == "revisions" else None,
        keep_forever=keep == "all",
    )


def _number(form: Form, field: str) -> int | None:
    text = form.text(field)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None
