"""``icehouse doctor``: look for what keeps pushing and pulling from working."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.exits import exit_code_of
from icehouse.cli.path import find_path
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.client.doctor import Finding, Findings, Surroundings
    from icehouse.client.logins import CacheAddress, Login

_MARKS: Final = {"ok": "✓", "note": "•", "problem": "✗"}


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """The path to look for; `None`: look at everything else."""

    path: str | None = None


def doctor(
    path: Annotated[
        str | None, typer.Argument(help="A store path, or a link to one, to look for in the caches.")
    ] = None,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Look for what keeps pushing and pulling from working, and tell what mends it.

    Without PATH: the installation, the login, its token and server, the clock, and what Nix is told of each cache in
    use, and the daemon. With PATH: where it is and why not elsewhere. Leaves with the code of the worst finding; notes
    do no harm.
    """
    carry_out(run, DoctorOptions(path), Printer(is_json=json, is_quiet=quiet))


async def run(options: DoctorOptions, services: Services, printer: Printer) -> None:
    """Look at everything, tell what was found, and leave with the code of the worst."""
    from icehouse.client.doctor import (
        Findings,
        check_configuration,
        check_daemon,
        check_installation,
        check_login,
        check_path,
    )

    found = Findings()
    surroundings = _surroundings(services)
    login = _default_login(services)
    if options.path is None:
        check_installation(found, surroundings)
        await check_login(found, surroundings, login)
        await check_configuration(found, surroundings, services.logins())
        await check_daemon(found, surroundings)
    else:
        await check_path(found, surroundings, find_path(options.path, services), await _caches(found, services, login))
    shown = [finding for finding in found.findings if not (printer.is_quiet and finding.level.value == "ok")]
    printer.result(render(shown), {"findings": found.findings})
    if found.errors:
        raise typer.Exit(max(exit_code_of(error) for error in found.errors))


def render(findings: "Sequence[Finding]") -> str:
    """The findings, for people."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level.value]} {finding.about}: {finding.text}")
        if finding.remedy is not None:
            lines.append(f"  → {finding.remedy}")
    return "\n".join(lines)


def _surroundings(services: Services) -> "Surroundings":
    from icehouse.cli.use import find_place
    from icehouse.client.daemon_places import DaemonPlaces
    from icehouse.client.doctor import Surroundings
    from icehouse.client.nix_places import Mode

    places = (find_place(Mode.USER_NIXCONF, services), find_place(Mode.ROOT_NIXCONF, services))
    daemon = DaemonPlaces.locate(None, services.environment)
    return Surroundings(services.environment, services.logins_file, places, daemon)


def _default_login(services: Services) -> "Login | None":
    try:
        return services.default_login()
    except NotFound:
        return None


async def _caches(found: "Findings", services: Services, login: "Login | None") -> "list[CacheAddress]":
    """Those in use, or if there are none, those of the server that is logged in to."""
    from icehouse.client.logins import CacheAddress
    from icehouse.client.nix_configuration import OwnFile
    from icehouse.client.private_files import read_text

    addresses: list[CacheAddress] = []
    for place in _surroundings(services).places:
        text = read_text(place.own_file)
        if text is not None:
            addresses += [services.find_cache(cache.url) for cache in OwnFile.parse(place.own_file, text).caches]
    if not addresses and login is not None:
        async with services.server(login) as server:
            addresses = [CacheAddress(login, cache.name) for cache in await server.list_caches()]
    if not addresses:
        found.problem("caches", NotFound("no cache is in use here, and no server logged in to"), "icehouse use CACHE")
    return addresses
