"""``icehouse serve``: run a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.exits import WRONG_USAGE, exit_code_of
from icehouse.cli.printer import Printer
from icehouse.errors import InvalidFormat

if TYPE_CHECKING:
    from icehouse.config import ServerSettings
    from icehouse.wiring import Listening


def serve(  # noqa: PLR0913  each is an option of the command
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.", show_default="8080")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", show_default="./icehouse-data")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="Address under which clients reach the server, behind a proxy.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None, typer.Option(help="Address or network of a proxy to believe. May be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that answer requests.", show_default="1")] = None,
    max_nar_bytes: Annotated[
        str | None, typer.Option(help="Largest NAR to accept, for instance 10GiB.", show_default="64GiB")
    ] = None,
    zstd_level: Annotated[
        int | None, typer.Option(help="Level that clients compress at, 1 to 19.", show_default="3")
    ] = None,
    collect_seconds: Annotated[
        str | None, typer.Option(metavar="SEC", help="How often to collect; 0: never by itself.", show_default="6h")
    ] = None,
    keep_backups: Annotated[
        int | None,
        typer.Option(metavar="N", help="Daily backups of the database to keep; 0: make none.", show_default="7"),
    ] = None,
    verify_speed: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="How fast to read everything back, for ever; 0: never.", show_default="1MiB"),
    ] = None,
    download_days: Annotated[
        int | None,
        typer.Option(metavar="N", help="Days to remember who downloaded what; 0: do not note it.", show_default="30"),
    ] = None,
    requests_per_second: Annotated[
        int | None,
        typer.Option(metavar="N", help="API requests for each token and address; 0: any.", show_default="200"),
    ] = None,
    failed_logins_per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", help="Wrong credentials from each address; 0: any.", show_default="60"),
    ] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Provider by which people log into the web page.")
    ] = None,
    oidc_client_id: Annotated[str | None, typer.Option(metavar="ID", help="This server's name there.")] = None,
    oidc_client_secret_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the secret that the provider gave.")
    ] = None,
    oidc_scopes: Annotated[
        str | None, typer.Option(metavar="SCOPES", help="What to ask for.", show_default="openid profile email")
    ] = None,
    oidc_groups_claim: Annotated[
        str | None, typer.Option(metavar="CLAIM", help="Claim that has a person's groups.", show_default="groups")
    ] = None,
    oidc_role: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="GROUP=PERMISSIONS:PATTERN. May be repeated.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
    log_format: Annotated[
        str | None, typer.Option(help="console, json, or auto: console on a terminal.", show_default="auto")
    ] = None,
) -> None:
    """Run a server. Prints its address and, at the first start, an administrator's token.

    Every option is also a variable ($ICEHOUSE_PORT) and a key in icehouse.toml in the data folder (port = 8080).
    Ends on SIGTERM or Ctrl-C.
    """
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "public_url": public_url,
        "trusted_proxies": trusted_proxy or None,
        "workers": workers,
        "max_nar_bytes": max_nar_bytes,
        "zstd_level": zstd_level,
        "collect_seconds": collect_seconds,
        "keep_backups": keep_backups,
        "verify_speed": verify_speed,
        "download_days": download_days,
        "requests_per_second": requests_per_second,
        "failed_logins_per_minute": failed_logins_per_minute,
        "oidc_issuer": oidc_issuer,
        "oidc_client_id": oidc_client_id,
        "oidc_client_secret_file": oidc_client_secret_file,
        "oidc_scopes": oidc_scopes,
        "oidc_groups_claim": oidc_groups_claim,
        "oidc_roles": oidc_role or None,
        "log_level": log_level,
        "log_format": log_format,
    }
    run(_load(flags))


def run(settings: ServerSettings) -> None:
    """Serve until a signal ends it, and print where."""
    from icehouse import wiring

    wiring.serve(settings, _announce)


def _load(flags: Mapping[str, object]) -> ServerSettings:
    """The settings; or the end of the command, with a line for each fault."""
    from icehouse.config import ServerSettings

    try:
        return ServerSettings.load(flags, os.environ)
    except InvalidFormat as error:
        faults = str(error).splitlines()
        for fault in faults:
            Printer().error(InvalidFormat(fault))
        has_wrong_flag = any(fault.startswith("--") for fault in faults)
        raise typer.Exit(WRONG_USAGE if has_wrong_flag else exit_code_of(error)) from error


def _announce(listening: Listening) -> None:
    where = f", and listens on {listening.address}" if listening.url != listening.address else ""
    typer.echo(f"Icehouse serves {listening.data_dir} at {listening.url}{where}")
    if listening.first_token is not None:
        typer.echo(f"Administrator's token, shown this once: {listening.first_token}")
        typer.echo(f"To use it here: icehouse login {listening.url} --token-file {listening.data_dir / 'admin-token'}")
