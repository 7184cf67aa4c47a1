"""``icehouse hook``: have Nix tell the daemon what it built."""

import os
import pwd
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.cli.use import DAEMON_SOCKET, find_place, may_be_there
from icehouse.client.nix_places import Mode
from icehouse.errors import Conflict, Denied

if TYPE_CHECKING:
    from icehouse.client.nix_places import NixPlace

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Have Nix tell the daemon what it built."
)


class HookMode(StrEnum):
    """Whose Nix runs the hook."""

    ROOT_NIXCONF = "root-nixconf"
    USER_NIXCONF = "user-nixconf"


class HookSnippet(StrEnum):
    """What to print instead."""

    NIX_CONF = "nix.conf"
    NIXOS = "nixos"
    SCRIPT = "script"


ModeOption = Annotated[
    HookMode,
    typer.Option(help="Whose Nix: everybody's on this machine, which only root may set, or that of a store of yours."),
]


@dataclass(frozen=True, slots=True)
class HookOptions:
    """Where the hook goes."""

    mode: HookMode
    spool: Path | None = None
    daemon_user: str | None = None
    snippet: HookSnippet | None = None


@app.command(epilog=EXIT_CODES_HELP)
def install(
    *,
    mode: ModeOption = HookMode.ROOT_NIXCONF,
    daemon_user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who runs the daemon. You, unless told otherwise.")
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the hook tells of builds: /var/spool/icehouse, or for you alone."),
    ] = None,
    snippet: Annotated[
        HookSnippet | None, typer.Option("--print", help="Change nothing, and print what to add to that.")
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Have Nix run a script after each build that names what was built in a folder, for the daemon.

    The script is for sh, takes some milliseconds, and never fails a build. The line of nix.conf is in a file of ours
    that nix.conf includes, as for `icehouse use`.
    """
    options = HookOptions(mode, spool, daemon_user, snippet)
    carry_out(run_install, options, Printer(is_json=json, is_quiet=quiet))


@app.command(epilog=EXIT_CODES_HELP)
def remove(*, mode: ModeOption = HookMode.ROOT_NIXCONF, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Have Nix run the script no more: what `icehouse hook install` wrote is taken back.

    The folder stays, since what is in it may not have been pushed yet.
    """
    carry_out(run_remove, HookOptions(mode), Printer(is_json=json, is_quiet=quiet))


async def run_install(options: HookOptions, services: Services, printer: Printer) -> None:
    """Write the script and the line, or print them."""
    from icehouse.client.hook_script import SCRIPT_NAME, render_hook
    from icehouse.client.nix_configuration import OwnFile, add_include, find_other_hook
    from icehouse.client.nix_places import is_generated
    from icehouse.client.private_files import read_text, write_text
    from icehouse.client.spool import make_spool

    spool = _spool(options, services)
    script = render_hook(spool)
    if options.snippet is not None:
        _print(options, script, services, printer)
        return
    place = _place(options, services)
    file = place.nix_conf.with_name(SCRIPT_NAME)
    if is_generated(place.nix_conf):
        raise Conflict(
            f"{place.nix_conf} is made by a program and cannot be changed; `icehouse hook install --print nixos` tells "
            "what to add to its configuration"
        )
    before, own_before = read_text(place.nix_conf), read_text(place.own_file)
    own = OwnFile() if own_before is None else OwnFile.parse(place.own_file, own_before)
    if before is None:
        own = own.with_made(place.nix_conf)
    user = pwd.getpwuid(os.geteuid()) if options.daemon_user is None else _find_user(options.daemon_user)
    make_spool(spool, daemon_user=user.pw_uid, daemon_group=user.pw_gid)
    if read_text(file) != script:
        write_text(file, script, mode=0o755)
    if (other := find_other_hook(before or "", file)) is not None:
        printer.message(
            f"{place.nix_conf} sets a post-build-hook already, {other}, and Nix runs one only: call {file} from it."
        )
    else:
        if (rendered := own.with_hook(file).render()) != own_before:
            write_text(place.own_file, rendered, mode=0o644)
        if (after := add_include(before or "")) != before:
            write_text(place.nix_conf, after, mode=0o644)
        _explain(place, printer)
    printer.result(
        f"{file} tells {spool} what was built, for the daemon of {user.pw_name}.",
        {"script": str(file), "spool": str(spool), "daemon_user": user.pw_name, "own_file": str(place.own_file)},
    )


async def run_remove(options: HookOptions, services: Services, printer: Printer) -> None:
    """Take the line and the script back."""
    from icehouse.cli.remove import write_own_file
    from icehouse.client.hook_script import SCRIPT_NAME
    from icehouse.client.nix_configuration import OwnFile
    from icehouse.client.private_files import read_text

    place = _place(options, services)
    own_text = read_text(place.own_file)
    own = OwnFile() if own_text is None else OwnFile.parse(place.own_file, own_text)
    file = place.nix_conf.with_name(SCRIPT_NAME)
    if own.hook is None and not file.exists():
        raise Conflict(f"no hook is installed here: {file} is not there")
    if own.hook is not None:
        write_own_file(place, own.with_hook(None))
        _explain(place, printer)
    file.unlink(missing_ok=True)
    printer.result(f"{file} removed.", {"script": str(file)})


def _place(options: HookOptions, services: Services) -> "NixPlace":
    place = find_place(Mode(options.mode.value), services)
    folder = place.nix_conf.parent
    while not folder.exists():
        folder = folder.parent
    if place.is_system and not os.access(folder, os.W_OK):
        raise Denied(
            f"{place.nix_conf} is for root to change: run this with sudo, and with --daemon-user {_me()} if the daemon "
            "is to be yours; or, for a store of your own, give --mode user-nixconf"
        )
    return place


def _spool(options: HookOptions, services: Services) -> Path:
    from icehouse.client.daemon_places import DaemonPlaces
    from icehouse.client.spool import SYSTEM_SPOOL

    if options.spool is not None:
        return options.spool.absolute()
    if options.mode is HookMode.ROOT_NIXCONF:
        return SYSTEM_SPOOL
    return DaemonPlaces.locate(None, services.environment).spool


def _print(options: HookOptions, script: str, services: Services, printer: Printer) -> None:
    from icehouse.client.hook_script import SCRIPT_NAME

    spool = _spool(options, services)
    match options.snippet:
        case HookSnippet.NIX_CONF:
            place = find_place(Mode(options.mode.value), services)
            text = f"post-build-hook = {place.nix_conf.with_name(SCRIPT_NAME)}"
        case HookSnippet.NIXOS:
            escaped = script.replace("''", "'''").replace("${", "''${")
            body = "".join(f"    {line}\n" for line in escaped.splitlines())
            text = (
                f"nix.settings.post-build-hook = pkgs.writeScript \"{SCRIPT_NAME}\" ''\n{body}  '';\n"
                "systemd.tmpfiles.rules = [\n"
                f'  "d {spool} 0755 root root"\n'
                f'  "d {spool / "tmp"} 0700 root root"\n'
                f'  "d {spool / "new"} 0700 {options.daemon_user or "root"} root"\n];'
            )
        case _:
            text = script.rstrip("\n")
    printer.result(text, {"text": text})


def _find_user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise Conflict(f"there is no user {name} on this machine; who is to run the daemon?") from error


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _explain(place: "NixPlace", printer: Printer) -> None:
    if place.is_system and may_be_there(DAEMON_SOCKET):
        printer.message("The Nix daemon reads its configuration when it starts: systemctl restart nix-daemon")
    elif not place.is_system and may_be_there(DAEMON_SOCKET):
        printer.message("A Nix daemon runs here: it heeds this hook only from users that its trusted-users name.")
