"""``icehouse remove``: let Nix no longer pull from caches."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.cli.use import DAEMON_SOCKET, CachesArgument, ModeOption, NixosFolderOption, find_place, may_be_there
from icehouse.client.nix_places import Mode
from icehouse.errors import Conflict

if TYPE_CHECKING:
    from icehouse.client.nix_configuration import OwnFile
    from icehouse.client.nix_places import NixPlace
    from icehouse.nix.used_caches import UsedCache

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class RemoveOptions:
    """The caches that are not wanted any more."""

    caches: tuple[str, ...]
    mode: Mode = Mode.USER_NIXCONF
    nixos_folder: Path = Path("/etc/nixos")


@app.command(epilog=EXIT_CODES_HELP)
def remove(
    caches: CachesArgument,
    *,
    mode: ModeOption = Mode.USER_NIXCONF,
    nixos_folder: NixosFolderOption = Path("/etc/nixos"),
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Let Nix no longer pull from caches: what `icehouse use` wrote is taken back.

    Needs no server. With the last cache, nix.conf and netrc are as they were before the first.
    """
    options = RemoveOptions(tuple(dict.fromkeys(caches)), mode, nixos_folder)
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: RemoveOptions, services: Services, printer: Printer) -> None:
    """Take the caches out of the files."""
    if options.mode is Mode.NIXOS:
        _remove_modules(options, printer)
        return
    place = find_place(options.mode, services)
    removed = _remove(place, options.caches, services, printer)
    if place.is_system and may_be_there(DAEMON_SOCKET):
        printer.message("The Nix daemon reads its configuration when it starts: systemctl restart nix-daemon")
    printer.result(
        f"{' and '.join(cache.url for cache in removed)} removed from {place.own_file}.",
        {"removed": [cache.url for cache in removed], "nix_conf": str(place.nix_conf)},
    )


def _remove(place: "NixPlace", texts: tuple[str, ...], services: Services, printer: Printer) -> "list[UsedCache]":
    from icehouse.client.nix_configuration import OwnFile, find_netrc_file, find_used, lines_that_name
    from icehouse.client.private_files import read_text

    own_text = read_text(place.own_file)
    if own_text is None:
        raise Conflict(f"no cache is in use here: {place.own_file} is not there")
    before = OwnFile.parse(place.own_file, own_text)
    default_server = services.logins().default
    after = before
    removed: list[UsedCache] = []
    for text in texts:
        cache = find_used(before.caches, text, default_server)
        after = after.without(cache)
        removed.append(cache)
    nix_conf = read_text(place.nix_conf) or ""
    for cache in removed:
        for number in lines_that_name(nix_conf, cache.url):
            printer.message(f"{place.nix_conf} line {number} names {cache.url} too; it is not ours, and stays.")
    netrc_file = find_netrc_file(nix_conf) or place.netrc
    _clean_netrc(netrc_file, removed, after)
    write_own_file(place, after)
    return removed


def _clean_netrc(file: Path, removed: "list[UsedCache]", after: "OwnFile") -> None:
    from icehouse.client.netrc import remove_from_netrc
    from icehouse.client.private_files import replace_text

    needed = {urlsplit(cache.url).hostname for cache in after.caches if not cache.is_public}
    for cache in removed:
        host = urlsplit(cache.url).hostname or ""
        if not cache.is_public and host not in needed:
            replace_text(file, lambda text, host=host: remove_from_netrc(text, host), is_ours=file in after.made)


def write_own_file(place: "NixPlace", after: "OwnFile") -> None:
    """The file of ours goes last: it knows what else is ours, should this be interrupted."""
    from icehouse.client.nix_configuration import remove_include
    from icehouse.client.private_files import replace_text, write_text

    if after.caches or after.hook is not None:
        write_text(place.own_file, after.render(), mode=0o644)
        return
    replace_text(place.nix_conf, remove_include, is_ours=place.nix_conf in after.made)
    place.own_file.unlink()


def _remove_modules(options: RemoveOptions, printer: Printer) -> None:
    from icehouse.client.nixos_modules import find_module

    files = [find_module(options.nixos_folder, text) for text in options.caches]
    for file in files:
        file.unlink()
    printer.message("Run nixos-rebuild switch.")
    printer.result(f"Removed {' and '.join(str(file) for file in files)}.", {"removed": [str(file) for file in files]})
