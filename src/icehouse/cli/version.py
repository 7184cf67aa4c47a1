"""``icehouse version``: the versions of client and server, and whether they understand each other."""

from dataclasses import dataclass
from typing import Annotated

import typer

from icehouse import __version__
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound


@dataclass(frozen=True, slots=True)
class VersionOptions:
    """A server's address; `None`: the one that is logged in to, if any."""

    server: str | None = None


def version(
    server: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="A server's address. The one that you are logged in to, if none."),
    ] = None,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show the versions of this client and of the server, and whether they understand each other.

    With --json: client, server_url, server, is_compatible, explanation; without a server the last ones are null.
    """
    carry_out(run, VersionOptions(server), Printer(is_json=json, is_quiet=quiet))


async def run(options: VersionOptions, services: Services, printer: Printer) -> None:
    """Ask the server, if there is one, and print both versions."""
    from icehouse.client.compatibility import compare_versions
    from icehouse.client.logins import Login, parse_server_url

    ours = __version__
    if options.server is not None:
        login = Login(parse_server_url(options.server))
    else:
        try:
            login = services.default_login()
        except NotFound:
            login = None
    if login is None:
        data = {"client": ours, "server_url": None, "server": None, "is_compatible": None, "explanation": None}
        printer.result(f"client  {ours}\nserver  none is logged in to", data)
        return
    async with services.server(login) as server:
        theirs = (await server.parameters()).version
    fault = compare_versions(ours, theirs)
    explanation = fault or "they understand each other"
    data = {
        "client": ours,
        "server_url": login.url,
        "server": theirs,
        "is_compatible": fault is None,
        "explanation": explanation,
    }
    printer.result(f"client  {ours}\nserver  {theirs}, {login.url}\n{explanation}", data)
