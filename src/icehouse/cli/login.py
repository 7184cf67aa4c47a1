"""``icehouse login``: remember a server and the token for it."""

import getpass
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat, NotFound

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """A server's address, and where its token comes from; with neither, the server is used without one."""

    url: str
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None


@app.command(epilog=EXIT_CODES_HELP)
def login(
    url: Annotated[str, typer.Argument(help="The server's address, such as https://cache.example.org.")],
    token: Annotated[
        str | None, typer.Option(help="The token. Other users of this machine can see it; prefer --token-file.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds the token; - for standard input.", allow_dash=True)
    ] = None,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Remember a server and the token for it.

    Both are kept in ~/.config/icehouse/config.toml, which only you may read. The variables ICEHOUSE_URL and
    ICEHOUSE_TOKEN win over it. On a terminal, the token is asked for where no option gives it,
    and the page that makes tokens is told, and opened where there is a screen. Without one, the token
    that is remembered for this server stays.
    """
    if token is not None and token_file is not None:
        raise typer.BadParameter("give --token or --token-file, not both")
    if token is None and token_file is None and sys.stdin.isatty() and sys.stderr.isatty():
        _show_where_tokens_are_made(url)
        token = getpass.getpass("Token (empty: none, or the remembered one): ", stream=sys.stderr) or None
    carry_out(run, LoginOptions(url, token, token_file), Printer(is_json=json, is_quiet=quiet))


def _show_where_tokens_are_made(url: str) -> None:
    """Tell, and open where there is a screen, the page that makes tokens."""
    import webbrowser

    from icehouse.client.logins import parse_server_url

    try:
        page = f"{parse_server_url(url)}/ui/tokens/new"
    except InvalidFormat:
        return  # The command tells what is wrong.
    typer.echo(f"Tokens are made at {page}", err=True)
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(page)


async def run(options: LoginOptions, services: Services, printer: Printer) -> None:
    """Check the server and the token, then remember them."""
    from icehouse.client.logins import Login, parse_server_url, parse_token

    text = options.token if options.token_file is None else _read_token(options.token_file, services)
    url = parse_server_url(options.url)
    remembered = services.logins().tokens.get(url) if text is None else None
    login = Login(url, remembered if text is None else parse_token(text, _place(options)))
    async with services.server(login) as server:
        parameters = await server.parameters()
        caches = await server.list_caches()
    services.logins().added(login).write(services.logins_file)
    if remembered is not None:
        printer.message("No token was given: the one that was remembered for this server is kept.")
    elif login.token is None:
        printer.message("No token was given: public caches can be read, and nothing can be pushed.")
    elif login.url.startswith("http://") and "//127." not in login.url and "//localhost" not in login.url:
        printer.message("The token will travel unencrypted: use https for servers on other machines.")
    printer.result(
        f"Logged in to {login.url} (Icehouse {parameters.version}, {len(caches)} caches).",
        {"url": login.url, "version": parameters.version, "caches": [cache.name for cache in caches]},
    )


def _place(options: LoginOptions) -> str:
    return "the token" if options.token_file is None else f"the token in {options.token_file}"


def _read_token(file: Path, services: Services) -> str:
    from icehouse.client.private_files import read_text

    text = services.stdin.read(4096) if str(file) == "-" else read_text(file)
    if text is None:
        raise NotFound(f"{file} is not there; it should hold the token")
    if not text.strip():
        raise InvalidFormat(f"{file} is empty; it should hold the token")
    return text
