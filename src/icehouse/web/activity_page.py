"""What the server does at this moment: a page, and a stream that keeps it up to date."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

import structlog
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Stream

from icehouse.api.activity import ActivityView, PushView
from icehouse.errors import IcehouseError
from icehouse.services.activity import check_may_see_activity
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_PATH: Final = "/ui/activity"
_EVENTS: Final = "text/event-stream"

LOOK_SECONDS: Final = 2.0
"""From one look to the next. Nothing is sent if nothing changed."""

SILENT_LOOKS: Final = 7
"""After so many looks without news a comment is sent, by which a dead connection is noticed, and proxies stay awake."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActivityNow(Page):
    """All that the template of the part sees that is renewed."""

    template = "activity_now.html"

    view: ActivityView

    @property
    def title(self) -> str:
        """What it shows."""
        return "Activity"

    def tell_uploads(self, push: PushView) -> str:
        """What arrives and what waits, in a few words."""
        arriving = [upload for upload in push.uploads if upload.received_bytes]
        packs = sum(upload.file is None for upload in arriving)
        counts = ((packs, "pack"), (len(arriving) - packs, "NAR"))
        parts = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
        waiting = len(push.uploads) - len(arriving)
        return ", ".join([*parts, *([f"{waiting} waiting"] if waiting else [])])


@dataclass(frozen=True, slots=True)
class ActivityPage(ActivityNow):
    """The page around that part."""

    template = "activity.html"


@get(_PATH)
async def show_activity(visit: NamedDependency[Visit]) -> Response[Any]:
    """What is under way."""
    return visit.show(ActivityPage(await visit.parts.activity.show(visit.require_session().grant)))


@get(f"{_PATH}/stream")
async def stream_activity(request: Request[Any, Any, Any], visit: NamedDependency[Visit]) -> Response[Any]:
    """The same as server-sent events, each with the part that changed; once only, unless the client asks for events."""
    session = visit.require_session()
    check_may_see_activity(session.grant)
    if _EVENTS not in request.headers.get("accept", ""):
        return visit.show(ActivityNow(await visit.parts.activity.show(session.grant)))
    visit.parts.streams.check_room(session.id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return Stream(_events(visit, session.id), media_type=_EVENTS, headers=headers)


async def _events(visit: Visit, session_id: int) -> AsyncGenerator[bytes]:
    """Events until the session is over, the server stops or the browser leaves."""
    parts = visit.parts
    shown, silent = b"", 0
    try:
        with parts.streams.open(session_id):
            while visit.secret is not None:
                grant = await parts.sessions.find_grant(visit.secret)
                if grant is None:
                    break
                part = visit.render(ActivityNow(await parts.activity.show(grant)))
                silent = silent + 1 if part == shown else 0
                if not silent:
                    yield _event("now", part)
                elif silent % SILENT_LOOKS == 0:
                    yield b":\n\n"
                shown = part
                if not await parts.streams.wait(LOOK_SECONDS):
                    return
    except IcehouseError as exc:
        _log.warning("a stream ended", error=str(exc))
        return
    yield _event("over", b"")


def _event(name: str, data: bytes) -> bytes:
    lines = b"".join(b"data: %b\n" % line for line in data.splitlines()) or b"data:\n"
    return b"event: %b\n%b\n" % (name.encode(), lines)
