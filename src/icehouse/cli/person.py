"""``icehouse person``: who logged in by a provider, and the end of what they may do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out

if TYPE_CHECKING:
    from icehouse.api.people import PersonView

app = typer.Typer(
    help="List who logged in by a provider, and end their sessions and tokens.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Which people."""

    search: str | None = None


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(
    search: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only those with this in their name or e-mail address.")
    ] = None,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """List people who logged in by a provider, with their roles, sessions and tokens."""
    carry_out(run_list, ListOptions(search), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: ListOptions, services: Services, printer: Printer) -> None:
    """List people."""
    people: list[PersonView] = []
    query = {"limit": str(_PAGE)} | ({} if options.search is None else {"search": options.search})
    async with services.server(services.default_login()) as server:
        has_more = True
        while has_more:
            page = await server.list_people(query)
            people += page.people
            has_more = page.has_more
            query["before"] = str(people[-1].id) if people else "1"
    rows = [
        (
            str(person.id),
            person.name,
            person.email or "",
            " ".join(f"{','.join(role.permissions)}:{role.cache_pattern}" for role in person.roles),
            time_text(person.last_login_at),
            str(person.sessions),
            str(person.tokens),
        )
        for person in people
    ]
    printer.table(("ID", "NAME", "E-MAIL", "ROLES", "LAST LOGIN", "SESSIONS", "TOKENS"), rows, people)


@dataclass(frozen=True, slots=True)
class RevokeOptions:
    """Whose sessions and tokens end."""

    person_id: int
    keep_tokens: bool = False


@app.command(epilog=EXIT_CODES_HELP)
def revoke(
    person_id: Annotated[int, typer.Argument(metavar="ID", help="Their number, from `icehouse person list`.")],
    *,
    keep_tokens: Annotated[
        bool, typer.Option("--keep-tokens", help="End their sessions only, not the tokens that they made.")
    ] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """End all sessions of a person, and the tokens that they made for themselves, at once and for good.

    They can log in again as long as their provider lets them and a group of theirs has a role.
    """
    carry_out(run_revoke, RevokeOptions(person_id, keep_tokens), Printer(is_json=json, is_quiet=quiet))


async def run_revoke(options: RevokeOptions, services: Services, printer: Printer) -> None:
    """Revoke what a person has."""
    async with services.server(services.default_login()) as server:
        ended = await server.revoke_person(options.person_id, keep_tokens=options.keep_tokens)
    printer.result(f"Ended {ended.sessions} sessions and {ended.tokens} tokens of person {options.person_id}.", ended)
