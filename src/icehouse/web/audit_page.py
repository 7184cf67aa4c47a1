"""The audit log: who changed what, from where, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from icehouse.api.audit import AuditEntry
from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.rules.access import check_may_read_audit
from icehouse.rules.audit import Action, AuditFilter, AuditPlace
from icehouse.services.audit import MAX_ENTRIES_A_PAGE
from icehouse.web.audit_sentences import Value, Words, find_values, tell
from icehouse.web.links import Asked, link
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

AUDIT_PATH: Final = "/ui/audit"

_ENTRIES_A_PAGE: Final = 50
_PLACE: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")

First = Annotated[str, QueryParameter(name="from")]


@dataclass(frozen=True, slots=True)
class Line:
    """An entry, as the page shows it."""

    entry: AuditEntry
    words: Sequence[Words]
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class AuditLogPage(Page):
    """All that the template sees."""

    template = "audit.html"

    lines: Sequence[Line]
    kinds: Mapping[str, Sequence[str]]
    """The actions, by the beginning that they share."""
    asked: Mapping[str, str]
    """The fields of the filter."""
    export: str
    """Where the same entries are as JSON."""
    older: str | None
    is_full: bool
    is_first: bool
    fault: str | None = None

    @property
    def title(self) -> str:
        """What the page lists."""
        return "Audit log"


@get(AUDIT_PATH)
async def show_audit(
    visit: NamedDependency[Visit],
    cache: Asked = "",
    action: Asked = "",
    by: Asked = "",
    first: First = "",
    to: Asked = "",
    before: Asked = "",
) -> Response[Any]:
    """The changes that concern no caches beyond the visitor's own, the newest first."""
    grant = check_may_read_audit(visit.require_session().grant)
    asked = {"cache": cache.strip(), "action": action, "by": by.strip(), "from": first, "to": to}
    query = {name: text for name, text in asked.items() if text}
    export = link(f"{AUDIT_PATH}/export", query)
    try:
        found = await visit.parts.audit.look_back(
            _parse_filter(asked), grant, before=_parse_place(before), limit=_ENTRIES_A_PAGE
        )
    except InvalidFormat as exc:
        page = AuditLogPage((), _kinds(), asked, export, None, is_full=False, is_first=True, fault=str(exc))
        return visit.show(page, status=visit.parts.statuses[InvalidFormat][0])
    place = found.older
    older = None if place is None else link(AUDIT_PATH, {**query, "before": f"{place.at}-{place.id}"})
    lines = [Line(entry, tell(entry), find_values(entry)) for entry in found.entries]
    return visit.show(AuditLogPage(lines, _kinds(), asked, export, older, is_full=found.is_full, is_first=not before))


@get(f"{AUDIT_PATH}/export")
async def export_audit(
    visit: NamedDependency[Visit],
    cache: Asked = "",
    action: Asked = "",
    by: Asked = "",
    first: First = "",
    to: Asked = "",
) -> Response[Any]:
    """The newest of these changes as a file, in the form that ``GET /api/v1/audit`` gives them."""
    grant = check_may_read_audit(visit.require_session().grant)
    wanted = _parse_filter({"cache": cache.strip(), "action": action, "by": by.strip(), "from": first, "to": to})
    page = await visit.parts.audit.list_changes(wanted, grant, limit=MAX_ENTRIES_A_PAGE)
    headers = {"content-disposition": 'attachment; filename="icehouse-audit.json"', "cache-control": "no-store"}
    return Response(msgspec.json.encode(page), media_type="application/json", headers=headers)


def _kinds() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for action in Action:
        kinds.setdefault(action.partition(".")[0], []).append(action)
    return kinds


def _parse_filter(asked: Mapping[str, str]) -> AuditFilter:
    return AuditFilter(
        cache_name=asked["cache"] or None,
        action=asked["action"] or None,
        by=asked["by"] or None,
        since=_parse_day("from", asked["from"], 0),
        until=_parse_day("to", asked["to"], 1),
    )


def _parse_day(name: str, text: str, later: int) -> int | None:
    """The beginning of a day, UTC, or of one that is so many days later."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text) + timedelta(days=later)
    except (ValueError, OverflowError) as exc:
        raise InvalidFormat(f"{name}: {excerpt(text)}: expected a day such as 2026-11-30") from exc
    return max(0, int(datetime.combine(day, time(), UTC).timestamp()))


def _parse_place(text: str) -> AuditPlace | None:
    match = _PLACE.fullmatch(text)
    if text and match is None:
        raise InvalidFormat(f"before: {excerpt(text)}: expected the place that a link of this page names")
    return None if match is None else AuditPlace(int(match[1]), int(match[2]))
