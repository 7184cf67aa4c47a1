"""A collection, or the plan of one, on a page that grows while it goes on. It needs no script for that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from litestar import Response
from markupsafe import escape

from icehouse.api.collection import MarkReport, SweepReport
from icehouse.api.collections import CollectionResult, PinHold
from icehouse.rules.retention import Retention
from icehouse.services.access import Entry
from icehouse.services.collection_run import RunRequest
from icehouse.services.collections import read_events
from icehouse.web.cache_tabs import CacheHead, make_head
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_NAMED: Final = 20  # paths
_PINS: Final = 20


@dataclass(frozen=True, slots=True)
class CollectingPage(Page):
    """All that the template sees before anything is known."""

    template = "collecting.html"

    head: CacheHead
    is_dry_run: bool
    is_other: bool
    """Whether it goes by other settings than the cache has."""

    @property
    def title(self) -> str:
        """What is done."""
        return f"{'Plan' if self.is_dry_run else 'Collection'} of {self.head.name}"


@dataclass(frozen=True, slots=True)
class CollectedPart(Page):
    """The end of that page: what was done, or would be."""

    template = "collected.html"

    cache: str
    is_dry_run: bool
    may_run: bool
    """Whether the plan can be carried out as it is."""
    form_key: str
    marks: Sequence[MarkReport]
    sweeps: Sequence[SweepReport]
    pins: Sequence[PinHold]
    """Those that keep most."""
    pin_count: int

    def hidden(self, mark: MarkReport) -> int:
        """How many paths went, or would."""
        return sum(mark.hidden_by_reason.values())

    def reasons(self, mark: MarkReport) -> Mapping[str, int]:
        """The same by reason."""
        return mark.hidden_by_reason


async def collect(
    visit: Visit, entry: Entry, *, is_dry_run: bool, tab: str, retention: Retention | None = None
) -> Response[Any]:
    """The page of a collection that begins now. Closing it stops the collection."""
    request = RunRequest(entry.cache.name, is_dry_run, visit.actor, retention, _NAMED)
    events = await visit.parts.collections.start(request)
    page = CollectingPage(make_head(visit, entry, tab), is_dry_run, retention is not None)
    return visit.stream(page, _tell(visit, page, events))


async def _tell(visit: Visit, page: CollectingPage, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield b'<div role="log" aria-label="Progress"><ol class="steps">\n'
    ending = b'<p class="note bad" role="alert">It ended early. What was done by then is done; the log may say why.</p>'
    try:
        async for event in read_events(pieces):
            if event.progress is not None:
                yield f"<li>{escape(event.progress)}</li>\n".encode()
            elif event.error is not None:
                ending = f'<p class="note bad" role="alert">{escape(event.error)}</p>'.encode()
            elif event.result is not None:
                ending = visit.render(_make_part(visit, page, event.result))
    finally:
        await pieces.aclose()
    yield b"</ol></div>\n" + ending


def _make_part(visit: Visit, page: CollectingPage, result: CollectionResult) -> CollectedPart:
    pins = sorted(result.pins, key=lambda pin: -pin.stored_bytes)
    session = visit.require_session()
    return CollectedPart(
        cache=page.head.name,
        is_dry_run=page.is_dry_run,
        may_run=page.is_dry_run and not page.is_other,
        form_key=session.form_key,
        marks=result.report.marks,
        sweeps=result.report.sweeps,
        pins=list(islice(pins, _PINS)),
        pin_count=len(pins),
    )
