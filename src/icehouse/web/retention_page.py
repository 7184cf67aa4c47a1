"""What a cache keeps: the settings, and what others would let go, before they are saved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.caches import CacheConfigure, CacheView
from icehouse.api.collections import RetentionPreview
from icehouse.errors import InvalidFormat
from icehouse.rules.access import Permission
from icehouse.rules.quotas import CacheSettings, check_settings
from icehouse.rules.retention import Retention
from icehouse.services.access import Entry
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.collecting import collect
from icehouse.web.forms import Form
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_PATH: Final = f"{CACHE_PATH}/retention"
_DAY: Final = 86_400
_GIB: Final = 2**30
_MIB: Final = 2**20
_SMALL_BYTES: Final = 4 * _GIB  # below, sizes are in MiB
_YEAR: Final = 365
_TRASH_DAYS: Final = 90
_MAX_LETTERS: Final = 40
_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?")
_STEPS: Final = 100
_WIDTH: Final = 1000

IsSaved = Annotated[bool, QueryParameter(description="Whether the settings were saved just now.")]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A setting, as the form asks for it."""

    name: str
    label: str
    hint: str
    is_size: bool
    none: str
    """What no number means; empty: there must be one."""


_ASKED: Final = (
    _Asked(
        "keep_unused_seconds",
        "Keep what is not used for",
        "Counted from the last pull or push of the path, or of something that refers to it.",
        is_size=False,
        none="for ever",
    ),
    _Asked(
        "keep_pushed_seconds",
        "Keep what was pushed for",
        "Used or not. Most caches leave this open.",
        is_size=False,
        none="for ever",
    ),
    _Asked(
        "budget_bytes",
        "Size from which on the least recently used goes",
        "Stored bytes, each chunk counted once.",
        is_size=True,
        none="no budget",
    ),
    _Asked(
        "limit_bytes",
        "Size from which on pushes are refused",
        "Not below the size above. What is there can still be pulled.",
        is_size=True,
        none="no limit",
    ),
    _Asked(
        "trash_seconds",
        "Time in the trash",
        "How long what was let go can come back. Until it is purged it takes room on the disk.",
        is_size=False,
        none="",
    ),
)


@dataclass(frozen=True, slots=True)
class Field:
    """A number to type, and a slider beside it."""

    name: str
    label: str
    hint: str
    unit: str
    value: str
    """As it is typed; empty: no bound."""
    none: str
    low: int
    high: int
    """Of the slider, where it stands for no bound if there can be none."""
    step: int
    fault: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of the drawing of the cache's size."""

    kind: str
    x: int
    width: int


@dataclass(frozen=True, slots=True)
class RetentionPage(Page):
    """All that the template sees."""

    template = "retention.html"

    head: CacheHead
    fields: Sequence[Field]
    unit: str
    """Of sizes."""
    preview: RetentionPreview | None
    fault: str
    """What is wrong with the numbers together."""
    may_plan: bool
    is_saved: bool
    is_changed: bool
    """Whether the numbers are others than what the cache has."""
    now: int

    @property
    def title(self) -> str:
        """What is set here."""
        return f"Retention of {self.head.name}"

    @property
    def path(self) -> str:
        """The address of the page."""
        return f"/ui/caches/{self.head.name}/retention"

    @property
    def has_fault(self) -> bool:
        """Whether some number makes no sense."""
        return bool(self.fault) or any(field.fault for field in self.fields)

    @property
    def gone(self) -> int:
        """How many paths would go."""
        seen = self.preview
        return 0 if seen is None else seen.unused_paths + seen.old_paths + seen.budget_paths

    @property
    def freed_bytes(self) -> int:
        """What would leave the size of the cache."""
        return 0 if self.preview is None else self.preview.stored_bytes_before - self.preview.stored_bytes_after

    @property
    def bars(self) -> Sequence[Bar]:
        """The size of the cache: what stays, and what goes by which rule."""
        seen = self.preview
        if seen is None or not seen.stored_bytes_before:
            return ()
        sizes = (
            ("stays", seen.stored_bytes_after),
            ("budget", seen.budget_bytes),
            ("old", seen.old_bytes),
            ("unused", seen.unused_bytes),
        )
        found: list[Bar] = []
        x = 0
        for kind, size in sizes:
            width = round(size * _WIDTH / seen.stored_bytes_before)
            if width:
                found.append(Bar(kind, x, width))
            x += width
        return found


@get(_PATH)
async def show_retention(
    cache: FromPath[str], visit: NamedDependency[Visit], *, saved: IsSaved = False
) -> Response[Any]:
    """The settings as they are, and what they would let go."""
    entry = await visit.enter(cache, Permission.CONFIGURE)
    return visit.show(await _make_page(visit, entry, None, is_saved=saved))


@post(f"{_PATH}/preview", status_code=200)
async def preview_retention(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """What other settings would let go. Changes nothing. The script takes the part with the preview out of it."""
    entry = await visit.enter(cache, Permission.CONFIGURE)
    return visit.show(await _make_page(visit, entry, form))


@post(f"{_PATH}/plan", status_code=200)
async def plan_retention(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """The exact plan of a collection with these settings."""
    entry = await visit.enter(cache, Permission.CONFIGURE)
    await visit.enter(cache, Permission.DELETE)
    view = await visit.parts.caches.show_cache(entry.cache, visit.grant)
    settings, faults = _read_form(form, view)
    if settings is None or faults:
        return visit.show(await _make_page(visit, entry, form), status=visit.parts.statuses[InvalidFormat][0])
    is_other = _settings_of(view) != settings
    retention = _retention_of(settings) if is_other else None
    return await collect(visit, entry, is_dry_run=True, tab="Retention", retention=retention)


@post(_PATH, status_code=303)
async def save_retention(
    cache: FromPath[str], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """Save the settings. They hold from the next collection on."""
    entry = await visit.enter(cache, Permission.CONFIGURE)
    view = await visit.parts.caches.show_cache(entry.cache, visit.grant)
    settings, faults = _read_form(form, view)
    if settings is None or faults:
        return visit.show(await _make_page(visit, entry, form), status=visit.parts.statuses[InvalidFormat][0])
    request = CacheConfigure(
        keep_unused_seconds=settings.keep_unused_seconds,
        keep_pushed_seconds=settings.keep_pushed_seconds,
        budget_bytes=settings.budget_bytes,
        limit_bytes=settings.limit_bytes,
        trash_seconds=settings.trash_seconds,
    )
    await visit.parts.caches.configure_cache(entry.cache, request, visit.grant, visit.actor)
    return visit.go(f"/ui/caches/{entry.cache.name}/retention?saved=true")


async def _make_page(visit: Visit, entry: Entry, form: Form | None, *, is_saved: bool = False) -> RetentionPage:
    view = await visit.parts.caches.show_cache(entry.cache, visit.grant)
    kept = _settings_of(view)
    settings: CacheSettings | None = kept
    faults: Mapping[str, str] = {}
    if form is not None:
        settings, faults = _read_form(form, view)
    found = None if settings is None else await visit.parts.retention.preview(entry.cache, _retention_of(settings))
    return RetentionPage(
        head=make_head(visit, entry, "Retention"),
        fields=[_make_field(asked, view, form, faults.get(asked.name, "")) for asked in _ASKED],
        unit=_unit_of(view)[0],
        preview=found,
        fault=faults.get("", ""),
        may_plan=visit.may(entry.cache, Permission.DELETE),
        is_saved=is_saved,
        is_changed=settings != kept,
        now=visit.parts.clock(),
    )


def _settings_of(view: CacheView) -> CacheSettings:
    return CacheSettings(
        view.keep_unused_seconds, view.keep_pushed_seconds, view.budget_bytes, view.limit_bytes, view.trash_seconds
    )


def _retention_of(settings: CacheSettings) -> Retention:
    return Retention(settings.keep_unused_seconds, settings.keep_pushed_seconds, settings.budget_bytes)


def _unit_of(view: CacheView) -> tuple[str, int]:
    """In what sizes are typed: what fits those of the cache."""
    sizes = [size for size in (view.stored_bytes, view.budget_bytes, view.limit_bytes) if size is not None]
    return ("MiB", _MIB) if max(sizes) < _SMALL_BYTES else ("GiB", _GIB)


def _make_field(asked: _Asked, view: CacheView, form: Form | None, fault: str) -> Field:
    unit, factor = _unit_of(view) if asked.is_size else ("days", _DAY)
    number: int | None = getattr(view, asked.name)
    value = form.text(asked.name)[:_MAX_LETTERS] if form is not None else _render(number, factor)
    step = 1
    if asked.is_size:
        sizes = [size for size in (view.stored_bytes, view.budget_bytes, view.limit_bytes) if size is not None]
        step = max(1, 2 * max(sizes) // factor // _STEPS)
        high = step * (_STEPS + 1)
    else:
        high = _YEAR + 1 if asked.none else _TRASH_DAYS
    low = step if asked.none else 0
    return Field(asked.name, asked.label, asked.hint, unit, value, asked.none, low, high, step, fault)


def _render(number: int | None, factor: int) -> str:
    """A number in a unit, in full: what `_parse` gives back."""
    if number is None:
        return ""
    text = f"{Decimal(number) / factor:.12f}"
    return text.rstrip("0").rstrip(".")


def _parse(text: str, factor: int) -> int | None:
    """The number in its unit; `None`: it is none, or much too large."""
    return round(Decimal(text) * factor) if _NUMBER.fullmatch(text) else None


def _read_form(form: Form, view: CacheView) -> tuple[CacheSettings | None, Mapping[str, str]]:
    """The settings that were typed; or what is wrong, by field, and of all together under no name."""
    faults: dict[str, str] = {}
    numbers: dict[str, int | None] = {}
    unit, size_factor = _unit_of(view)
    if form.text("unit") not in {unit, ""}:
        size_factor = {"MiB": _MIB, "GiB": _GIB}.get(form.text("unit"), size_factor)
    for asked in _ASKED:
        text = form.text(asked.name)
        if not text and asked.none:
            numbers[asked.name] = None
            continue
        number = _parse(text, size_factor if asked.is_size else _DAY)
        if number is None or (asked.none and not number):
            empty = f", or nothing: {asked.none}" if asked.none else ""
            faults[asked.name] = f"Type a number{' above 0' if asked.none else ''}, such as 30{empty}."
        numbers[asked.name] = number
    if faults:
        return None, faults
    settings = CacheSettings(
        numbers["keep_unused_seconds"],
        numbers["keep_pushed_seconds"],
        numbers["budget_bytes"],
        numbers["limit_bytes"],
        numbers["trash_seconds"] or 0,
    )
    try:
        return check_settings(settings), {}
    except InvalidFormat as exc:
        return None, {"": str(exc)}
