"""People who logged in by a provider, for who administers the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from icehouse.api.people import PersonView
from icehouse.errors import InvalidFormat
from icehouse.rules.sessions import parse_return
from icehouse.web.forms import Form
from icehouse.web.links import Asked, Before, link
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

PEOPLE_PATH: Final = "/ui/people"

_PEOPLE_A_PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class PeoplePage(Page):
    """All that the template sees."""

    template = "people.html"

    people: Sequence[PersonView]
    has_provider: bool
    search: str
    here: str
    """This page, with its filter."""
    older: str | None
    is_first: bool
    fault: str | None = None

    @property
    def title(self) -> str:
        """What the page lists."""
        return "People"


@get(PEOPLE_PATH)
async def show_people(visit: NamedDependency[Visit], search: Asked = "", before: Before = None) -> Response[Any]:
    """Those who logged in, the newest first."""
    grant = visit.require_session().grant
    wanted = search.strip()
    has_provider = visit.parts.logins is not None
    query = {"search": wanted} if wanted else {}
    here = link(PEOPLE_PATH, query if before is None else {**query, "before": str(before)})
    try:
        found = await visit.parts.people.list_people(grant, search=wanted or None, before=before, limit=_PEOPLE_A_PAGE)
    except InvalidFormat as exc:
        page = PeoplePage((), has_provider, wanted, here, None, is_first=True, fault=str(exc))
        return visit.show(page, status=visit.parts.statuses[InvalidFormat][0])
    older = link(PEOPLE_PATH, {**query, "before": str(found.people[-1].id)}) if found.has_more else None
    return visit.show(PeoplePage(found.people, has_provider, wanted, here, older, is_first=before is None))


@post(f"{PEOPLE_PATH}/{{person_id:int}}/revoke", status_code=303)
async def revoke_person(
    person_id: FromPath[int], visit: NamedDependency[Visit], form: NamedDependency[Form]
) -> Response[Any]:
    """End the sessions of a person and, unless they are to stay, the tokens that they made."""
    keep = form.text("keep_tokens") == "yes"
    await visit.parts.people.revoke_person(person_id, visit.grant, visit.actor, keep_tokens=keep)
    back = form.text("back")
    return visit.go(parse_return(back) if back else PEOPLE_PATH)
