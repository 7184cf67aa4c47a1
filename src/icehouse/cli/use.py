"""``icehouse use``: let Nix pull from caches."""

import grp
import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from icehouse.cli.completion import complete_caches
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.client.nix_places import Mode
from icehouse.errors import Conflict, Unavailable, Unsupported
from icehouse.nix.snippets import Snippet

if TYPE_CHECKING:
    from icehouse.api.caches import CacheView
    from icehouse.client.logins import CacheAddress
    from icehouse.client.nix_configuration import OwnFile
    from icehouse.client.nix_places import NixPlace
    from icehouse.nix.used_caches import UsedCache

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DAEMON_SOCKET: Final = Path("/nix/var/nix/daemon-socket/socket")

CachesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CACHE…",
        help="Names of caches on the logged-in server, or their whole URLs.",
        autocompletion=complete_caches,
    ),
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        help="Whose Nix: yours (~/.config/nix/nix.conf), everybody's on this machine (/etc/nix/nix.conf), or NixOS's "
        "configuration, which gets a module."
    ),
]
NixosFolderOption = Annotated[
    Path, typer.Option(metavar="DIR", help="With --mode nixos: the folder of the machine's configuration.")
]


@dataclass(frozen=True, slots=True)
class UseOptions:
    """The caches to pull from; with *snippet* nothing is written."""

    caches: tuple[str, ...]
    mode: Mode = Mode.USER_NIXCONF
    nixos_folder: Path = Path("/etc/nixos")
    snippet: Snippet | None = None


@app.command(epilog=EXIT_CODES_HELP)
def use(
    caches: CachesArgument,
    *,
    mode: ModeOption = Mode.USER_NIXCONF,
    nixos_folder: NixosFolderOption = Path("/etc/nixos"),
    print_: Annotated[
        Snippet | None, typer.Option("--print", help="Print what is to be added in this form, and write nothing.")
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Let Nix pull from caches.

    Their addresses and keys go into icehouse.conf beside nix.conf, which gets one line that includes it; all other
    lines stay as they are, and `icehouse remove` takes everything back. For a private cache, a token goes into a netrc
    file, which only you may read: your own if it may only pull, else a new one that may only pull, if yours may make
    one. A public cache needs no login.
    """
    options = UseOptions(tuple(dict.fromkeys(caches)), mode, nixos_folder, print_)
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: UseOptions, services: Services, printer: Printer) -> None:
    """Write, or print, what Nix must know."""
    addresses = [services.find_cache(text) for text in options.caches]
    views = [await _show(address, services) for address in addresses]
    for view in views:
        if view.staging_of is not None:
            printer.message(
                f"{view.name} is a staging of {view.staging_of}: whoever may push there, such as any pull request, "
                "decides what your machine runs. Use it on machines that build those only."
            )
    caches = [_used(view) for view in views]
    found = list(zip(addresses, caches, strict=True))
    if options.snippet is not None:
        _print(options.snippet, caches, services, printer)
    elif options.mode is Mode.NIXOS:
        await _write_modules(options.nixos_folder, found, services, printer)
    else:
        place = find_place(options.mode, services)
        data = await _write(place, found, printer)
        _explain(place, caches, services, printer)
        is_checked = _check(place, caches, services, printer)
        urls = " and ".join(cache.url for cache in caches)
        verb = "added to" if data["changed"] else "in use already by"
        asked = " Nix was asked, and can pull." if is_checked else ""
        printer.result(
            f"{urls} {verb} {place.own_file}, which {place.nix_conf} includes.{asked}", data | {"checked": is_checked}
        )


async def _show(address: "CacheAddress", services: Services) -> "CacheView":
    async with services.server(address.login) as server:
        return await server.show_cache(address.name)


def _used(view: "CacheView") -> "UsedCache":
    from icehouse.nix.used_caches import parse_used_cache

    return parse_used_cache(view.url, view.public_keys, is_public=view.is_public)


def find_place(mode: Mode, services: Services) -> "NixPlace":
    """The files of that configuration."""
    from icehouse.client.nix_places import system_place, user_place
    from icehouse.client.private_files import read_text

    if mode is Mode.USER_NIXCONF:
        return user_place(services.environment)
    return system_place(services.environment, read_text(system_place(services.environment).nix_conf))


def _print(form: Snippet, caches: "Sequence[UsedCache]", services: Services, printer: Printer) -> None:
    from icehouse.client.nix_places import system_place, user_place
    from icehouse.nix.snippets import netrc_lines, render_snippet

    is_private = not all(cache.is_public for cache in caches)
    place = system_place(services.environment) if form is Snippet.NIXOS else user_place(services.environment)
    text = render_snippet(form, caches, str(place.netrc) if is_private else None)
    if is_private:
        heading = f"# {place.netrc}, with mode 0600, and not by way of the Nix store:"
        text += "\n".join(["", heading, *netrc_lines(caches), ""])
    printer.result(text.rstrip("\n"), {"text": text, "caches": _data(caches)})


async def _write(
    place: "NixPlace", found: "Sequence[tuple[CacheAddress, UsedCache]]", printer: Printer
) -> dict[str, Any]:
    from icehouse.client.nix_configuration import OwnFile, add_include, check_no_namesake, find_netrc_file
    from icehouse.client.nix_places import is_generated
    from icehouse.client.private_files import read_text, write_text

    before = read_text(place.nix_conf)
    own_before = read_text(place.own_file)
    text = before or ""
    if is_generated(place.nix_conf):
        other = "nixos` or `--mode nixos" if place.is_system else "home-manager"
        raise Conflict(
            f"{place.nix_conf} is made by a program and cannot be changed; `icehouse use … --print {other}` tells what "
            "to add to its configuration"
        )
    own = OwnFile() if own_before is None else OwnFile.parse(place.own_file, own_before)
    for _, cache in found:  # a conflict is found before anything changes
        check_no_namesake(place.nix_conf, text, cache.public_keys)
        check_no_namesake(place.own_file, own.without(cache).render(), cache.public_keys)
        own = own.with_cache(cache)
    if before is None:
        own = own.with_made(place.nix_conf)
    netrc_file: Path | None = None
    changed = False
    if not all(cache.is_public for _, cache in found):
        netrc_file = find_netrc_file(text) or place.netrc
        if not place.is_system and find_netrc_file(text) is None:
            own = _with_netrc_setting(own, netrc_file, printer)
        if read_text(netrc_file) is None:
            own = own.with_made(netrc_file)
        changed = await _write_netrc(netrc_file, found, printer)
    after = add_include(text)
    if (rendered := own.render()) != own_before:
        write_text(place.own_file, rendered, mode=0o644)
    if after != before:
        write_text(place.nix_conf, after, mode=0o644)
    return {
        "caches": _data([cache for _, cache in found]),
        "nix_conf": str(place.nix_conf),
        "own_file": str(place.own_file),
        "netrc": None if netrc_file is None else str(netrc_file),
        "changed": changed or rendered != own_before or after != before,
    }


def _with_netrc_setting(own: "OwnFile", netrc_file: Path, printer: Printer) -> "OwnFile":
    from dataclasses import replace

    from icehouse.client.nix_places import system_place

    system_netrc = system_place({}).netrc
    if own.netrc_file is None and may_be_there(system_netrc):
        printer.message(f"Your Nix reads {netrc_file} from now on, and {system_netrc} no longer.")
    return replace(own, netrc_file=netrc_file)


async def _write_netrc(file: Path, found: "Sequence[tuple[CacheAddress, UsedCache]]", printer: Printer) -> bool:
    from icehouse.client.netrc import find_netrc_token, merge_netrc
    from icehouse.client.nix_places import is_generated
    from icehouse.client.private_files import read_text, write_text
    from icehouse.client.pull_token import choose_pull_token

    if is_generated(file):
        raise Conflict(f"{file}, which nix.conf names for passwords, lies in the store and cannot be changed")
    before = read_text(file)
    netrc = before or ""
    for _, cache in found:
        merge_netrc(netrc, cache.host, "")  # a conflict is found before a token is made
    for address, cache in found:
        if cache.is_public:
            continue
        host = cache.host
        chosen = await choose_pull_token(address, find_netrc_token(netrc, host))
        netrc = merge_netrc(netrc, host, chosen.token)
        if chosen.remark:
            printer.message(chosen.remark)
    if netrc == before:
        return False
    write_text(file, netrc)
    return True


async def _write_modules(
    folder: Path, found: "Sequence[tuple[CacheAddress, UsedCache]]", services: Services, printer: Printer
) -> None:
    from icehouse.client.nix_places import system_place
    from icehouse.client.nixos_modules import INDEX_NAME, plan_module
    from icehouse.client.private_files import read_text, write_text

    caches = [cache for _, cache in found]
    netrc_file = None if all(cache.is_public for cache in caches) else system_place(services.environment).netrc
    changed = netrc_file is not None and await _write_netrc(netrc_file, found, printer)
    for cache in caches:
        for file, text in plan_module(folder, cache, None if cache.is_public else netrc_file).items():
            if read_text(file) != text:
                write_text(file, text, mode=0o644)
                changed = True
    printer.message(
        f"Add ./{INDEX_NAME} to the imports of {folder / 'configuration.nix'}, and run nixos-rebuild switch."
    )
    printer.result(
        f"{' and '.join(cache.url for cache in caches)} written as modules into {folder / 'icehouse'}.",
        {"caches": _data(caches), "folder": str(folder), "changed": changed},
    )


def _explain(place: "NixPlace", caches: "Sequence[UsedCache]", services: Services, printer: Printer) -> None:
    """Tell of what is right in the files and still would not work."""
    from icehouse.client.nix_places import system_place
    from icehouse.client.nix_settings import explain_distrust, is_trusted, read_settings

    if may_be_there(DAEMON_SOCKET):
        if place.is_system:
            printer.message("The Nix daemon reads its configuration when it starts: systemctl restart nix-daemon")
        elif os.geteuid() != 0:
            try:
                system = read_settings(services.environment, is_system_only=True)
            except (Unsupported, Unavailable):
                return  # told by the check
            user, groups = _who()
            told = explain_distrust(system, caches, system_place(services.environment).nix_conf)
            if told is not None and not is_trusted(system.trusted_users, user, groups):
                printer.message(told)
    printer.message("Nix remembers for an hour that a path was not to be had; what it just missed may need that long.")


def _check(place: "NixPlace", caches: "Sequence[UsedCache]", services: Services, printer: Printer) -> bool:
    """Let the user's own Nix say what it makes of all this.

    Raises:
        Conflict: its settings lack a cache or a key.
        Unavailable: it cannot open a cache.
    """
    from icehouse.client.nix_settings import ask_cache, read_settings

    try:
        settings = read_settings(services.environment)
    except Unsupported as exc:
        printer.message(f"Not checked: {exc}.")
        return False
    for cache in caches:
        lacking = [key for key in cache.public_keys if key not in settings.trusted_public_keys]
        if cache.url not in settings.substituters or lacking:
            absent = lacking[0] if lacking else cache.url
            raise Conflict(
                f"written into {place.own_file}, but Nix does not have {absent} among its settings: a later "
                "line of nix.conf, $NIX_CONFIG or another file sets the whole list; see `nix show-config`"
            )
        ask_cache(cache.url, services.environment)
    return True


def _who() -> tuple[str, set[str]]:
    user = pwd.getpwuid(os.geteuid())
    groups = {entry.gr_name for entry in grp.getgrall() if user.pw_name in entry.gr_mem}
    return user.pw_name, groups | {grp.getgrgid(user.pw_gid).gr_name}


def may_be_there(path: Path) -> bool:
    """Whether there is such a file. One in a folder that is closed to us counts: Debian closes the daemon's to many."""
    try:
        return path.exists()
    except PermissionError:
        return True


def _data(caches: "Sequence[UsedCache]") -> list[Mapping[str, object]]:
    return [{"url": cache.url, "public_keys": list(cache.public_keys)} for cache in caches]
