"""``icehouse use``: let Nix pull from a cache."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from icehouse.cli.cache import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import Conflict

if TYPE_CHECKING:
    from icehouse.api.caches import CacheView
    from icehouse.client.logins import CacheAddress

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_SYSTEM_NETRC: Final = Path("/etc/nix/netrc")
_DAEMON_SOCKET: Final = Path("/nix/var/nix/daemon-socket/socket")


@dataclass(frozen=True, slots=True)
class UseOptions:
    """The cache to pull from; `is_printing`: nothing is written."""

    cache: str
    is_printing: bool = False


@app.command(epilog=EXIT_CODES_HELP)
def use(
    cache: CacheArgument,
    *,
    print_: Annotated[
        bool, typer.Option("--print", help="Print what is to be added to which file, and write nothing.")
    ] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Let Nix pull from a cache.

    Adds the cache's address and keys to the user's nix.conf (~/.config/nix/nix.conf); other lines stay as they are. For
    a private cache, a token goes into a netrc file beside it, which only you may read: your own if it may only pull,
    else a new one that may only pull, if yours may make one.
    """
    carry_out(run, UseOptions(cache, print_), Printer(is_json=json, is_quiet=quiet))


async def run(options: UseOptions, services: Services, printer: Printer) -> None:
    """Write, or print, what Nix must know."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        view = await server.show_cache(address.name)
    if options.is_printing:
        _print(view, services, printer)
    else:
        await _write(view, address, services, printer)


def _print(view: "CacheView", services: Services, printer: Printer) -> None:
    netrc_file = None if view.is_public else services.config_home / "nix" / "netrc"
    lines = [f"extra-substituters = {view.url}", f"extra-trusted-public-keys = {' '.join(view.public_keys)}"]
    text = ["# nix.conf", *lines]
    if netrc_file is not None:
        lines.append(f"netrc-file = {netrc_file}")
        text = ["# nix.conf", *lines, "", f"# {netrc_file}", f"machine {_host(view)} login icehouse password <token>"]
    data = {"url": view.url, "public_keys": view.public_keys, "nix_conf": lines}
    printer.result("\n".join(text), data)


async def _write(view: "CacheView", address: "CacheAddress", services: Services, printer: Printer) -> None:
    from icehouse.client.nix_configuration import add_cache, find_netrc_file
    from icehouse.client.private_files import read_text, write_text

    nix_conf = services.config_home / "nix" / "nix.conf"
    before = read_text(nix_conf) or ""
    add_cache(nix_conf, before, view.url, view.public_keys, None)  # a conflict is found before anything changes
    netrc_file: Path | None = None
    if not view.is_public:
        netrc_file = find_netrc_file(before) or nix_conf.with_name("netrc")
        if netrc_file.is_relative_to("/nix/store"):
            raise Conflict(
                f"{nix_conf} names {netrc_file}, which cannot be changed; `icehouse use --print` shows what to add"
            )
        await _write_netrc(netrc_file, _host(view), address, printer)
    after = add_cache(nix_conf, before, view.url, view.public_keys, netrc_file)
    if after != before:
        write_text(nix_conf, after, mode=0o644)
    _warn(before, netrc_file, printer)
    changed = "added to" if after != before else "is in"
    printer.result(
        f"{view.url} {changed} {nix_conf}" + ("." if netrc_file is None else f", its password to {netrc_file}."),
        {
            "url": view.url,
            "public_keys": view.public_keys,
            "nix_conf": str(nix_conf),
            "netrc": None if netrc_file is None else str(netrc_file),
            "changed": after != before,
        },
    )


async def _write_netrc(file: Path, host: str, address: "CacheAddress", printer: Printer) -> None:
    from icehouse.client.nix_configuration import find_netrc_token, merge_netrc
    from icehouse.client.private_files import read_text, write_text
    from icehouse.client.pull_token import choose_pull_token

    netrc = read_text(file) or ""
    merge_netrc(netrc, host, "")  # a conflict is found before a token is made
    chosen = await choose_pull_token(address, find_netrc_token(netrc, host))
    merged = merge_netrc(netrc, host, chosen.token)
    if merged != netrc:
        write_text(file, merged)
    if chosen.remark:
        printer.message(chosen.remark)


def _warn(before: str, netrc_file: Path | None, printer: Printer) -> None:
    """Tell of what is right in the files and still would not work."""
    from icehouse.client.nix_configuration import find_netrc_file

    if netrc_file is not None and find_netrc_file(before) is None and may_be_there(_SYSTEM_NETRC):
        printer.message(f"Your Nix reads {netrc_file} from now on, and {_SYSTEM_NETRC} no longer.")
    if may_be_there(_DAEMON_SOCKET) and os.geteuid() != 0:
        printer.message(
            "This Nix has a daemon. It heeds your nix.conf only if you are one of its `trusted-users`; else add the "
            "lines of `icehouse use --print` to /etc/nix/nix.conf and restart the daemon."
        )
    printer.message("Nix remembers for an hour that a path was not to be had; what it just missed may need that long.")


def may_be_there(path: Path) -> bool:
    """Whether there is such a file. One in a folder that is closed to us counts: Debian closes the daemon's to many."""
    try:
        return path.exists()
    except PermissionError:
        return True


def _host(view: "CacheView") -> str:
    """The host alone: curl finds passwords by it, whatever the port."""
    return urlsplit(view.url).hostname or ""
